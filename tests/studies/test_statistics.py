"""Invariants: intervals are Student's, pairs are of the same seed, a claim is shown only where every interval it needs says so."""

import pytest

from mmret.studies.statistics import at_most_below, difference, differences, interval, t_quantile, verdict


@pytest.mark.parametrize("freedom, t", [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (10, 2.228), (30, 2.042)])
def test_quantiles_are_those_of_the_printed_table(freedom, t):
    assert t_quantile(freedom) == pytest.approx(t, abs=6e-4)
    assert t_quantile(freedom, 0.5) < t_quantile(freedom, 0.9) < t_quantile(freedom)


def test_an_interval_by_hand():
    # mean 2, deviation 1, three values: 2 ± 4.303 / sqrt(3)
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((-0.484, 4.484), abs=1e-3)
    assert interval([4.0, 4.0]) == (4.0, 4.0)
    assert interval([4.0]) == interval([]) == (None, None)


def test_only_seeds_that_both_have_are_paired():
    found = difference("b", {0: 3.0, 1: 5.0, 2: 4.0, 7: 99.0}, "a", {2: 3.0, 0: 1.0, 1: 2.0, 5: -99.0})
    assert (found.seeds, found.positive, found.mean) == (3, 3, 2.0)
    assert (found.low, found.high) == pytest.approx((-0.484, 4.484), abs=1e-3)
    assert difference("b", {0: 1.0}, "a", {1: 1.0}).verdict == "not measured"
    one = difference("b", {0: 2.0}, "a", {0: 1.0})
    assert (one.verdict, one.mean, one.low, one.positive) == ("needs two seeds", 1.0, None, 1)


def test_pairing_takes_out_what_a_seed_does_to_both():
    base = {0: 10.0, 1: 20.0, 2: 30.0}
    found = difference("b", {seed: value + 1 + seed / 100 for seed, value in base.items()}, "a", base)
    assert found.verdict == "shown" and found.high < 1.1


def of(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


UP, LEVEL, DOWN, ONE, NONE = of(2.0, 2.1, 2.2), of(-1.0, 0.1, 1.0), of(-2.0, -2.1, -2.2), of(2.0), {}


@pytest.mark.parametrize(
    "gains, said",
    [
        ([UP, UP], "shown"),
        ([UP, LEVEL], "not shown"),
        ([UP, DOWN], "contradicted"),
        ([LEVEL, DOWN], "contradicted"),
        ([UP, ONE], "needs two seeds"),
        ([LEVEL, ONE], "needs two seeds"),
        ([ONE, NONE], "not measured"),
        ([DOWN, NONE], "contradicted"),
    ],
)
def test_a_claim_needs_every_difference_and_falls_by_one(gains, said):
    zero = dict.fromkeys(range(3), 0.0)
    assert verdict([difference("x", gain, "zero", zero) for gain in gains]) == said


@pytest.mark.parametrize(
    "claim, pairs",
    [
        ("rising", [("b", "a"), ("c", "b")]),
        ("last", [("c", "a"), ("c", "b")]),
        ("over_first", [("b", "a"), ("c", "a")]),
    ],
)
def test_each_claim_is_about_its_own_differences(claim, pairs):
    found = differences(claim, [("a", of(1.0)), ("b", of(3.0)), ("c", of(4.0))])
    values = {"a": 1.0, "b": 3.0, "c": 4.0}
    assert [(d.label, d.over) for d in found] == pairs
    assert [d.mean for d in found] == [values[label] - values[over] for label, over in pairs]


def test_how_far_below_is_told_by_the_lowest_end():
    zero = dict.fromkeys(range(3), 0.0)
    up, level = difference("x", UP, "zero", zero), difference("x", LEVEL, "zero", zero)
    assert at_most_below([up, level]) == -level.low > 0
    assert at_most_below([up]) == 0.0
    assert at_most_below([up, difference("x", ONE, "zero", zero)]) is None
