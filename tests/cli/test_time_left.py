"""Invariants: after ten seconds and four units of a stage the time left is never off by more than a factor of two, whatever its
first unit cost and however wrong the table is; what comes before the first unit does not run the time down."""

from __future__ import annotations

from itertools import accumulate

import pytest

from mmret.cli.run_progress import read_paces, write_paces
from mmret.cli.run_work import Work
from mmret.cli.time_left import Estimate
from mmret.lake import Lake
from mmret.pace import Pace
from mmret.settings import load_profile

STEPS = 200
RECORDED = {  # seconds before the first step (features, compilation, its own), and those of every other
    "features, then as in the table": (22.0, [0.16] * (STEPS - 1)),
    "compiled at the first step": (45.0, [0.2] * (STEPS - 1)),
    "nothing before": (0.3, [0.16, 0.15, 0.17, 0.16] * 60),
    "as slow as ten times the table": (3.0, [1.6] * (STEPS - 1)),
    "as fast as a tenth of it, after features": (9.5, [0.016] * (STEPS - 1)),
    "a slow second step": (12.0, [5.0, *[0.2] * (STEPS - 2)]),
    "measured on held-out pictures every 50 steps": (8.0, [3.0 if i % 50 == 49 else 0.2 for i in range(STEPS - 1)]),
}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def estimate(clock: Clock) -> Estimate:
    """That of a run whose last stage begins, with the table's 0.16 s a step."""
    made = Estimate(load_profile("demo", {"recipes.demo.steps": STEPS, "recipes.demo.batch_size": 256}), clock)
    clock.now = 2.5
    made.begin(["corpus_manifest"], None)
    made.plan(Work({}, {"checkpoints": {"demo": False}}))
    made.begin(["checkpoints"], "demo")
    return made


BESIDE = 3.0
"""Seconds of the table that are not of the loop: of the stage before and after it, and of the checks."""


@pytest.mark.parametrize("name", RECORDED)
def test_a_stage_is_never_off_by_more_than_a_factor_of_two_after_ten_seconds_and_four_steps(name):
    before, steps = RECORDED[name]
    steps = steps[: STEPS - 1]
    clock = Clock()
    found = estimate(clock)
    began = clock.now
    for second in range(int(before)):  # image features, told without a step done
        clock.now = began + float(second)
        found.advance("checkpoints", 0, STEPS)
    ends = [*accumulate([began + before, *steps])]
    for done, at in enumerate(ends, 1):
        clock.now = at
        found.advance("checkpoints", done, STEPS)
        left = ends[-1] - at
        if at - began >= 10 and left > 5 and done > 3:  # one step, or a second slow one, tells nothing
            assert left / 2 <= found.left().seconds <= 2 * left + BESIDE, (name, done, left, found.left())
    most = BESIDE * max(1, 10 * (steps[0] > 1))
    assert 0 <= found.left().seconds <= most


def test_what_comes_before_the_first_step_does_not_run_the_time_down():
    clock = Clock()
    found = estimate(clock)
    for now in (1.0, 20.0, 300.0):
        clock.now = now
        found.advance("checkpoints", 0, STEPS)
        assert found.left().seconds == pytest.approx(0.16 * STEPS, abs=BESIDE)
    clock.now = 301.0
    found.advance("checkpoints", 1, STEPS)  # 199 * 301 s would be 17 hours
    assert found.left().seconds == pytest.approx(0.16 * (STEPS - 1), abs=BESIDE)


def test_a_resumed_run_counts_what_it_does_itself():
    clock = Clock()
    found = estimate(clock)
    for done in range(151, 180):
        clock.now += 0.16
        found.advance("checkpoints", done, STEPS)
    assert found.left().seconds == pytest.approx(0.16 * (STEPS - 179), abs=BESIDE)


SHARDS = {f"shard-{n:05d}": 4 for n in range(200)}
IMAGES_THEN_REST = {"images": dict.fromkeys(SHARDS, False), "leaks": {"all": False}}


