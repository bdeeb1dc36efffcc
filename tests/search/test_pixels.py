"""Decoded pictures wait for their place: never more pixels at once than the budget, each in the end, and none once it is closed."""

import io
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait

from PIL import Image

from mmret.search.pixels import PixelBudget


def png(side: int) -> bytes:
    out = io.BytesIO()
    Image.new("1", (side, side)).save(out, "PNG")
    return out.getvalue()


def test_no_more_pixels_than_the_budget_are_decoded_at_once_and_each_gets_its_turn():
    budget, held, most = PixelBudget(250_000), [], []
    lock = threading.Lock()

    def decode(side: int) -> None:
        future = Future()
        assert budget.take(png(side), future)
        with lock:
            held.append(side * side)
            most.append(sum(held))
        time.sleep(0.005)
        with lock:
            held.remove(side * side)
        future.set_result(None)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, [100, 300, 200, 400, 50] * 8))
    assert max(most) <= 250_000 and len(most) == 40


def test_a_picture_larger_than_the_budget_has_its_turn_alone():
    budget, first = PixelBudget(1000), Future()
    assert budget.take(png(100), first)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(budget.take, png(2), Future())
        assert not wait([second], timeout=0.05).done
        first.cancel()  # whoever asked has given up: the place is free
        first.set_running_or_notify_cancel()
        assert second.result(5)


def test_what_is_no_picture_takes_a_place_too_and_nobody_waits_for_a_closed_budget():
    budget, first = PixelBudget(1000), Future()
    assert budget.take(b"no picture", first)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(budget.take, None, Future())
        budget.close()
        assert waiting.result(5) is None


def test_a_place_that_is_given_back_early_is_given_back_once():
    budget, first = PixelBudget(10_000), Future()
    free = budget.take(png(100), first)
    free()
    first.set_result(None)
    free()
    assert budget._free == 10_000
