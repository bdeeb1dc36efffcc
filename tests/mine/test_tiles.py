"""Invariants of one tile: a pair is ruled out only where no list of either side can need it, whatever error either sketch has;
what a list could still take depends on both of its halves, the one in the band and the one above it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from mmret.mine import tiles
from mmret.mine.operands import GROUP, Block, Matrix
from mmret.mine.tiles import _Scan, compare_between, compare_within, tile_rows
from mmret.mine.toplists import TopLists, band_limits, from_sortable, sortable
from mmret.settings import BandSettings
from tests.mine.corpora import BAND, image_ids

CPU = torch.device("cpu")
NEVER = np.float32(1.04)  # a floor that no score reaches


def block(vectors: list[list[float]], sketch: list[list[float]], error: list[float]) -> Block:
    """A block whose sketch is off by what ``error`` says."""
    rows = torch.nn.functional.pad(torch.tensor(sketch, dtype=torch.float32), (0, 0, 0, GROUP - len(sketch)))
    return Block(
        0,
        len(vectors),
        rows,
        rows.T.contiguous(),
        1.0,
        np.array(error, np.float32),
        torch.tensor(vectors, dtype=torch.float16),
    )


def lists(floor: float | np.float32 | None = None, above: float | np.float32 | None = None) -> TopLists:
    return TopLists(
        1,
        1,
        3,
        BAND,
        64,
        None if floor is None else np.array([floor], np.float32),
        None if above is None else np.array([above], np.float32),
    )


def found(left: Block, right: Block, one: TopLists, other: TopLists) -> tuple[int, int]:
    """How many entries a tile of one pair adds to the lists of its left and of its right side."""
    matrix = Matrix(left.vectors.numpy(), ["a"], "caption", 64, CPU, int8=False)
    _Scan(matrix).tile(left, 0, one, right, 0, other)
    return len(one.result().rows), len(other.result().rows)


@pytest.mark.parametrize("wanted_by", ["left", "right"])
@pytest.mark.parametrize("wrong", ["left", "right"])
def test_the_sketch_of_either_side_may_be_wrong_for_the_list_of_either_side(wrong, wanted_by):
    """The score is 0.6, just over the band's low end at 0.55; the product of the sketches says 0.45."""
    true, off = block([[1, 0]], [[1, 0]], [0]), block([[0.6, 0.8]], [[0.45, 0.8]], [0.16])
    left, right = (off, true) if wrong == "left" else (true, off)
    one, other = (lists(), lists(NEVER, NEVER)) if wanted_by == "left" else (lists(NEVER, NEVER), lists())
    assert found(left, right, one, other) == ((1, 0) if wanted_by == "left" else (0, 1))


@pytest.mark.parametrize("wanted_by", ["left", "right"])
def test_errors_of_both_sides_add_up(wanted_by):
    left, right = block([[1, 0]], [[0.85, 0]], [0.08]), block([[0.6, 0.8]], [[0.5, 0.8]], [0.08])  # 0.425 for 0.6
    one, other = (lists(), lists(NEVER, NEVER)) if wanted_by == "left" else (lists(NEVER, NEVER), lists())
    assert sum(found(left, right, one, other)) == 1
    left, right = block([[1, 0]], [[0.85, 0]], [0.03]), block([[0.6, 0.8]], [[0.5, 0.8]], [0.03])
    assert found(left, right, lists(), lists()) == (0, 0), "a bound that lies is believed: so that errors are what decides"


def test_a_pair_whose_sketch_overstates_it_is_scored_exactly_before_it_enters():
    left, right = block([[1, 0]], [[1, 0]], [0]), block([[0.5, 0.866]], [[0.7, 0.866]], [0.21])
    assert found(left, right, lists(), lists()) == (0, 0)
    left, right = block([[1, 0]], [[1, 0]], [0]), block([[0.6, 0.8]], [[0.95, 0.8]], [0.36])
    one, other = lists(above=NEVER), lists(NEVER, NEVER)
    assert found(left, right, one, other) == (1, 0), "it may lie in the band though its sketch lies above"


@pytest.mark.parametrize(
    "upper, lower, floor, above_floor, could",
    [
        (0.70, 0.60, 0.65, 0.95, True),  # inside the band, over its floor
        (0.64, 0.60, 0.65, 0.95, False),  # below the floor of the list in the band
        (0.65, 0.60, 0.65, 0.95, True),  # equal scores are told apart by their targets
        (0.96, 0.94, 0.65, 0.95, True),
        (0.94, 0.935, 0.65, 0.95, False),  # above the band, below that list's floor
        (0.95, 0.94, 0.65, 0.95, True),
        (0.94, 0.92, 0.65, 0.95, True),  # just under the upper end, where the bound reaches over it
        (0.94, 0.93, 0.65, 0.95, False),  # at the upper end: above it for sure
        (0.56, 0.50, 0.55, 0.95, True),  # just over the lower end
        (0.55, 0.50, 0.55, 0.95, False),
        (0.96, 0.50, 0.97, 0.95, True),
    ],
)
def test_what_could_enter_a_list(upper, lower, floor, above_floor, could):
    scores = (np.array([x], np.float32) for x in (upper, lower))
    assert lists(floor, above_floor).could_enter(np.array([0]), *scores).tolist() == [could]


