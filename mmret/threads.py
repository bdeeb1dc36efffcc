"""Bounded work in threads, results in order: a reader works ahead of its consumer without filling the memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = max(2, min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2))
"""Threads for work that waits for files as much as for the processor."""


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int = WORKERS,
    ahead: int | None = None,
    size: Callable[[Item], int] | None = None,
    limit: int = 0,
) -> Iterator[tuple[Item, Result]]:
    """(item, function(item)) in the order of ``items``, at most ``ahead`` of them begun and not yet taken.

    ``ahead`` is ``4 * workers`` where not given. With ``size`` (in any unit), also at most ``limit`` of it ahead, so that a few
    large results do not fill the memory; an item larger than that passes alone. An exception of ``function`` is raised in
    its turn, and what has not begun by then never does.

    >>> [square for _, square in in_order(lambda x: x * x, range(4))]
    [0, 1, 4, 9]
    """
    ahead = 4 * workers if ahead is None else ahead
    waiting: deque[tuple[Item, int, Future[Result]]] = deque()
    total = 0
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                of_item = size(item) if size else 0
                while waiting and (len(waiting) >= ahead or total + of_item > limit):
                    first, its_size, future = waiting.popleft()
                    total -= its_size
                    yield first, future.result()
                waiting.append((item, of_item, pool.submit(function, item)))
                total += of_item
            while waiting:
                first, _, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, _, future in waiting:
                future.cancel()
