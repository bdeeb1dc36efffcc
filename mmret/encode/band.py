"""A band for a space nobody has measured before: where its near-duplicates begin and where mere resemblance ends."""

from __future__ import annotations

import numpy as np

from mmret.settings import BandSettings

QUERIES, NEIGHBOURS, MARGIN = 1000, 40, 0.002


def propose(vectors: np.ndarray, near_duplicates: np.ndarray) -> BandSettings:
    """Band of a space from its unit vectors (n, d) and the similarities of known near-duplicates (m,).

    High: below all but 5 % of the near-duplicates, and below identity by more than float16 can blur. Low: so that the
    median image has about 40 neighbours in the band, or a tenth of a small corpus.
    """
    high = min(float(np.quantile(near_duplicates, 0.05)), 1 - MARGIN)
    n = len(vectors)
    queries = vectors[:: max(1, n // QUERIES)]
    scores = queries.astype(np.float32) @ vectors.T.astype(np.float32)
    scores[scores >= high] = -1.0
    rank = max(1, min(NEIGHBOURS, n // 10))
    low = float(np.median(np.partition(scores, n - rank, axis=1)[:, n - rank]))
    low = min(low, high - MARGIN)
    return BandSettings(low=round(low, 4), high=round(high, 4))
