"""Exact ranking of a gallery of vectors, and recall: every figure and every search of this project goes through it.

A target that ties with other images ranks behind them, and vectors that are not numbers are refused, so that a collapsed or
broken model never looks good. Pure numpy. Cost: one (block, gallery) product per block of queries, at most ``BLOCK_BYTES``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

from mmret.errors import UserError

BLOCK_BYTES = 256 * 2**20
"""Bytes of scores in memory at once."""


def rank(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    exclude: Sequence[Collection[int]] | None = None,
    behind: Sequence[Collection[int]] | None = None,
) -> np.ndarray:
    """Positions in ``gallery`` (n, d) of the ``k`` highest scores for each of ``queries`` (q, d): (q, k) int64, best
    first.

    ``exclude[i]`` are positions that query i must not find; where fewer than ``k`` are left the row ends in -1. Equal
    scores are in the gallery's order, except that those of ``behind[i]``, the targets of an evaluation, come after
    all others. Raises UserError for vectors that are not finite.

        rank(queries, vectors, 10, exclude=[{reference} for reference in references])
    """
    found = np.full((len(queries), k), -1, dtype=np.int64)
    for first, scores in _score_blocks(queries, gallery, exclude):
        for row, score in enumerate(scores):
            allowed = np.flatnonzero(score > -np.inf)
            if len(allowed) > k:
                worst = np.partition(score[allowed], -k)[-k]
                allowed = allowed[score[allowed] >= worst]  # with all that tie with the last
            last = np.isin(allowed, list(behind[first + row])) if behind is not None else None
            best = allowed[best_first(score[allowed], last)][:k]
            found[first + row, : len(best)] = best
    return found


def best_first(scores: np.ndarray, behind: np.ndarray | None = None) -> np.ndarray:
    """Positions (n,) int64 of ``scores`` (n,), highest first.

    Equal scores are ordered by ``behind`` (n,) bool or small integers, lowest first, then by position. Raises UserError for
    scores that are not finite.
    """
    if not np.isfinite(scores).all():
        raise UserError(f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} scores are not finite: the model is broken")
    ties = (np.arange(len(scores)),) if behind is None else (np.arange(len(scores)), behind)
    return np.lexsort((*ties, -scores))


def target_ranks(
    queries: np.ndarray, gallery: np.ndarray, targets: Sequence[Collection[int]], exclude: Sequence[Collection[int]] | None = None
) -> np.ndarray:
    """Rank (q,) int64, from 1, of the best of ``targets[i]`` for query i: 1 and how many that are no target score as high or
    higher.

    ``queries`` (q, d), ``gallery`` (n, d) and ``exclude`` as in :func:`rank`. Raises UserError for vectors that are not finite.
    """
    ranks = np.empty(len(queries), dtype=np.int64)
    for first, scores in _score_blocks(queries, gallery, exclude):
        for row, score in enumerate(scores):
            own = list(targets[first + row])
            best = score[own].max()
            ranks[first + row] = 1 + np.count_nonzero(score >= best) - np.count_nonzero(score[own] >= best)
    return ranks


def wrong_ranks(
    queries: np.ndarray, gallery: np.ndarray, wrong: Sequence[Collection[int]], exclude: Sequence[Collection[int]] | None = None
) -> list[np.ndarray]:
    """Ranks (w,) int64, from 1, of every one of ``wrong[i]`` for query i, each before all that it ties with: 1 and how many score
    higher.

    So a wrong picture that ties with the target of :func:`target_ranks` stands before it. Arguments and errors as there.
    """
    found: list[np.ndarray] = []
    for first, scores in _score_blocks(queries, gallery, exclude):
        for row, score in enumerate(scores, first):
            own = score[list(wrong[row])]
            found.append(1 + np.count_nonzero(score > own[:, None], axis=1))
    return found


def recall_at(ranks: np.ndarray, ks: Iterable[int]) -> dict[str, float]:
    """``{"R@k": percent of queries whose best target is among the first k}`` of ranks (q,) from 1; 0 where there are no
    queries.

    >>> recall_at(np.array([1, 3, 6, 60]), (1, 5))
    {'R@1': 25.0, 'R@5': 50.0}
    """
    return {f"R@{k}": 100.0 * float(np.mean(ranks <= k)) if len(ranks) else 0.0 for k in ks}


def _score_blocks(
    queries: np.ndarray, gallery: np.ndarray, exclude: Sequence[Collection[int]] | None
) -> Iterator[tuple[int, np.ndarray]]:
    """First query and scores (b, n) float32 of each block, the excluded at -inf."""
    for name, vectors in (("queries", queries), ("gallery", gallery)):
        if not np.isfinite(vectors).all():
            broken = int((~np.isfinite(vectors)).any(axis=1).sum())
            raise UserError(
                f"{broken} vectors of the {name} are not finite: the model is broken (a training run that "
                "diverged?); train it again with a lower learning rate"
            )
    block = max(1, BLOCK_BYTES // (4 * max(1, len(gallery))))
    for first in range(0, len(queries), block):
        with np.errstate(over="ignore", invalid="ignore"):
            scores = queries[first : first + block] @ gallery.T
        if not np.isfinite(scores).all():
            raise UserError("products of the vectors overflow: they are no unit vectors, the model is broken")
        if exclude is not None:
            for row, positions in enumerate(exclude[first : first + block]):
                scores[row, list(positions)] = -np.inf
        yield first, scores
