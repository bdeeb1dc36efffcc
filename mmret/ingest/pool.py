"""Run a function over a stream in threads, in order, with a bounded number of items in flight."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = max(2, min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2))


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], weight: Callable[[Item], int] | None = None, limit: int = 0
) -> Iterator[tuple[Item, Result]]:
    """(item, function(item)) in the order of ``items``, read at most ``4 * WORKERS`` items ahead.

    With ``weight``, also at most ``limit`` of weight ahead, so that a few large results do not fill the memory; an item
    heavier than that passes alone.
    """
    waiting: deque[tuple[Item, int, Future[Result]]] = deque()
    held = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            for item in items:
                heavy = weight(item) if weight else 0
                while waiting and (len(waiting) >= 4 * WORKERS or held + heavy > limit):
                    done, was, future = waiting.popleft()
                    held -= was
                    yield done, future.result()
                waiting.append((item, heavy, pool.submit(function, item)))
                held += heavy
            while waiting:
                done, _, future = waiting.popleft()
                yield done, future.result()
        finally:
            for _, _, future in waiting:
                future.cancel()
