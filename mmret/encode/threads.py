"""Bounded work in threads, results in order: decoding ahead of a model without filling the memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TypeVar

T, R = TypeVar("T"), TypeVar("R")


def in_order(pool: Executor, function: Callable[[T], R], items: Iterable[T], ahead: int = 64) -> Iterator[R]:
    """``map(function, items)`` on ``pool``, at most ``ahead`` items begun and not yet taken; an exception is raised
    in its turn."""
    waiting: deque = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
