"""Refuses vectors that are no unit vectors of finite numbers: one damaged weight makes every score meaningless without an error.

Checked wherever vectors are made or read in. Cost: one pass over them, some GB/s.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmret.errors import UserError

TOLERANCE = 1e-3
"""Largest accepted distance of a float32 vector's length from 1."""


class UnusableVectors(UserError):
    """``row``: position of the first; ``kind``: what is wrong with it; ``count``: how many there are."""

    def __init__(self, row: int, kind: str, count: int, words: str):
        super().__init__(words)
        self.row, self.kind, self.count = row, kind, count


def require_unit(vectors: np.ndarray, words: Callable[[int, str], str], tolerance: float = TOLERANCE) -> np.ndarray:
    """``vectors`` (n, d) of floats, themselves. Raises UnusableVectors with ``words(row, kind)`` where one is not of unit length.

    >>> require_unit(np.eye(2, dtype=np.float32), lambda row, kind: f"row {row}: {kind}")
    """
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.linalg.norm(vectors.astype(np.float32, copy=False), axis=1)
        off = np.flatnonzero(~(np.abs(lengths - 1) < tolerance))  # true for not-a-number too
    if len(off):
        row = int(off[0])
        kind = kind_of(vectors[row])
        raise UnusableVectors(row, kind, len(off), words(row, kind))
    return vectors


def kind_of(vector: np.ndarray) -> str:
    """What is wrong with a vector (d,) that is no unit vector, in words."""
    if not np.isfinite(vector).all():
        return "a vector that is not of finite numbers"
    if not vector.any():
        return "a vector of zeros"
    return f"a vector of length {float(np.linalg.norm(vector.astype(np.float32))):.4g} instead of 1"
