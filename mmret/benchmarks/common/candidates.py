"""Ranks a query's own short candidate list, whose position 0 is the ground truth (GeneCIS, MMEB).

Because the ground truth comes first, a model that gives all candidates the same score would always be right by ``argmax``. So
a candidate that ties with the ground truth is ranked before it here, unless the two are the same picture and text, which no
model can tell apart (ChartQA repeats answers; one GeneCIS gallery repeats its target).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmret.ranking import best_first


def similarities(candidates: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Dot products (n,) of ``candidates`` (n, d) with ``query`` (d,): equal rows give equal values, bit for bit.

    A BLAS product does not promise that (it treats the rows at the end of a block by another kernel), so ties would be
    broken by rounding.
    """
    return (candidates * query).sum(axis=1)


def order(scores: np.ndarray, duplicates: Sequence[int] = ()) -> list[int]:
    """Positions of ``scores`` (n,) in the order best first.

    Position 0, the ground truth, comes after all positions of the same score except its ``duplicates``, which follow it.
    Raises UserError for scores that are not finite.

    >>> order(np.array([0.5, 0.5, 0.9]))
    [2, 1, 0]
    """
    place = np.zeros(len(scores), dtype=np.int8)
    place[0] = 1
    place[list(duplicates)] = 2
    return best_first(scores, place).tolist()


def duplicates_of_first(keys: Sequence[Any]) -> list[int]:
    """Positions after 0 whose key equals that of position 0."""
    return [i for i, key in enumerate(keys) if i and key == keys[0]]
