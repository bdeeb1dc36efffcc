"""In which order an epoch shows the rows of a task: a function of the seed, the epoch and the rows.

Rows are drawn by hashes of their keys, so that two rows keep their order whatever other rows there are. Cost: a sort of the rows,
some 0.1 s for a million, 0.5 s where those of a picture stand together.
"""

from __future__ import annotations

import numpy as np

from mmret.hashing import draws


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
