"""Invariants: after ten seconds and four units of a stage the time left is never off by more than a factor of two, whatever its
first unit cost and however wrong the table is; what comes before the first unit does not run the time down."""

from __future__ import annotations

from itertools import accumulate

import pytest

from mmret.cli.time_left import Estimate
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
    made = Estimate(load_profile("demo", {"recipes.demo.steps": STEPS}), clock)
    made._expected = {"triplets": 1.0, "checkpoints": 0.16 * STEPS}
    made.begin(["checkpoints"], 0, 1)
    return made


@pytest.mark.parametrize("name", RECORDED)
def test_a_stage_is_never_off_by_more_than_a_factor_of_two_after_ten_seconds_and_four_steps(name):
    before, steps = RECORDED[name]
    steps = steps[: STEPS - 1]
    clock = Clock()
    found = estimate(clock)
    for second in range(int(before)):  # image features, told without a step done
        clock.now = float(second)
        found.advance("checkpoints", 0, STEPS)
    ends = [*accumulate([before, *steps])]
    for done, at in enumerate(ends, 1):
        clock.now = at
        found.advance("checkpoints", done, STEPS)
        left = ends[-1] - at
        if at >= 10 and left > 5 and done > 3:  # one step, or a second slow one, tells nothing
            assert left / 2 <= found.left() <= 2 * left, (name, done, left, found.left())
    assert found.left() == 0


def test_what_comes_before_the_first_step_does_not_run_the_time_down():
    clock = Clock()
    found = estimate(clock)
    for now in (1.0, 20.0, 300.0):
        clock.now = now
        found.advance("checkpoints", 0, STEPS)
        assert found.left() == pytest.approx(0.16 * STEPS)
    clock.now = 301.0
    found.advance("checkpoints", 1, STEPS)  # 199 * 301 s would be 17 hours
    assert found.left() == pytest.approx(0.16 * (STEPS - 1))


def test_a_resumed_run_counts_what_it_does_itself():
    clock = Clock()
    found = estimate(clock)
    for done in range(151, 180):
        clock.now += 0.16
        found.advance("checkpoints", done, STEPS)
    assert found.left() == pytest.approx(0.16 * (STEPS - 179), rel=0.01)


def test_a_table_of_a_run_that_has_reported_is_not_counted_again():
    clock = Clock()
    found = Estimate(load_profile("demo"), clock)
    found._expected = {"clip_image": 10.0, "dino_image": 10.0, "checkpoints": 5.0}
    found.begin(["clip_image", "dino_image"], 0, 1)
    for table, now in (("clip_image", 10.0), ("dino_image", 20.0)):
        for done in range(1, 11):
            clock.now = now - 10 + done
            found.advance(table, done, 10)
    assert found.left() == pytest.approx(5.0)


def test_nothing_is_said_where_nothing_is_known():
    clock = Clock()
    assert Estimate(load_profile("demo"), clock).left() is None
    assert Pace(None).seconds() is None
    pace = Pace(None)
    for done, now in enumerate([30.0, 30.5, 31.0], 1):
        pace.observe(now, done)
    assert pace.seconds() == pytest.approx(0.5)
