"""The whole graph, as a user runs it: resumed = small_lake, second run = no work, a new source runs only what depends on it."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest

from assets.dagster_internals.event_log import open_instance
from mmret.freshness.survey import survey
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.settings import load_profile
from tests.small_runs import TINY, command, first, run

RESULT = {
    "images": ["image_id", "path"],
    "rejects": ["path", "reason"],
    "pairs": ["pair_id", "hard_negatives"],
    "descriptions": ["pair_id", "text"],
    "instructions": ["pair_id", "texts"],
    "triplets": ["pair_id", "split", "texts"],
    "neighbours": ["query_id", "signal", "target_id", "score"],
    "evaluations": ["recipe", "benchmark", "metric", "value"],
}


def tables(lake: Path) -> dict[str, list]:
    return {t: sorted(map(str, Lake(lake).read(t, columns=columns).to_pylist())) for t, columns in RESULT.items()}


def test_every_row_becomes_an_image_or_a_reject_and_every_stage_has_rows(small_lake):
    lake, summary = small_lake
    rows = summary["rows"]
    assert rows["corpus_manifest"] == rows["images"] + rows["rejects"] == 180
    assert rows["images"] == rows["clip_image"] == rows["dino_image"] == rows["caption"]
    assert rows["pairs"] == rows["descriptions"] == rows["instructions"] >= rows["triplets"] > 0
    assert {"untrained", "demo"} < set(summary["evaluations"]["held-out edits"])
    assert summary["shards"] == 2 and not summary["up_to_date"]


def test_second_run_does_no_work_and_says_so(small_lake):
    lake, _ = small_lake
    before = {p: p.stat().st_mtime_ns for p in Path(lake).rglob("*.parquet")}
    again = run(command(lake))
    assert again["up_to_date"] and not again["computed"]
    assert before == {p: p.stat().st_mtime_ns for p in Path(lake).rglob("*.parquet")}


def test_killed_runs_end_in_the_tables_of_an_uninterrupted_one(small_lake, tmp_path):
    whole, _ = small_lake
    lake = kill_and_finish(tmp_path / "lake", kills=2)
    assert tables(lake) == tables(whole)
    assert not [p for p in lake.rglob("*") if p.name.endswith((".tmp", ".work"))], "stray files"


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(small_lake, tmp_path):
    whole, _ = small_lake
    assert tables(kill_and_finish(tmp_path / "lake", kills=10)) == tables(whole)


def kill_and_finish(lake: Path, kills: int) -> Path:
    coin = random.Random(kills)
    for _ in range(kills):
        process = subprocess.Popen(first(lake), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        started = time.monotonic()
        while not (lake / "corpus_manifest").exists() and process.poll() is None and time.monotonic() - started < 60:
            time.sleep(0.05)  # imports alone take seconds; a kill should meet work
        time.sleep(coin.uniform(0, 8))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    run(first(lake))
    return lake


def test_a_second_source_runs_its_own_shards_and_what_depends_on_them(small_lake, tmp_path):
    lake = tmp_path / "lake"
    run(first(lake))
    old = ("shard-00000", "shard-00001")
    sealed = {t: {s: Lake(lake).facts(t, s) for s in old} for t in ("images", "clip_image", "candidates")}
    towers = Lake(lake).facts("towers", "all")
    grown = run(command(lake, "--images", "shapes:60?seed=9"))
    for table in ("images", "clip_image", "dino_image", "caption", "candidates"):
        assert grown["partitions_computed"][table] == ["shard-00002"], table
    assert {t: {s: Lake(lake).facts(t, s) for s in f} for t, f in sealed.items()} == sealed
    assert Lake(lake).facts("towers", "all") == towers and "towers" not in grown["computed"]
    assert grown["rows"]["images"] > 180 and "checkpoints" in grown["computed"]


def test_a_shard_that_changes_has_later_ones_looked_at_again_in_the_same_stage(monkeypatch, tmp_path):
    """Candidates of a shard are current until an earlier shard's vectors have changed under them."""
    import assets.runner.run
    from assets.runner.run import Outcome, Runner

    monkeypatch.setattr(assets.runner.run, "check_enough", lambda _: None)
    runner, launched = object.__new__(Runner), []
    runner.lake = Lake(tmp_path)
    runner.lake.shards = lambda: ["shard-00000", "shard-00001", "shard-00002"]
    runner.instance = SimpleNamespace(add_dynamic_partitions=lambda *_: None, get_dynamic_partitions=lambda _: [])
    runner.profile, runner.outcome, runner.on_stage = load_profile("demo", {"train": []}), Outcome(), lambda *_: None
    runner.launch = lambda tables, key, config=None: launched.append((tuple(tables), key))

    def stale(tables, key, now=None):
        if "candidates" not in tables:
            return []
        return {"shard-00001": ["clip_image"], "shard-00002": ["candidates"] if len(launched) > 1 else []}.get(key, [])

    runner.stale = stale
    runner.run(until="candidates")
    assert launched[1:] == [(("clip_image",), "shard-00001"), (("candidates",), "shard-00002")]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_removed_source_leaves_its_shard_empty_and_added_again_all_is_as_before(tmp_path):
    """The first shard is the one that empties: every later one is compared with it."""
    lake, store = tmp_path / "lake", Lake(tmp_path / "lake")
    run(
        command(
            lake,
            "--images",
            "shapes:60?seed=3",
            "--shard-size",
            "60",
            "--set",
            "train=[]",
            *(part for s in TINY[:2] for part in ("--set", s)),
        )
    )
    run(command(lake, "--images", "shapes:60?seed=9"))
    before = {t: store.read(t).sort_by("pair_id").select(RESULT[t]).to_pylist() for t in ("pairs", "triplets")}
    gone = run(command(lake, "--remove", "shapes:60?seed=3"))
    assert store.facts("images", "shard-00000").rows == 0 and 0 < gone["rows"]["images"] <= 60
    assert gone["rows"]["corpus_manifest"] == 120 == gone["rows"]["images"] + gone["rows"]["rejects"]
    left = set(store.read("images")["image_id"].to_pylist())
    assert all({p["query_id"], p["target_id"], *p["hard_negatives"]} <= left for p in store.read("pairs").to_pylist())
    assert all(s.state == "current" for s in survey(store, resolve(store)[0]))
    run(command(lake, "--images", "shapes:60?seed=3"))
    assert {t: store.read(t).sort_by("pair_id").select(RESULT[t]).to_pylist() for t in before} == before


