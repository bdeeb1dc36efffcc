"""An object as a file: blocks of 1 MiB by ranges, the next ones on their way while one is read in order.

Memory: at most ``_KEPT`` blocks and ``_AHEAD`` on their way, 16 MiB a file.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from mmret.storage import is_object_address
from mmret.storage.object_file import Positioned
from mmret.threads import WORKERS

AT_ONCE = 16
"""Requests to an object store at a time: a small one waits for the network, not for the processor."""
BLOCK = 2**20
_KEPT = 12  # a Parquet file is read in some columns at once
_AHEAD = 4


def reads_at_once(*roots: str) -> int:
    """How many pictures of these sources are read at a time."""
    return max([WORKERS, *(AT_ONCE for root in roots if is_object_address(root))])


Fetch = Callable[[int, int], bytes]
"""Bytes of the object from one offset to another."""


@lru_cache
def requests() -> ThreadPoolExecutor:
    """The threads in which requests are made ahead of whoever reads; what they run never waits for another of them."""
    return ThreadPoolExecutor(AT_ONCE, thread_name_prefix="object-store")


class ReadAhead(Positioned):
    """Reading only, of an object of ``size`` bytes. One thread at a time."""

    def __init__(self, fetch: Fetch, size: int):
        super().__init__(size)
        self._fetch = fetch
        self._blocks: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._last = -2
        self._lock = threading.RLock()

    def readinto(self, buffer: Any) -> int:
        with self._lock:
            if self._at >= self._size or not len(buffer):
                return 0
            number, inside = divmod(self._at, BLOCK)
            data = self._block(number)[inside : inside + len(buffer)]
            buffer[: len(data)] = data
            self._at += len(data)
            return len(data)

    def _block(self, number: int) -> bytes:
        wanted = [number]
        if number == self._last + 1 and number not in (0,):
            wanted += range(number + 1, number + 1 + _AHEAD)
        for each in wanted:
            if each not in self._blocks and each * BLOCK < self._size:
                self._blocks[each] = requests().submit(self._fetch, each * BLOCK, min(self._size, (each + 1) * BLOCK))
        self._blocks.move_to_end(number)
        self._last = number
        while len(self._blocks) > _KEPT + _AHEAD:
            self._blocks.popitem(last=False)[1].cancel()
        return self._blocks[number].result()

    def close(self) -> None:
        for block in self._blocks.values():
            block.cancel()
        self._blocks.clear()
        super().close()


def open_ahead(fetch: Fetch, size: int) -> io.BufferedReader:
    """A file for small reads. An object of one block is fetched at once."""
    if size <= BLOCK:
        return io.BufferedReader(io.BytesIO(fetch(0, size)))  # type: ignore[arg-type]
    return io.BufferedReader(ReadAhead(fetch, size), 2**17)
