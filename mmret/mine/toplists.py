"""Collects for every row the best ``k`` targets inside the band and the best ``k`` above it, while tiles arrive in any order.

The union of two top lists, cut to ``k``, is the top list of all their entries; so entries can be added in any grouping. An entry
is packed into one unsigned 64-bit number, row | distance from the top score | target, so that one vectorised sort of numbers
gives exactly the order "best score first, then the smaller target". Cost: 8 bytes an entry, about ``3 * k`` entries a row in
memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import numpy as np

from mmret.errors import UserError
from mmret.mine.threads import in_threads
from mmret.settings import BandSettings

_TOP = np.float32(1.05)  # above any product of two vectors whose length is one to within a hundredth
_ROWS = 2_048  # whose lists are unpacked at once
_BATCH = 65_536  # entries that may wait in a block whatever k


@dataclass(frozen=True)
class Edges:
    """Neighbours as numbers: ``rows``, ``targets`` int32, ``scores`` float32, by row, best score first, then target."""

    rows: np.ndarray
    targets: np.ndarray
    scores: np.ndarray


def band_limits(band: BandSettings) -> tuple[np.float32, np.float32]:
    """The band's open ends as scores are stored: in the band is ``low < score < high`` in float32."""
    return np.float32(band.low), np.float32(band.high)


def sortable(scores: np.ndarray) -> np.ndarray:
    """float32 to int64 that sort alike."""
    bits = (np.asarray(scores, np.float32) + np.float32(0)).view(np.int32).astype(np.int64)  # + 0 makes -0.0 a 0.0
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def from_sortable(codes: np.ndarray) -> np.ndarray:
    """Inverse of :func:`sortable`."""
    return np.where(codes < 0, -codes | 0x80000000, codes).astype(np.uint32).view(np.float32)


