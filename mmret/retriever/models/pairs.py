"""Rerankers read a query and a candidate together: what is asked of one, whatever its kind. Needs no torch.

A side is a picture, a text, or both. Most pairs of a call share their query, and many share pictures, so callers give the same
object again and a reranker reads it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from mmret.errors import UserError

Picture = str | Path | bytes | Image.Image | np.ndarray


class Side(NamedTuple):
    """A query or a candidate: a picture, a text, or both."""

    image: Any = None
    text: str | None = None


class Scorer(Protocol):
    """A reranker of any kind. ``truncated`` counts the texts that were cut since loading."""

    truncated: int

    def score(self, queries: Sequence[Any], candidates: Sequence[Any], batch_size: int | None = None) -> np.ndarray:
        """Scores (n,) float32, higher is better, of each candidate for the query of the same row; of one query they compare."""


def sides(values: Sequence[Any], name: str) -> list[Side]:
    """``values`` as sides: each a picture, or a tuple (picture or None, text or None).

    Raises UserError for what is no list, and for a side that has neither part.
    """
    if isinstance(values, str | bytes | Path | Image.Image | Side):
        raise UserError(f"score takes lists: write {name}=[...], also for one")
    made = [Side(*value) if isinstance(value, tuple) else Side(value) for value in values]
    for row, side in enumerate(made, 1):
        if side.image is None and not (side.text or "").strip():
            raise UserError(f"{name}, row {row}: give a picture, a text or both")
    return made


def pairs_of(queries: Sequence[Any], candidates: Sequence[Any]) -> tuple[list[Side], list[Side]]:
    """Both sides of every pair. Raises UserError for unequal lengths and as :func:`sides`."""
    asked, found = sides(queries, "queries"), sides(candidates, "candidates")
    if len(asked) != len(found):
        raise UserError(f"score needs as many candidates as queries, row by row; got {len(asked)} and {len(found)}")
    return asked, found


def finite(scores: np.ndarray) -> np.ndarray:
    """``scores`` themselves. Raises UserError where one is no number."""
    if not np.isfinite(scores).all():
        raise UserError(
            f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} scores are not finite: the reranker's weights are damaged "
            "(a training run that diverged?); train or download it anew"
        )
    return scores
