"""The exact kernel: all neighbours in a band, by blocked matrix products, one tile serving both of its sides.

For every pair of blocks: one product of their sketches (:mod:`mmret.mine.operands`), a threshold test of the whole tile
against the score each row and each column still needs, exact scores of the few pairs that pass, and both directions of
each into the top lists (:mod:`mmret.mine.toplists`). The thresholds are sure (measured error bounds), the scores of
what passes are exact and the order has no ties, so the result is that of brute force whatever tile, sharding or device.

Cost: n*n/2 products within a shard, n*m between two; at width 512 on two cores a product takes 0.55 ns and its test
0.3. Memory: six bytes per entry of one tile, the sketches of two shards and their top lists; nothing grows with the
corpus.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from mmret.mine.operands import Block, Matrix, exact
from mmret.mine.toplists import TopLists

_CPU_TILE = 2048  # the tile and its masks stay in the cache; larger ones gain nothing on a CPU


def device_of(name: str) -> torch.device:
    """``auto``: the GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def tile_rows(tile: int, device: torch.device) -> int:
    """Rows per side of a tile: the setting, smaller on a CPU."""
    return min(tile, _CPU_TILE) if device.type == "cpu" else tile


def within(matrix: Matrix, lists: TopLists, tick: Callable[[], None] = lambda: None) -> None:
    """Compare every row of a shard with every other one of it; ``tick`` is called after each row of tiles."""
    with _Scan(matrix, matrix) as scan:
        for a, left in enumerate(matrix.blocks):
            for b in range(a, len(matrix.blocks)):
                scan.tile(left, a, lists, matrix.blocks[b], b, lists)
            tick()


def between(left: Matrix, left_lists: TopLists, right: Matrix, right_lists: TopLists,
            tick: Callable[[], None] = lambda: None) -> None:
    """Compare every row of one shard with every row of another."""
    with _Scan(left, right) as scan:
        for a, left_block in enumerate(left.blocks):
            for b, right_block in enumerate(right.blocks):
                scan.tile(left_block, a, left_lists, right_block, b, right_lists)
            tick()


class _Scan:
    """The buffers and threads of one pass over tiles."""

    def __init__(self, left: Matrix, right: Matrix):
        self.device, self.int8 = left.device, left.int8
        height, width = (max((b.stop - b.start for b in m.blocks), default=0) for m in (left, right))
        self._masks = np.empty((2, height * width), bool) if self.device.type == "cpu" else None
        self._threads = ThreadPoolExecutor(torch.get_num_threads())

    def __enter__(self) -> _Scan:
        return self

    def __exit__(self, *exception: object) -> None:
        self._threads.shutdown()

    def tile(self, left: Block, a: int, left_lists: TopLists, right: Block, b: int, right_lists: TopLists) -> None:
        """Offer to both sides' lists whatever in this tile may belong there."""
        same = left is right
        products = self._product(left, right)
        unit = left.unit * right.unit
        need_left = left_lists.floor[left.start:left.stop] - left.error - right.error.max()
        need_right = right_lists.floor[right.start:right.stop] - right.error - left.error.max()
        i, j = self._above(products, need_left / unit, need_right / unit)
        if same:
            upper = j > i
            i, j = i[upper], j[upper]
        if not len(i):
            return
        score, error = self._at(products, i, j) * np.float32(unit), left.error[i] + right.error[j] + np.float32(1e-6)
        rows, columns = i + left.start, j + right.start
        maybe = (left_lists.wanted(rows, score + error, score - error)
                 | right_lists.wanted(columns, score + error, score - error))
        i, j, rows, columns = i[maybe], j[maybe], rows[maybe], columns[maybe]
        scores = exact(left.vectors, right.vectors, i, j)
        left_lists.add(a, rows, columns, scores)
        right_lists.add(b, columns, rows, scores)

    def _product(self, left: Block, right: Block) -> torch.Tensor:
        if not self.int8:
            return left.rows @ right.columns
        if self.device.type == "cpu":
            return torch._int_mm(left.rows, right.columns)
        # cuBLASLt takes more than 16 rows and multiples of eight
        rows, columns = max(32, -(-len(left.rows) // 8) * 8), max(32, -(-len(right.rows) // 8) * 8)
        padded = torch._int_mm(torch.nn.functional.pad(left.rows, (0, 0, 0, rows - len(left.rows))),
                               torch.nn.functional.pad(right.rows, (0, 0, 0, columns - len(right.rows))).T)
        return padded[:len(left.rows), :len(right.rows)]

    def _above(self, products: torch.Tensor, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places, row by row, where a product reaches what its row or its column needs."""
        if self.int8:
            rows, columns = (np.floor(x).astype(np.int32) for x in (rows, columns))
        else:
            rows, columns = (np.nextafter(x.astype(np.float32), np.float32(-2)) for x in (rows, columns))
        width = products.shape[1]
        if self._masks is None:
            rows, columns = (torch.from_numpy(x).to(self.device) for x in (rows, columns))
            places = ((products >= rows[:, None]) | (products >= columns)).flatten().nonzero().flatten().cpu().numpy()
            return np.divmod(places, width)
        values = products.numpy()
        one, other = (m[:values.size].reshape(values.shape) for m in self._masks)

        def strip(s: slice) -> np.ndarray:
            np.greater_equal(values[s], rows[s, None], out=one[s])
            np.greater_equal(values[s], columns, out=other[s])
            np.logical_or(one[s], other[s], out=one[s])
            return np.flatnonzero(one[s]) + s.start * width

        step = max(1, min(256, -(-len(values) // 2)))
        strips = [slice(s, s + step) for s in range(0, len(values), step)]
        return np.divmod(np.concatenate(list(self._threads.map(strip, strips))), width)

    def _at(self, products: torch.Tensor, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        if self._masks is not None:
            return products.numpy()[i, j].astype(np.float32)
        left, right = (torch.from_numpy(x).to(self.device) for x in (i, j))
        return products[left, right].float().cpu().numpy()
