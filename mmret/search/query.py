"""What is asked and what is answered: a picture, a text or both, and the pictures found. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

COLUMNS = ["image_id", "path", "root", "caption", "licence"]
"""Columns of table ``images`` that a hit has."""


@dataclass(frozen=True)
class Query:
    """A picture (file contents, or ``image_id``, one of the corpus), a text, or both: the picture, changed as the text says.

    ``target``: the image id whose rank is of interest. A query picture that is in the corpus is not among its own results.
    """

    image: bytes | None = None
    text: str = ""
    target: str | None = None
    image_id: str | None = None


@dataclass(frozen=True)
class Page:
    """Which results are wanted: ``k`` of them after the first ``offset``, among pictures that fulfil ``where`` (a SQL condition
    over table ``images``, see :mod:`mmret.search.filters`); ``explain``: with the score of picture and text alone. ``rerank``: a
    reranker's recipe, by whose scores the first ``rerank_depth`` are ordered; those after them stay as they were."""

    k: int = 20
    offset: int = 0
    where: str = ""
    explain: bool = False
    rerank: str | None = None
    rerank_depth: int = 50


@dataclass(frozen=True)
class SearchResult:
    """``hits``: rows with ``score`` (cosine) and :data:`COLUMNS`, best first; explained, also ``image_score`` and ``text_score``,
    the cosine of the hit with the query's picture and with its text alone, None where the query has no such part; reranked, also
    ``rerank_score``, None behind the depth, by which and not by ``score`` they are ordered.

    ``target_rank``: from 1, None without a target. ``gallery``: how many pictures were searched, ``matching``: how many of them
    fulfil the filter. ``checkpoint``: digest of the weights that answered. ``exact``: every picture was compared by its full
    vector. ``recall``: share of the ten nearest that the index finds, measured when it was built; None where there is no index.
    """

    hits: list[dict[str, Any]]
    target_rank: int | None
    gallery: int
    matching: int
    checkpoint: str
    exact: bool
    recall: float | None
