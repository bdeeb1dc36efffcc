"""In which order an epoch shows the queries of a task: a function of the seed, the epoch and the rows.

Rows are drawn by hashes of their keys, so that two rows keep their order whatever other rows there are; but where neighbours stand
together, their groups depend on all rows. Cost: a sort of the rows, some 0.1 s for a million, 0.5 s where those of a picture stand
together; with neighbours :func:`mmret.retriever.train.neighbours.grouped` besides.
"""

from __future__ import annotations

import numpy as np

from mmret.hashing import draws
from mmret.retriever.train.neighbours import grouped


def visit_order(keys: np.ndarray, pictures: np.ndarray | None, seed: int, epoch: int) -> np.ndarray:
    """Row numbers (n,) int64 at random. ``keys`` (n,) uint64 tell the rows apart; rows of one of ``pictures`` (n,) int64 stand
    together, None: each by itself."""
    drawn = draws(keys, seed, "order", epoch)
    if pictures is None:
        return np.argsort(drawn, kind="stable")
    _, where = np.unique(pictures, return_inverse=True)
    lowest = np.full(where.max(initial=-1) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(lowest, where, drawn)
    return np.lexsort((drawn, where, lowest[where]))


def flattened(rows: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The numbers of all queries of ``rows``, row after row: those of row i are ``starts[i]`` to ``starts[i + 1] - 1``."""
    counts = np.diff(starts)[rows]
    return np.repeat(starts[rows] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())


class NeighbourOrder:
    """The order where queries stand in blocks of ``size``, those of one block being of neighbouring pictures.

    ``rows`` (n,) int64: the picture of each row, numbers of ``edges`` (two (e,) int32). Rows of one picture are dealt to layers, so
    that a block has different pictures; with ``together`` they stand together instead. A row whose picture has no neighbour, and
    what is left of a neighbourhood, is a group of its own; such groups fill blocks at random. The last queries, fewer than a
    block, stand at the end.
    """

    def __init__(
        self, keys: np.ndarray, rows: np.ndarray, starts: np.ndarray, edges: tuple[np.ndarray, np.ndarray], together: bool
    ):
        self.keys, self.rows, self.starts, self.edges, self.together = keys, rows, starts, edges, together
        self.pictures = int(rows.max(initial=-1)) + 1

    def order(self, size: int, seed: int, epoch: int) -> np.ndarray:
        """Numbers of all queries in the order of ``epoch``."""
        queries = int(self.starts[-1])
        size = min(size, queries)
        visits = self.pictures if self.together else len(self.rows)
        found = grouped(self.pictures, *self.edges, max(1, size * visits // queries), seed, "groups", epoch)
        drawn = draws(self.keys, seed, "order", epoch)
        layer = np.zeros(len(self.rows), np.int64) if self.together else _rank(self.rows, drawn)
        rows = np.lexsort((drawn, found.place[self.rows], layer))
        order = flattened(rows, self.starts)
        counts = np.diff(self.starts)[rows]
        layers, groups, components = (
            np.repeat(of_row[rows], counts) for of_row in (layer, found.group[self.rows], found.component[self.rows])
        )
        whole = _runs(layers, groups)
        whole = (np.bincount(whole) == size)[whole]
        blocks, order = [order[whole]], order[~whole]
        run = _runs(layers[~whole], components[~whole])
        lengths = np.bincount(run, minlength=1)
        place = np.arange(len(order)) - (np.cumsum(lengths) - lengths)[run]
        in_block = place < (lengths - lengths % size)[run]
        blocks.append(order[in_block])
        loose, run = order[~in_block], run[~in_block]
        blocks.append(loose[np.argsort(draws(run.astype(np.uint64), seed, "loose", epoch), kind="stable")])
        return _shuffled(np.concatenate(blocks), size, seed, epoch)


def _rank(pictures: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """(n,): how many rows of the same picture come before, in the order of ``drawn``."""
    order = np.lexsort((drawn, pictures))
    counts = np.bincount(pictures)
    rank = np.empty(len(pictures), np.int64)
    rank[order] = np.arange(len(pictures)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank


def _runs(*columns: np.ndarray) -> np.ndarray:
    """Numbers from 0 on of the runs of rows that are equal in all ``columns`` (n,)."""
    new = np.zeros(len(columns[0]), dtype=bool)
    for column in columns:
        new[1:] |= np.diff(column) != 0
    return np.cumsum(new)


def _shuffled(order: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """``order`` with its blocks of ``size`` at random, what is left over at the end."""
    count = len(order) // size
    blocks = np.argsort(draws(np.arange(count, dtype=np.uint64), seed, "blocks", epoch), kind="stable")
    return np.concatenate([order[: count * size].reshape(count, size)[blocks].ravel(), order[count * size :]])
