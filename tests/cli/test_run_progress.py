"""What a person sees while `mmret run` works: a line of the whole run beside the running loop, lines with the time left elsewhere;
what the run took is kept where it ended well; what there is to do is what the survey of the lake says."""

import io
import re

import pytest
from rich.console import Console

from mmret.cli import run_progress
from mmret.cli.run_progress import RunProgress, read_paces
from mmret.cli.run_work import Work
from mmret.lake import Lake
from mmret.settings import load_profile
from tests.freshness.empty_tables import PROFILE, SHARDS, current_lake

SERVER = {"annotate.backend": "openai", "annotate.vision": {"model": "a-model"}}


@pytest.fixture
def lake(tmp_path) -> Lake:
    """Current, but for the first shard's pairs, which are to be chosen again."""
    made = current_lake(tmp_path / "lake")
    made.path("pairs", SHARDS[0]).unlink()
    return made


def shown(lake: Lake, terminal: bool, monkeypatch: pytest.MonkeyPatch, profile=PROFILE) -> str:
    """What is on standard error of a run whose loops are two of ``pairs`` and one of ``descriptions``."""
    monkeypatch.setattr(run_progress, "_FRESH", 0.0)
    monkeypatch.setattr(run_progress, "_EVERY", -1.0)
    out = io.StringIO()
    progress = RunProgress(lake, profile, Console(file=out, force_terminal=terminal, width=150))
    with progress:
        progress.stage(["corpus_manifest"], None, 0, 1)
        progress.advance("corpus_manifest", 7, None)
        progress.stage(["pairs", "descriptions"], SHARDS[0], 0, 1)
        progress.advance("pairs", 0, None)
        progress.advance("descriptions", 1, 40, "40 asked, 0 known")
        if terminal:
            names = [task.description for task in progress._progress.tasks]
            assert names == ["whole run", "descriptions"], "two lines, however many loops there were"
        progress.stage(["checks"], None, 0, 1)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())


def test_a_terminal_has_a_line_of_the_whole_run_and_one_of_the_loop_that_runs(lake, monkeypatch):
    text = shown(lake, True, monkeypatch)
    whole = [line for line in re.split(r"[\r\n]", text) if line.startswith("whole run")]
    assert len(whole) > 2 and re.search(r"\d+ %.*about .* left", whole[-1])
    assert not any("about" in line for line in re.split(r"[\r\n]", text) if line.startswith("descriptions"))


def test_elsewhere_each_line_has_the_time_left_of_the_whole_run(lake, monkeypatch):
    lines = shown(lake, False, monkeypatch).splitlines()
    assert [line.split("] ")[1].split(" ·")[0] for line in lines] == [
        "corpus_manifest",
        "corpus_manifest 7",
        "pairs → descriptions",
        "pairs",
        "descriptions 1/40 (2 %) 40 asked, 0 known",
        "checks",
    ]
    assert all(re.search(r" · about (\d+ min )?\d+ s left$", line) for line in lines[2:])


def test_a_model_that_was_never_asked_is_named_and_not_guessed(lake, monkeypatch):
    lines = shown(lake, False, monkeypatch, load_profile("demo", SERVER)).splitlines()
    assert all(
        "left, and " in line and "descriptions," in line and line.endswith("whose pace is not known yet") for line in lines[2:5]
    )
    assert lines[5].endswith(" s left")


def test_what_a_run_took_is_kept_with_the_lake_unless_it_failed(lake, monkeypatch):
    shown(lake, False, monkeypatch)
    kept = read_paces(lake)
    assert "start" in kept
    (lake.root / "pace.json").unlink()
    with pytest.raises(RuntimeError, match="in the middle"), RunProgress(lake, PROFILE, Console(file=io.StringIO())) as progress:
        progress.stage(["corpus_manifest"], None, 0, 1)
        raise RuntimeError("in the middle")
    assert read_paces(lake) == {}


def test_what_there_is_to_do_is_what_is_not_current_and_follows_from_it(lake):
    work = Work.of(lake, PROFILE)
    assert work.to_do["pairs"] == {SHARDS[0]: False} and not {"images", "towers", "clip_image", "neighbours"} & set(work.to_do)
    assert work.to_do["descriptions"][SHARDS[0]] is True, "it was there before, so most of it is known"
    assert set(work.to_do["checkpoints"]) == {"demo"} and work.pictures_trained_on == 0
    assert list(Work.of(lake, PROFILE, until="pairs").to_do) == ["pairs"]
    assert list(work.images) == SHARDS
    lake.path("towers", "all").unlink()
    assert list(Work.of(lake, PROFILE, until="towers").to_do) == ["towers"]


def test_only_recipes_that_the_run_trains_are_counted(lake):
    other = PROFILE.model_copy(update={"train": ()})
    assert "checkpoints" not in Work.of(lake, other).to_do
