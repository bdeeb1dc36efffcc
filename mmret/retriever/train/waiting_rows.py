"""Rows of a step that wait on disk until their chunk is embedded, so that a step's memory does not grow with its batch.

Rows below the cut of the image tower lie in a memory-mapped file anyway: a chunk takes its own out of it. Decoded pictures are
written into a file that has no name, in the machine's folder for temporary files, where they are more than :data:`HELD` together;
no disk sees them unless they wait for longer than the system keeps pages to be written. Cost: a copy of a chunk's rows, each time
it is embedded, and one ahead of the step.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from itertools import chain

import numpy as np
import torch

HELD = 16 * 2**20
"""Bytes of decoded pictures that wait in memory."""
PIECE = 256
"""Pictures decoded at a time."""


class WaitingRows:
    """Rows (n, ...), ``load(start, stop)`` some of them. As of a tensor there are ``len``, ``split``, and ``[:]``, which reads,
    as :meth:`take` does."""

    def __init__(self, load: Callable[[int, int], torch.Tensor], start: int, stop: int):
        self.load, self.start, self.stop = load, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, rows: slice) -> torch.Tensor:
        start, stop, _ = rows.indices(len(self))
        return self.load(self.start + start, self.start + stop)

    def take(self, places: np.ndarray) -> torch.Tensor:
        """Those at ``places`` (k,), ascending and each once; neighbours are read together."""
        runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
        return torch.cat([self[int(run[0]) : int(run[-1]) + 1] for run in runs])

    def split(self, size: int) -> list[WaitingRows]:
        """As of a tensor."""
        return [WaitingRows(self.load, at, min(at + size, self.stop)) for at in range(self.start, self.stop, size)]


def mapped(rows: np.ndarray, numbers: np.ndarray) -> WaitingRows:
    """Those of ``numbers`` (n,) of memory-mapped ``rows``, which the system has read from disk when this returns."""
    for start in range(0, len(numbers), PIECE):
        rows[numbers[start : start + PIECE]]  # noqa: B018  the step need not wait for the disk
    return WaitingRows(lambda start, stop: torch.from_numpy(rows[numbers[start:stop]]), 0, len(numbers))


def spooled(decode: Callable[[np.ndarray], torch.Tensor], numbers: np.ndarray) -> torch.Tensor | WaitingRows:
    """``decode(numbers)`` (n, ...) uint8, made piece by piece; in memory where they are few or no temporary file takes them."""
    pieces = (decode(numbers[start : start + PIECE]) for start in range(0, len(numbers), PIECE))
    first = next(pieces)
    shape, size = first.shape[1:], first[0].nbytes
    if size * len(numbers) <= HELD:
        return torch.cat([first, *pieces])
    at, file = 0, None
    for piece in chain([first], pieces):  # what decoding raises is none of the file's errors
        try:
            file = file or tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  it is there as long as its rows
            at += _written(file.fileno(), piece, at)
        except OSError:  # full, or there is none
            kept = [_read(file.fileno(), 0, at // size, shape)] if at else []
            return torch.cat([*kept, piece, *pieces])
    return WaitingRows(lambda start, stop: _read(file.fileno(), start * size, stop - start, shape), 0, len(numbers))


def _written(descriptor: int, rows: torch.Tensor, at: int) -> int:
    """The bytes of ``rows``, all of which are in the file behind ``at``."""
    left = memoryview(rows.contiguous().numpy()).cast("B")
    while left:
        count = os.pwrite(descriptor, left, at)
        left, at = left[count:], at + count
    return rows.nbytes


def _read(descriptor: int, at: int, count: int, shape: torch.Size) -> torch.Tensor:
    rows = np.empty((count, *shape), np.uint8)
    left = memoryview(rows).cast("B")
    while left:
        read = os.preadv(descriptor, [left], at)
        if not read:
            raise OSError(f"a temporary file ends at byte {at}")
        left, at = left[read:], at + read
    return torch.from_numpy(rows)