def test_runs_of_an_earlier_lease_are_marked_failed_and_no_others(tmp_path, monkeypatch):
    """Whatever process ids say: that of a dead process may be anybody's, and that of a live one unknown in another container."""
    from assets.runner.run import Runner
    from mmret.lake.lease import exclusive

    lake = Lake(tmp_path / "lake")
    monkeypatch.setattr(Path, "is_dir", lambda _: pytest.fail("no process is looked for"))
    with exclusive(lake) as lease, dg.DagsterInstance.ephemeral() as instance:

        def started(parent: str | None = None, **tags: str) -> str:
            tags = {"mmret/lake": str(lake.root), "mmret/pid": str(os.getpid())} | {f"mmret/{k}": v for k, v in tags.items()}
            job = dg.JobDefinition(graph_def=dg.GraphDefinition(name="g"))
            run = instance.create_run_for_job(
                job, status=dg.DagsterRunStatus.STARTED, tags=tags, parent_run_id=parent, root_run_id=parent
            )
            return run.run_id

        before, killed, other = started(), started(lease="an earlier one"), started(lake="another")
        ours, again = started(lease=lease.id), started(lease="an earlier one", parent=killed)
        runner = object.__new__(Runner)
        runner.lease, runner.lake, runner.instance = lease, lake, instance
        runner._fail_abandoned_runs()
        failed = {
            r for r in (before, killed, other, ours, again) if instance.get_run_by_id(r).status == dg.DagsterRunStatus.FAILURE
        }
    assert failed == {before, killed}


def slots(storage, pool: str) -> tuple[set[str], set[str]]:
    """Runs that hold a place in the pool, and those that hold or wait for one."""
    info = storage.get_concurrency_info(pool)
    return {slot.run_id for slot in info.claimed_slots}, {step.run_id for step in info.pending_steps}


def test_places_in_pools_that_a_killed_run_held_or_waited_for_are_free_again_and_those_of_others_stay(tmp_path):
    from assets.runner.run import Runner
    from mmret.lake.lease import exclusive

    lake = Lake(tmp_path / "lake")
    (lake.root / ".dagster").mkdir(parents=True)
    job = dg.JobDefinition(graph_def=dg.GraphDefinition(name="g"))
    with exclusive(lake) as lease, open_instance(str(lake.root / ".dagster")) as instance:

        def run_of(status: dg.DagsterRunStatus, **tags: str) -> str:
            return instance.create_run_for_job(job, status=status, tags={f"mmret/{k}": v for k, v in tags.items()}).run_id

        ended, begun = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED
        held = {
            "marked failed before": run_of(ended, lake=str(lake.root), lease="an earlier one"),
            "killed": run_of(begun, lake=str(lake.root), lease="an earlier one"),
            "before the lake was moved": run_of(begun, lake="elsewhere", lease="an earlier one"),
            "never begun": run_of(dg.DagsterRunStatus.NOT_STARTED, lake=str(lake.root), lease="an earlier one"),
            "ours": run_of(begun, lake=str(lake.root), lease=lease.id),
            "the UI's": run_of(begun),
        }
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", len(held))
        storage.set_concurrency_slots("lake", 1)
        for run_id in held.values():
            storage.claim_concurrency_slot("gpu", run_id, "step")
        storage.claim_concurrency_slot("lake", held["ours"], "other")
        storage.claim_concurrency_slot("lake", held["killed"], "other")
        runner = object.__new__(Runner)
        runner.lease, runner.lake, runner.instance = lease, lake, instance
        runner._fail_abandoned_runs()
        left = {name for name, run_id in held.items() if not instance.get_run_by_id(run_id).is_finished}
        assert left == {"ours", "the UI's"}
        assert slots(storage, "gpu") == ({held["ours"], held["the UI's"]},) * 2
        assert slots(storage, "lake") == ({held["ours"]},) * 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--images", "no/such/folder"], "no/such/folder"), (["--set", "mine.k"], "key=value"), (["--profile", "dmeo"], "dmeo")],
)
def test_a_mistake_is_one_message_and_exit_code_2(tmp_path, arguments, said):
    done = subprocess.run(command(tmp_path / "lake", *arguments), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
