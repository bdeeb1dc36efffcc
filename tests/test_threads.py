"""Invariants of work in threads: results in order whatever is slow; never more begun than allowed, by number and by size; an
exception comes in its turn and nothing is begun after it."""

from __future__ import annotations

import threading
import time

import pytest

from mmret.threads import in_order


def test_results_are_in_order_and_no_more_is_read_ahead_than_allowed():
    read, taken, most = 0, 0, 0

    def items():
        nonlocal read, most
        for at in range(50):
            read += 1
            most = max(most, read - taken)
            yield at

    def slow(at: int) -> int:
        time.sleep(0.002 * (at % 3))
        return at * at

    for at, (item, result) in enumerate(in_order(slow, items(), workers=3, ahead=5)):
        assert (item, result) == (at, at * at)
        taken += 1
    assert taken == 50 and most <= 6, "five begun, and the one that waits for a place"


@pytest.mark.parametrize("size", [1, 4, 9])
def test_what_is_begun_is_bounded_by_size_and_a_larger_item_passes_alone(size):
    lock, sizes, most = threading.Lock(), [], []

    def note(item: int) -> int:
        with lock:
            sizes.append(item)
        return item

    for item, _ in in_order(note, [size] * 12, workers=4, size=lambda item: item, limit=8):
        most.append(len(sizes) * item)
        sizes.remove(item)
    assert len(most) == 12 and max(most) <= max(8, size)


def test_an_exception_comes_in_its_turn_and_nothing_is_begun_after_it():
    begun = []

    def failing(at: int) -> int:
        begun.append(at)
        if at == 3:
            raise ValueError("the third")
        return at

    results = in_order(failing, range(1000), workers=1, ahead=2)
    assert [item for item, _ in (next(results) for _ in range(3))] == [0, 1, 2]
    with pytest.raises(ValueError, match="the third"):
        list(results)
    assert max(begun) <= 5
