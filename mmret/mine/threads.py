"""Runs independent pieces of work side by side, each on one thread, as many threads as torch may use.

On a busy machine that is faster than to split each product among the threads, where all would wait for the slowest one at
every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TypeVar

from mmret.threads import in_order

T, R = TypeVar("T"), TypeVar("R")


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``work`` of each of ``items``, in their order. Close the iterator, or read it to its end, to have torch's threads back."""
    import torch  # here, since commands that compute nothing reach this module too

    threads = torch.get_num_threads()
    if threads == 1:
        yield from map(work, items)
        return

    def alone(item: T) -> R:
        torch.set_num_threads(1)
        return work(item)

    try:
        with closing(in_order(alone, items, threads)) as done:
            for _, result in done:
                yield result
    finally:
        torch.set_num_threads(threads)  # the setting of new threads is shared, and the workers lowered it