class TopLists:
    """Lists of ``rows`` rows whose targets are numbers below ``targets``; each block of ``tile`` rows is cut separately.

    ``floor`` and ``above_floor`` (rows,) float32: an entry whose score is lower cannot enter its list any more.
    """

    def __init__(
        self,
        rows: int,
        targets: int,
        k: int,
        band: BandSettings,
        tile: int,
        floor: np.ndarray | None = None,
        above_floor: np.ndarray | None = None,
    ):
        self.k, self.tile = k, tile
        self.low, self.high = band_limits(band)
        self.floor = np.full(rows, self.low) if floor is None else floor.copy()
        self.above_floor = np.full(rows, self.high) if above_floor is None else above_floor.copy()
        self._target_bits = max(targets - 1, 1).bit_length()
        self._score_bits = int(sortable(_TOP) - sortable(self.low)).bit_length()
        if min(rows, tile).bit_length() + self._score_bits + self._target_bits > 64:
            raise UserError(f"a shard of {targets} images is too large for a band from {band.low}: use smaller shards")
        self._above_code = int(sortable(_TOP) - sortable(self.high))  # a code up to this one is above the band
        blocks = -(-rows // tile)
        self._cut: list[np.ndarray] = [np.zeros(0, np.uint64) for _ in range(blocks)]
        self._waiting: list[list[np.ndarray]] = [[] for _ in range(blocks)]
        self._locks = [Lock() for _ in range(blocks)]
        self._rows = rows

    def could_enter(self, rows: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Mask of the pairs that could enter, knowing only that the score lies between ``lower`` and ``upper``."""
        inside = (upper >= self.floor[rows]) & (lower < self.high)
        return (inside | (upper >= self.above_floor[rows])) & (upper > self.low)

    def add(self, block: int, rows: np.ndarray, targets: np.ndarray, scores: np.ndarray) -> None:
        """Add scored pairs whose rows all lie in ``block``; several threads may do so at once."""
        keep = (scores > self.low) & self.could_enter(rows, scores, scores)
        rows, targets, scores = rows[keep], targets[keep], scores[keep]
        if not len(rows):
            return
        key = (rows - block * self.tile).astype(np.int64) << self._score_bits
        key |= sortable(_TOP) - sortable(scores)
        key = key.astype(np.uint64) << np.uint64(self._target_bits)
        key |= targets.astype(np.uint64)
        height = min(self.tile, self._rows - block * self.tile)
        with self._locks[block]:
            self._waiting[block].append(key)
            if sum(map(len, self._waiting[block])) > max(_BATCH, height * self.k):
                self._cut_lists(block)

    def _cut_lists(self, block: int) -> None:
        """Merge what waits into the block's list, cut it, raise the floors."""
        if not self._waiting[block]:
            return
        keys = np.concatenate([self._cut[block], *self._waiting[block]])
        self._waiting[block] = []
        keys.sort()
        first = block * self.tile
        height = min(self.tile, self._rows - first)
        shift = np.uint64(self._score_bits + self._target_bits)
        starts = np.searchsorted(keys, np.arange(height + 1, dtype=np.uint64) << shift)
        codes = self._codes(keys)
        above = codes <= self._above_code
        counts, above_counts = np.diff(starts), np.diff(np.append(0, np.cumsum(above))[starts])
        position = np.arange(len(keys)) - np.repeat(starts[:-1], counts)
        rank = np.where(above, position, position - np.repeat(above_counts, counts))
        full = np.flatnonzero(counts - above_counts >= self.k)
        self.floor[first + full] = from_sortable(sortable(_TOP) - codes[starts[full] + above_counts[full] + self.k - 1])
        full = np.flatnonzero(above_counts >= self.k)
        self.above_floor[first + full] = from_sortable(sortable(_TOP) - codes[starts[full] + self.k - 1])
        self._cut[block] = keys[rank < self.k]

    def _codes(self, keys: np.ndarray) -> np.ndarray:
        mask = np.uint64((1 << self._score_bits) - 1)
        return ((keys >> np.uint64(self._target_bits)) & mask).astype(np.int64)

    def result(self, numbers: np.ndarray | None = None) -> Edges:
        """All lists, cut to ``k``. The object cannot be used afterwards.

        ``numbers`` (rows,): a permutation; row r is then called ``numbers[r]``, and the edges are sorted by that.
        """
        list(in_threads(self._cut_lists, range(len(self._cut))))
        shift = np.uint64(self._score_bits + self._target_bits)
        counts = [np.zeros(0, np.int64)]
        for block, keys in enumerate(self._cut):
            height = min(self.tile, self._rows - block * self.tile)
            bounds = np.searchsorted(keys, np.arange(height + 1, dtype=np.uint64) << shift)
            counts.append(np.diff(bounds))
        keys, per_row = np.concatenate([np.zeros(0, np.uint64), *self._cut]), np.concatenate(counts)
        self._cut = []
        starts = np.cumsum(per_row) - per_row
        if numbers is not None:
            place = np.empty_like(numbers)
            place[numbers] = np.arange(len(numbers))
            starts, per_row = starts[place], per_row[place]
        ends = np.cumsum(per_row)
        rows, targets, scores = (np.empty(len(keys), kind) for kind in (np.int32, np.int32, np.float32))

        def unpack(first: int) -> None:
            some = slice(first, first + _ROWS)
            many = per_row[some]
            begin, end = int(ends[first] - many[0]), int(ends[some][-1])
            own = keys[begin:end]
            if numbers is not None:
                own = keys[np.repeat(starts[some] - (ends[some] - many), many) + np.arange(begin, end)]
            rows[begin:end] = np.repeat(np.arange(first, first + len(many), dtype=np.int32), many)
            targets[begin:end] = own & np.uint64((1 << self._target_bits) - 1)
            scores[begin:end] = from_sortable(sortable(_TOP) - self._codes(own))

        list(in_threads(unpack, range(0, self._rows, _ROWS)))
        return Edges(rows, targets, scores)
