"""What can be measured of written texts before anything is trained on them: can either half of a query do without the other, how
varied are the texts, how long, and do they tell of the source what a query must leave to the picture.

Pure functions over a shard's rows; :mod:`mmret.annotate.quality.measure` fetches what they need. None of it is in the paper, which
publishes no figure on its texts. Costs about 10 us a text, and one matrix product of (sample, gallery).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmret.annotate.checks import names_only_source

_TOKEN = re.compile(r"\w+(?:['’-]\w+)*")
INSTRUCTION_BINS, DESCRIPTION_BINS = tuple(range(0, 41, 2)), tuple(range(0, 161, 8))
"""Lower edges of the histograms, in words; the last bin is open."""


def tokens(text: str) -> list[str]:
    """Words of ``text`` without case or punctuation; a script without spaces gives long ones."""
    return [t.casefold() for t in _TOKEN.findall(text)]


def distinct(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """distinct-n (Li et al., 2016): different n-grams over all n-grams of ``texts``, each a list of words. It falls with the number
    of texts, so only samples of a like size compare. None where no text is long enough."""
    grams = [gram for words in texts for gram in zip(*(words[i:] for i in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else None


def repeated(texts: Sequence[str]) -> float | None:
    """Share of texts that stand more than once among ``texts``."""
    counts = Counter(texts)
    return sum(n for n in counts.values() if n > 1) / len(texts) if texts else None


def lengths(counts: Sequence[int], bins: Sequence[int]) -> dict[str, Any]:
    """Histogram and quantiles of word counts: ``bins`` (lower edges), ``counts``, ``p5``, ``p50``, ``p95``."""
    if not len(counts):
        return {"bins": list(bins), "counts": [0] * len(bins)}
    found = np.histogram(counts, [*bins, np.inf])[0]
    low, middle, high = np.percentile(counts, [5, 50, 95])
    return {"bins": list(bins), "counts": found.tolist(), "p5": float(low), "p50": float(middle), "p95": float(high)}


def leakage(texts: Sequence[str], sources: Sequence[str], targets: Sequence[str], language: str) -> float | None:
    """Share of ``texts`` that name something which, by the two captions, only the source has, and not in order to change it.

    None for languages other than English, whose words of change are not known here, and where no caption is known.
    """
    if language.casefold() != "english":
        return None
    rows = [(t, s, g) for t, s, g in zip(texts, sources, targets, strict=True) if s and g]
    return sum(names_only_source(*row) for row in rows) / len(rows) if rows else None


def found_first(
    queries: np.ndarray, targets: np.ndarray, gallery: np.ndarray, excluded: np.ndarray, others: Sequence[np.ndarray]
) -> np.ndarray:
    """Whether each query's target is nearer to it than every other candidate: (n,) bool.

    ``queries``, ``targets``: (n, d) unit vectors. ``gallery``: (m, d), the candidates that all share; ``excluded``: (n, m) bool,
    those of them that are no candidate of a query (its own picture, its target). ``others``: n arrays (k_i, d), its mined
    negatives. A tie counts as not found: a twin of the target cannot be told from it.
    """
    own = np.einsum("nd,nd->n", queries, targets)
    best = np.where(excluded, -np.inf, queries @ gallery.T).max(1, initial=-np.inf)
    near = np.array([(o @ q).max(initial=-np.inf) for q, o in zip(queries, others, strict=True)])
    return own > np.maximum(best, near) + 1e-6


def redundancy(by_text: np.ndarray, by_image: np.ndarray, candidates: int) -> dict[str, float | int]:
    """Shares of the sample found by the text alone, by the image alone, by either and by neither."""
    return {
        "sample": len(by_text),
        "candidates": candidates,
        "text_alone": float(by_text.mean()),
        "image_alone": float(by_image.mean()),
        "either": float((by_text | by_image).mean()),
        "neither": float((~by_text & ~by_image).mean()),
    }
