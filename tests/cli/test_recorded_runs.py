"""The time left of a run is honest: on recorded runs the total it predicts is within a factor of 1.5 of what came, from the first
minute (of runs under five minutes: the first fifth) to the end, also where the machine is three times as slow or 2.5 times as fast.

The recordings (``bench/time_left.py record``) were made on two cores: the demo on quiet and on busy ones; beside a dozen other
processes a folder with richer captions, a run cut short and taken up again, a server that answers ten requests a second, a
small lake, and on that lake a run of more pictures. The last is the one exception: it was starved while it loaded its models."""

from pathlib import Path

import pytest

from bench.time_left import Recording, judged

RUNS = {path.name.split(".")[0]: path for path in sorted((Path(__file__).parent / "recorded_runs").glob("*.jsonl.gz"))}
MOST = 1.5
ALSO_AT_OTHER_SPEEDS = ["demo_quiet", "slow_server"]
"""The others were recorded on a machine that was three to fifteen times as slow as the table already."""

AT_ANY_SPEED = ["demo_quiet", "demo_busy", "richer_captions"]
"""Once remembered; a server may be a faster one next time, and the small lakes' runs are mostly start-up."""
REMEMBERED = [name for name in RUNS if name != "more_pictures"]
"""A run that was starved teaches the next one wrong."""
STARVED_UNTIL = {"more_pictures": 200.0}
"""Seconds of the recording before which nothing is asserted: its libraries took it 140 s to load, some four on idle cores, and the
prediction was off by 2.3 in the meantime; from then on it is held to the factor too."""


def off(name: str, faster: float = 1.0, remembered: dict[str, float] | None = None) -> list[tuple[float, float, str]]:
    """Times, factors and stages where the prediction was off by more than ``MOST``."""
    samples = [
        s for s in judged(Recording.read(RUNS[name]).replay(faster, remembered)[1]) if s.at * faster >= STARVED_UNTIL.get(name, 0)
    ]
    assert len(samples) > 20
    return [(round(s.at, 1), round(s.off, 2), s.what) for s in samples if s.off > MOST]


def test_there_are_recordings_and_they_are_small():
    assert set(ALSO_AT_OTHER_SPEEDS) < set(RUNS) and len(RUNS) >= 5
    assert all(path.stat().st_size < 50_000 for path in RUNS.values())


@pytest.mark.parametrize("name", RUNS)
def test_the_total_is_within_a_factor_of_one_and_a_half_from_the_first_minute_on(name):
    assert off(name) == []


@pytest.mark.parametrize("faster", [1 / 3, 2.5])
@pytest.mark.parametrize("name", ALSO_AT_OTHER_SPEEDS)
def test_so_it_is_on_a_machine_that_is_slower_or_faster(name, faster):
    assert off(name, faster) == []


@pytest.mark.parametrize(("name", "faster"), [(n, 1.0) for n in REMEMBERED] + [(n, f) for n in AT_ANY_SPEED for f in (1 / 3, 2.5)])
def test_once_a_lake_remembers_what_its_run_took_it_is_so_on_any_machine(name, faster):
    remembered = Recording.read(RUNS[name]).replay()[0].paces.to_remember()
    assert off(name, faster, remembered) == []


def test_of_a_server_that_was_never_asked_nothing_is_claimed_and_it_is_named():
    recording = Recording.read(RUNS["slow_server"])
    samples = [s for s in recording.replay()[1] if s.left is not None]
    named = [s for s in samples if s.unknown]
    assert {stage for s in named for stage in s.unknown} == {"descriptions", "instructions"}
    answering = next(e["t"] for e in recording.events if e.get("task") == "descriptions" and e["done"] > 1)
    assert max(s.at for s in named) <= answering + 10, "its own pace is known after sixteen answers and five seconds"
    remembered = recording.replay()[0].paces.to_remember()
    assert not [s for s in recording.replay(remembered=remembered)[1] if s.unknown]
