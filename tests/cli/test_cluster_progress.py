"""What a person sees of a run on a cluster: launches as they begin, those that run, and what is left at the pace so far."""

import io

import pytest
from rich.console import Console

from mmret.cli import cluster_progress
from mmret.cli.cluster_progress import ClusterProgress
from mmret.cli.graph import progress_of
from mmret.errors import UserError
from mmret.freshness.survey import survey
from tests.freshness.empty_tables import PROFILE, SHARDS, current_lake

FIRST, SECOND, _ = SHARDS
VECTORS = ["clip_image", "dino_image", "caption"]


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(cluster_progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def progress(tmp_path, clock) -> ClusterProgress:
    lake = current_lake(tmp_path / "lake")
    for shard in SHARDS:
        lake.path("clip_image", shard).unlink()
    assert any(status.state != "current" for status in survey(lake, PROFILE))
    made = ClusterProgress(lake, PROFILE, Console(file=io.StringIO(), force_terminal=False, width=200))
    made.stage(["corpus_manifest"], None, 0, 1)
    return made


def lines(progress: ClusterProgress) -> list[str]:
    return progress.console.file.getvalue().splitlines()


def test_every_launch_is_a_line_and_those_that_run_are_one_every_ten_seconds(progress, clock):
    for shard in (FIRST, SECOND):
        progress.stage(VECTORS, shard, 0, 3)
    assert [line.split("] ")[1] for line in lines(progress)[1:]] == [
        f"clip_image → dino_image → caption · {s}" for s in (FIRST, SECOND)
    ]
    progress.moved("clip_image", FIRST, 10, 40)
    assert len(lines(progress)) == 3
    clock[0] += 11
    progress.moved("clip_image", SECOND, 0, None)
    assert lines(progress)[-1].startswith(f"[11 s] clip_image {FIRST} 25 %, clip_image {SECOND}")
    progress.moved("clip_image", FIRST, 1, 1)
    clock[0] += 11
    progress.moved("dino_image", FIRST, 20, 40)
    assert lines(progress)[-1].startswith(f"[22 s] clip_image {SECOND}, dino_image {FIRST} 50 %")
    progress.ended(VECTORS, FIRST)
    clock[0] += 11
    progress.moved("clip_image", SECOND, 8, 40)
    assert FIRST not in lines(progress)[-1]


def test_the_time_left_is_the_rest_of_the_work_at_the_pace_of_the_cluster(progress, clock, monkeypatch):
    monkeypatch.setattr(cluster_progress, "_SECONDS_FOR_A_PACE", 0.01)
    progress.stage(VECTORS, FIRST, 0, 3)
    assert progress._time_left() is None
    whole = sum(part.seconds for part in progress._left_of.values())
    of_first = sum(part.seconds for (stage, shard), part in progress._left_of.items() if stage in VECTORS and shard == FIRST)
    clock[0] += 10
    progress.ended(VECTORS, FIRST)
    assert progress._time_left().seconds == pytest.approx(10 * (whole - of_first) / of_first)


def test_what_a_cluster_took_is_not_kept_for_runs_elsewhere(progress):
    with progress:
        progress.stage(VECTORS, FIRST, 0, 3)
        progress.ended(VECTORS, FIRST)
    assert not (progress._lake.scratch / "pace.json").exists()


def test_on_a_terminal_each_stage_that_runs_has_a_bar(tmp_path, clock):
    lake = current_lake(tmp_path / "lake")
    shown = ClusterProgress(lake, PROFILE, Console(file=io.StringIO(), force_terminal=True, width=200))
    with shown:
        shown.stage(["corpus_manifest"], None, 0, 1)
        shown.stage(VECTORS, FIRST, 0, 3)
        shown.moved("clip_image", FIRST, 10, 40)
        shown.moved("caption", SECOND, 3, 40)
        assert [task.description for task in shown._progress.tasks] == ["whole run", f"clip_image {FIRST}", f"caption {SECOND}"]
        shown.moved("caption", SECOND, 1, 1)
        shown.ended(VECTORS, FIRST)
        assert [task.description for task in shown._progress.tasks] == ["whole run"]


def test_where_to_compute_is_ray_and_perhaps_its_address_and_nothing_else(tmp_path):
    lake = current_lake(tmp_path / "lake")
    assert not isinstance(progress_of(lake, PROFILE, None), ClusterProgress)
    with pytest.raises(UserError, match="--on slurm: `ray`, or `ray:` and the address"):
        progress_of(lake, PROFILE, "slurm")


def test_without_the_extra_a_run_on_a_cluster_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("mmret.ray_cluster.find_spec", lambda name: None)
    with pytest.raises(UserError, match="a Ray cluster needs the extra `cluster` .ray is not installed.:"):
        progress_of(current_lake(tmp_path / "lake"), PROFILE, "ray")


def test_the_address_is_all_that_stands_behind_the_first_colon(tmp_path, monkeypatch):
    monkeypatch.setattr("mmret.ray_cluster.find_spec", lambda name: object())
    lake = current_lake(tmp_path / "lake")
    assert progress_of(lake, PROFILE, "ray").address is None
    assert progress_of(lake, PROFILE, "ray:http://head:8265").address == "http://head:8265"
