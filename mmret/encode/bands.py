"""Proposes the band of an encoder: between which similarities two pictures count as neighbours.

The paper uses 0.8 to 0.96 for all encoders. But the same two pictures score 0.85 with one model and 0.55 with another, so
the band is worked out from the corpus.

The upper end is where near-duplicates begin: told from pairs known to be near-duplicates (augmented views) or, without any,
from the nearest neighbours in the corpus. The lower end is where a typical image has a certain number of neighbours in the
band, or higher where random pairs reach such scores too. Cost: a few thousand images against all, 20 us an image of the corpus.
"""

from __future__ import annotations

import numpy as np

from mmret.errors import UserError
from mmret.settings import BandSettings

QUERIES = 2_000  # images that stand for the corpus
MISSED_DUPLICATES = 0.05  # share of the known near-duplicates that may fall into the band
DUPLICATES_ASSUMED = 0.02  # share of images taken to have a near-duplicate where none are known
BACKGROUND = 3.0  # deviations that low stays above the median score of random pairs
MIN_NEIGHBOURS = 10  # neighbours that the median image keeps even where the background is wide
MIN_WIDTH = 0.002  # width that is left of a band at least: float16 blurs scores by up to 0.001


def propose(vectors: np.ndarray, near_duplicates: np.ndarray | None = None, *, neighbours: int = 30, seed: int = 0) -> BandSettings:
    """The band that these vectors of one signal propose.

    vectors: (n, d) unit vectors of the corpus or of a sample of it, any float dtype; near_duplicates: (m,) cosines of pairs
    known to be near-duplicates, or None; neighbours: how many the median image should have in the band (in a small corpus
    a tenth of its images). Where that would need scores that random pairs reach too (see ``BACKGROUND``), low is raised, but
    not so far that fewer than ``MIN_NEIGHBOURS`` are left. Raises UserError for fewer than three vectors or vectors that are
    not finite.

    >>> propose(read_vectors(lake, "shard-00000", "clip_image")[1])
    """
    vectors = np.asarray(vectors)
    count = len(vectors)
    if count < 3:
        raise UserError(f"a band cannot be proposed from {count} images: set low and high, for example 0.8 and 0.96")
    if not np.isfinite(vectors).all():
        raise UserError("a band cannot be proposed from vectors that are not finite: encode the images again")
    scores, background = _scores(vectors.astype(np.float32, copy=False), seed)
    known = near_duplicates is not None and len(near_duplicates) > 0
    nearest, share = (near_duplicates, MISSED_DUPLICATES) if known else (scores[:, 0], 1 - DUPLICATES_ASSUMED)
    high = float(np.clip(np.quantile(nearest, share), -1 + 2 * MIN_WIDTH, 1 - MIN_WIDTH))
    below = (scores >= high).sum(1)  # near-duplicates of each query come first

    def low_for(neighbours: int) -> float:
        place = np.minimum(below + max(1, min(neighbours, count // 10)) - 1, scores.shape[1] - 1)
        return float(np.median(np.take_along_axis(scores, place[:, None], 1)))

    middle, under = np.quantile(background, [0.5, 0.16])  # the lower half: true neighbours widen the upper one
    low = np.clip(middle + BACKGROUND * (middle - under), low_for(neighbours), low_for(min(neighbours, MIN_NEIGHBOURS)))
    low = float(min(low, high - MIN_WIDTH))
    return BandSettings(low=round(low, 4), high=round(high, 4))


def _scores(vectors: np.ndarray, seed: int, top: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Best scores of a sample of images against all others, (q, top) descending, and those of random pairs."""
    rng = np.random.default_rng(seed)
    count = len(vectors)
    queries = np.sort(rng.choice(count, min(QUERIES, count), replace=False))
    top = min(top, count - 1)
    best = np.empty((len(queries), top), np.float32)
    for start in range(0, len(queries), 64):
        chosen = queries[start : start + 64]
        scores = vectors[chosen] @ vectors.T
        scores[np.arange(len(chosen)), chosen] = -np.inf
        best[start : start + 64] = -np.sort(-np.partition(scores, count - top, axis=1)[:, count - top :], axis=1)
    one, other = rng.integers(count, size=(2, 100_000))
    one, other = one[one != other], other[one != other]
    return best, np.einsum("nd,nd->n", vectors[one], vectors[other])
