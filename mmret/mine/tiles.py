"""The exact search: all neighbours in a band by blocked matrix products, each tile of which serves both of its sides.

For every pair of blocks: one product of their first dimensions where those rule most pairs out (:mod:`mmret.mine.projections`),
else of their sketches (:mod:`mmret.mine.operands`), a threshold test of the whole tile
against the score each row and each column still needs, exact scores of the few pairs that pass, and both directions of
each into the top lists (:mod:`mmret.mine.toplists`). The thresholds are sure (measured error bounds), the scores of
what passes are exact and the order has no ties, so the result is that of brute force whatever tile, sharding or device.

Cost: n*n/2 products within a shard, n*m between two; at width 512 on one core 1.1 ns a product and as much for the rest.
Memory: four bytes per entry of one tile and a tile's rows in double precision, per thread; the sketches of two shards
and their top lists. Nothing grows with the corpus.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from threading import local

import numpy as np
import torch

from mmret.mine.operands import GROUP, Block, Matrix, exact_scores
from mmret.mine.threads import in_threads
from mmret.mine.toplists import TopLists

_CPU_TILE = 2048  # a tile stays in the cache; larger ones gain nothing there

_FEW = 0.01  # of a tile's pairs may be left by the first dimensions; with more, whole sketches cost less than exact scores
_PATIENCE = 16  # a thread gives the first dimensions up when so many more of its tiles were left with too many pairs than half


def tile_rows(tile: int, device: torch.device) -> int:
    """Rows per side of a tile: the setting, smaller on a CPU."""
    return min(tile, _CPU_TILE) if device.type == "cpu" else tile


def compare_within(matrix: Matrix, lists: TopLists, tick: Callable[[], None] = lambda: None) -> None:
    """Compare every row of a shard with every other one of it; ``tick`` is called after each row of tiles."""
    blocks = list(enumerate(matrix.blocks))
    _scan(matrix, [[(left, a, lists, right, b, lists) for b, right in blocks[a:]] for a, left in blocks], tick)


def compare_between(
    left: Matrix, left_lists: TopLists, right: Matrix, right_lists: TopLists, tick: Callable[[], None] = lambda: None
) -> None:
    """Compare every row of one shard with every row of another."""
    _scan(
        left,
        [
            [(one, a, left_lists, other, b, right_lists) for b, other in enumerate(right.blocks)]
            for a, one in enumerate(left.blocks)
        ],
        tick,
    )


_Found = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # rows, columns, lower and upper bounds of scores
_Tile = tuple[Block, int, TopLists, Block, int, TopLists]


def _scan(matrix: Matrix, rows: list[list[_Tile]], tick: Callable[[], None]) -> None:
    """Compute all tiles; on a CPU each thread works on a tile of its own. The order of the tiles does not change the lists."""
    scans = local()

    def work(tile: _Tile) -> None:
        if not hasattr(scans, "scan"):
            scans.scan = _Scan(matrix)
        scans.scan.tile(*tile)

    if matrix.device.type != "cpu":
        for row in rows:
            for tile in row:
                work(tile)
            tick()
        return
    with closing(in_threads(work, (tile for row in rows for tile in row))) as done:
        for row in rows:
            for _ in row:
                next(done)
            tick()


class _Scan:
    """One thread's buffers."""

    def __init__(self, matrix: Matrix):
        self.device, self._in_vain = matrix.device, 0
        self._products = torch.zeros(0, device=self.device)
        self._exact: dict[str, torch.Tensor] = {}
        self._converted: dict[str, Block] = {}

    def tile(self, left: Block, a: int, left_lists: TopLists, right: Block, b: int, right_lists: TopLists) -> None:
        """Add the pairs of this tile that may belong there to the lists of both sides."""
        floors = left_lists.floor[left.start : left.stop], right_lists.floor[right.start : right.stop]
        i, j, lower, upper = self._by_heads(left, right, *floors) or self._by_sketches(left, right, *floors)
        if left is right:
            once = j > i
            i, j, lower, upper = i[once], j[once], lower[once], upper[once]
        rows, columns = i + left.start, j + right.start
        maybe = left_lists.could_enter(rows, upper, lower) | right_lists.could_enter(columns, upper, lower)
        if not maybe.any():
            return
        i, j, rows, columns = i[maybe], j[maybe], rows[maybe], columns[maybe]
        scores = self._scores(left, right, i, j)
        left_lists.add(a, rows, right.numbers_of(j), scores)
        right_lists.add(b, columns, left.numbers_of(i), scores)

    def _by_heads(self, left: Block, right: Block, need_left: np.ndarray, need_right: np.ndarray) -> _Found | None:
        """The pairs that the first dimensions do not rule out; None where that were too many."""
        if left.head is None or right.head is None or self._in_vain > _PATIENCE:
            return None
        unit = np.float32(left.head.unit)
        products = self._product(left.head.rows, right.head.columns)
        found = self._reaching(products, need_left / unit, need_right / unit, left is right, int(products.numel() * _FEW))
        self._in_vain = max(0, self._in_vain - 1) if found else self._in_vain + 2
        if not found:
            return None
        i, j, reached = found
        upper = reached * unit + np.float32(1e-6)
        return i, j, upper - left.head.excess[i] - right.head.excess[j], upper

    def _by_sketches(self, left: Block, right: Block, need_left: np.ndarray, need_right: np.ndarray) -> _Found:
        """The pairs that the sketches of whole vectors do not rule out."""
        same, left, right = left is right, left.whole, right.whole
        unit = left.unit * right.unit
        need_left, need_right = (
            x / unit for x in (need_left - left.error - right.error.max(), need_right - right.error - left.error.max())
        )
        i, j, products = self._reaching(self._product(left.rows, right.columns), need_left, need_right, same)
        score, error = products * np.float32(unit), left.error[i] + right.error[j] + np.float32(1e-6)
        return i, j, score - error, score + error

    def _product(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """(rows, columns padded to whole groups) of one tile, in a buffer that the next one overwrites."""
        shape = len(rows), columns.shape[1]
        int8 = rows.dtype == torch.int8
        kind = torch.int32 if int8 else torch.float32
        if self._products.numel() < shape[0] * shape[1] or self._products.dtype != kind:
            self._products = torch.empty(shape[0] * shape[1], dtype=kind, device=self.device)
        out = self._products[: shape[0] * shape[1]].view(shape)
        return (torch._int_mm if int8 else torch.mm)(rows, columns, out=out)

    def _reaching(
        self, products: torch.Tensor, rows: np.ndarray, columns: np.ndarray, same: bool, most: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Places, row by row, where a product reaches what its row or its column needs, and the products there; None where there
        are more than ``most``. Of the ``same`` block on both sides no group of columns that lies before its row.

        The greatest product of each group of columns is tested first: most groups hold none.
        """
        int8 = products.dtype == torch.int32
        if int8:
            rows, columns = (np.floor(x).astype(np.int32) for x in (rows, columns))
        else:
            rows, columns = (np.nextafter(x.astype(np.float32), np.float32(-2)) for x in (rows, columns))
        width, never = len(columns), np.iinfo(np.int32).max if int8 else np.inf
        columns = np.pad(columns, (0, products.shape[1] - width), constant_values=never)
        rows, columns = (torch.from_numpy(x).to(self.device) for x in (rows, columns.reshape(-1, GROUP)))
        products = products[: len(rows)].unflatten(1, (-1, GROUP))
        hit = products.amax(2) >= torch.minimum(rows[:, None], columns.amin(1))
        if same:
            hit &= torch.arange(GROUP - 1, hit.shape[1] * GROUP, GROUP, device=self.device) > torch.arange(
                len(rows), device=self.device
            ).unsqueeze(1)
        i, group = hit.nonzero(as_tuple=True)
        if most is not None and len(i) > most:
            return None
        near = products[i, group]
        reached = (near >= rows[i, None]) | (near >= columns[group])
        i, group, near, reached = (x.cpu().numpy() for x in (i, group, near, reached))
        at = np.flatnonzero(reached)
        found = at // GROUP
        i, j, values = i[found], at + ((group - np.arange(len(group))) * GROUP)[found], near.ravel()[at].astype(np.float32)
        if width % GROUP:
            real = j < width
            return i[real], j[real], values[real]
        return i, j, values

    def _scores(self, left: Block, right: Block, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Exact scores of the pairs (i, j); only the columns that are named are made wide, the rows once for a row of tiles."""
        rows = self._wide("left", left)
        if left is right:
            return exact_scores(rows, rows, i, j)
        named = np.zeros(right.stop - right.start, bool)
        named[j] = True
        columns = self._wide("right", right, np.flatnonzero(named))
        return exact_scores(rows, columns, i, (np.cumsum(named) - 1)[j])

    def _wide(self, side: str, block: Block, rows: np.ndarray | None = None) -> torch.Tensor:
        """The block's vectors in double precision, in a buffer that the next block of that side overwrites."""
        if rows is None and self._converted.get(side) is block:
            return self._exact[side][: block.stop - block.start]
        single = block.wide() if rows is None else block.wide(rows)  # from half to double precision at once takes twice as long
        if side not in self._exact or len(self._exact[side]) < len(single):
            most = max(len(single), block.stop - block.start)
            self._exact[side] = torch.empty((most, single.shape[1]), dtype=torch.float64, device=self.device)
        self._converted[side] = block
        return self._exact[side][: len(single)].copy_(single)