def test_what_the_first_of_many_small_shards_took_is_what_the_others_will_take():
    clock = Clock()
    found = Estimate(load_profile("demo"), clock)
    found.begin(["corpus_manifest"], None)
    clock.now = 2.5
    found.plan(Work(SHARDS, IMAGES_THEN_REST))
    each = 5.0  # ten times the table's, nearly all of it beside the loop
    for n, shard in enumerate(SHARDS):
        found.begin(["images"], shard)
        if n >= 12:  # the first minute
            true = each * (200 - n)
            assert true / 1.5 <= found.left().seconds <= 1.5 * true + 20, (n, found.left())
        clock.now += 1.0
        found.advance("images", 0, None)
        clock.now += each - 1.1
        found.advance("images", 4, 4)
        clock.now += 0.1


def test_what_the_graph_has_passed_is_not_counted_and_what_turns_up_is():
    clock = Clock()
    found = Estimate(load_profile("demo", {"recipes.demo.steps": 400, "recipes.demo.batch_size": 256}), clock)
    found.begin(["corpus_manifest"], None)
    found.plan(Work(dict.fromkeys(["shard-00000", "shard-00001"], 100_000), {"images": {"shard-00001": False}}))
    alone = found.left().seconds
    found.begin(["images"], "shard-00000")
    assert found.left().seconds > 1.5 * alone, "a shard that nobody knew to be stale"
    found.begin(["images"], "shard-00001")
    found.begin(["checkpoints"], "demo")
    assert found.left().seconds > 60, "400 steps that were not planned"
    found.begin(["checks"], None)
    assert found.left().seconds < 60


def test_a_stage_that_takes_longer_than_thought_is_not_at_its_end():
    clock = Clock()
    found = Estimate(load_profile("demo"), clock)
    found.begin(["corpus_manifest"], None)
    clock.now = 2.5
    found.plan(Work({"shard-00000": 50_000}, {"evaluations": {"demo": False}}))
    found.begin(["evaluations"], "demo")
    said = []
    for _ in range(20):
        clock.now += 20
        said.append(found.left().seconds)
    assert min(said) > 15 and said[0] > said[2], "it counts down, and stays above nothing"


def test_of_models_that_the_table_was_not_measured_with_nothing_is_claimed_until_they_work():
    clock = Clock()
    found = Estimate(load_profile("local"), clock)
    found.begin(["corpus_manifest"], None)
    rest = {stage: {"shard-00000": False} for stage in ("clip_image", "neighbours", "pairs")}
    found.plan(Work({"shard-00000": 1000}, {**rest, "checkpoints": {"base": False}, "evaluations": {"base": False}}))
    assert found.left().unknown == ("clip_image", "checkpoints", "evaluations") and found.left().seconds < 30
    found.begin(["clip_image"], "shard-00000")
    for done in range(20):
        clock.now += 1.0
        found.advance("clip_image", 10 * done, 1000)
    assert found.left().unknown == ("checkpoints", "evaluations")
    assert found.left().seconds == pytest.approx(81, abs=10)


def test_nothing_is_said_where_nothing_is_known():
    clock = Clock()
    assert Estimate(load_profile("demo"), clock).left() is None
    assert Pace(None).seconds() is None
    pace = Pace(None)
    for done, now in enumerate([30.0, 30.5, 31.0], 1):
        pace.observe(now, done)
    assert pace.seconds() == pytest.approx(0.5)


def test_a_loop_of_a_million_reports_is_remembered_by_some_hundred_of_them():
    pace = Pace(None)
    for done in range(1, 1_000_001):
        pace.observe(done / 1000, done)
    assert len(pace._marks) < 200 and pace.seconds() == pytest.approx(0.001, rel=0.01)


def test_what_a_run_took_is_kept_with_the_lake_and_a_file_that_is_none_is_not_read(tmp_path):
    lake = Lake(tmp_path)
    assert read_paces(lake) == {}
    write_paces(lake, {"images": 2.5})
    assert read_paces(lake) == {"images": 2.5}
    for text in ("", "[1]", "{", '{"images": "fast", "towers": 2}'):
        (tmp_path / "pace.json").write_text(text)
        assert read_paces(lake) == ({"towers": 2.0} if "towers" in text else {})
    odd = Estimate(load_profile("demo"), Clock(), {"images": float("nan"), "towers": -1.0, "pairs": 0.0, "leaks": 2.0})
    assert odd.paces.remembered == {"leaks": 2.0}