def test_a_full_list_takes_equal_scores_by_target_and_its_floors_rise_with_it():
    made = TopLists(3, 100, 2, BAND, 2)
    for target, score in ((9, 0.6), (8, 0.6), (7, 0.6), (1, 0.95), (2, 0.95), (3, 0.96)):
        made.add(1, np.array([2]), np.array([target]), np.array([score], np.float32))
    made._cut_lists(1)
    assert made.floor.tolist() == [np.float32(0.55)] * 2 + [np.float32(0.6)], "of the row whose list is full"
    assert made.above_floor.tolist() == [np.float32(0.93)] * 2 + [np.float32(0.95)]
    for target, score in ((5, 0.6), (4, 0.59), (0, 0.94)):
        made.add(1, np.array([2]), np.array([target]), np.array([score], np.float32))
    edges = made.result()
    assert edges.rows.tolist() == [2] * 4 and edges.targets.tolist() == [3, 1, 5, 7]
    np.testing.assert_array_equal(edges.scores, np.array([0.96, 0.95, 0.6, 0.6], np.float32))


def test_a_score_at_the_upper_end_takes_no_place_in_the_band_and_one_just_under_it_none_above():
    high = np.float32(BAND.high)
    made = TopLists(1, 10, 1, BAND, 64)
    for target, score in enumerate([high, np.nextafter(high, np.float32(0)), 0.6, np.nextafter(high, np.float32(1))]):
        made.add(0, np.array([0]), np.array([target]), np.array([score], np.float32))
    edges = made.result()
    assert edges.targets.tolist() == [3, 1], "each list holds one"


def test_floors_that_are_handed_on_are_not_changed_for_the_one_who_gave_them():
    given = np.full(1, 0.6, np.float32), np.full(1, 0.94, np.float32)
    made = TopLists(1, 100, 1, BAND, 64, *given)
    for target, score in ((1, 0.7), (2, 0.99)):
        made.add(0, np.array([0]), np.array([target]), np.array([score], np.float32))
    made._cut_lists(0)
    assert (made.floor, made.above_floor) == (np.float32(0.7), np.float32(0.99))
    assert (given[0].tolist(), given[1].tolist()) == ([np.float32(0.6)], [np.float32(0.94)])


def test_lists_are_cut_before_more_waits_than_they_hold(monkeypatch):
    monkeypatch.setattr("mmret.mine.toplists._BATCH", 5)
    made, cuts = TopLists(2, 100, 2, BAND, 2), []
    plain = made._cut_lists
    made._cut_lists = lambda block: cuts.append(sum(map(len, made._waiting[block]))) or plain(block)
    for target in range(20):
        made.add(0, np.array([0]), np.array([target]), np.array([0.6], np.float32))
    assert cuts and max(cuts) == 6 and sum(map(len, made._waiting[0])) <= 6


def test_scores_sort_as_their_codes_do_and_come_back():
    scores = np.array([-1, -0.5, -1e-8, -0.0, 0.0, 1e-8, 0.3, np.nextafter(np.float32(0.3), np.float32(1)), 1, 1.04], np.float32)
    codes = sortable(scores)
    assert (np.diff(codes)[[0, 1, 2, 4, 5, 6, 7, 8]] > 0).all() and codes[3] == codes[4], "zero has no sign"
    np.testing.assert_array_equal(from_sortable(codes), scores)


def test_a_list_that_64_bits_cannot_hold_is_refused_with_what_to_do():
    from mmret.errors import UserError

    TopLists(10, 2**28, 5, BandSettings(low=0.8, high=0.96), 4096)
    with pytest.raises(UserError, match=r"a shard of 8589934592 images is too large for a band from -1.0: use smaller shards"):
        TopLists(4096, 2**33, 5, BandSettings(low=-1, high=0.96), 4096)


def test_the_ends_of_a_band_are_those_that_scores_are_stored_in():
    assert band_limits(BandSettings(low=0.8, high=0.96)) == (np.float32(0.8), np.float32(0.96))


def test_a_tile_is_the_setting_and_on_a_cpu_no_larger_than_its_cache():
    assert [tile_rows(rows, CPU) for rows in (64, 2048, 4096)] == [64, 2048, 2048]
    assert tile_rows(4096, torch.device("meta")) == 4096


@pytest.mark.parametrize("threads", [1, 2])
def test_progress_is_told_once_a_row_of_tiles(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        vectors = np.eye(8, dtype=np.float16).repeat(20, 0)
        one = Matrix(vectors[:150], image_ids(150), "caption", 64, CPU, int8=False)
        other = Matrix(vectors[:70], image_ids(70), "caption", 64, CPU, int8=False)
        ticks: list[int] = []
        compare_within(one, TopLists(150, 150, 3, BAND, 64), lambda: ticks.append(1))
        assert len(ticks) == len(one.blocks) == 3
        compare_between(one, TopLists(150, 70, 3, BAND, 64), other, TopLists(70, 150, 3, BAND, 64), lambda: ticks.append(1))
        assert len(ticks) == 6
    finally:
        torch.set_num_threads(before)


def test_threads_have_buffers_of_their_own(monkeypatch):
    made = []
    monkeypatch.setattr(tiles, "_Scan", lambda matrix: made.append(_Scan(matrix)) or made[-1])
    vectors = np.eye(8, dtype=np.float16).repeat(40, 0)
    matrix = Matrix(vectors, image_ids(320), "caption", 64, CPU, int8=False)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        compare_within(matrix, TopLists(320, 320, 3, BAND, 64))
        assert 1 <= len(made) <= 3 and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_eight_bit_products_are_used_only_where_they_are_exact():
    asked = (
        "import torch; from mmret.mine.operands import int8_products; rows = torch.full((64, 128), 127, dtype=torch.int8); "
        "exact = bool((torch._int_mm(rows, rows.T.contiguous()) == 127 * 127 * 128).all()); "
        "assert exact or not int8_products(torch.device('cpu'))"
    )
    for isa in ("AVX2", "DEFAULT"):  # oneDNN kept from the instructions that torch sees: it adds in 16 bits, which saturate
        subprocess.run([sys.executable, "-c", asked], check=True, env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa})
