"""Measures of written texts before anything is trained on them: how varied and how long they are, whether they name what only the
source picture has, and whether half of a query, the picture or the text alone, already finds the target.

Pure functions; :mod:`mmret.annotate.quality.measure` fetches what they need. None of it is in the paper, which publishes no figure
on its texts. Costs about 10 us a text, and one matrix product of (sample, gallery).
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
    """Words of ``text`` without case or punctuation; a text of a script without spaces is one word between punctuation marks.

    >>> tokens("Make it red.")
    ['make', 'it', 'red']
    """
    return [t.casefold() for t in _TOKEN.findall(text)]


def distinct_n(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """distinct-n (Li et al., 2016): different n-grams over all n-grams of ``texts``, each a list of words, 0 to 1.

    It falls with the number of texts, so compare samples of about the same size. None where no text has n words.
    """
    grams = [gram for words in texts for gram in zip(*(words[i:] for i in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else None


def repeat_share(texts: Sequence[str]) -> float | None:
    """Share of ``texts`` that have an identical one among the others, 0 to 1; None where there are no texts."""
    counts = Counter(texts)
    return sum(n for n in counts.values() if n > 1) / len(texts) if texts else None


def length_histogram(counts: Sequence[int], bins: Sequence[int]) -> dict[str, Any]:
    """Histogram and quantiles of word counts: ``bins`` (lower edges), ``counts``, ``p5``, ``p50``, ``p95``."""
    if not len(counts):
        return {"bins": list(bins), "counts": [0] * len(bins)}
    found = np.histogram(counts, [*bins, np.inf])[0]
    low, middle, high = np.percentile(counts, [5, 50, 95])
    return {"bins": list(bins), "counts": found.tolist(), "p5": float(low), "p50": float(middle), "p95": float(high)}


def leakage(texts: Sequence[str], sources: Sequence[str], targets: Sequence[str], language: str) -> float | None:
    """Share of ``texts`` (0 to 1) that name something that only the source picture has, other than in order to change it.

    ``sources``, ``targets``: captions, one per text. None for languages other than English, whose words for a change are not known
    here, and where no caption is known.
    """
    if language.casefold() != "english":
        return None
    rows = [(t, s, g) for t, s, g in zip(texts, sources, targets, strict=True) if s and g]
    return sum(names_only_source(*row) for row in rows) / len(rows) if rows else None


def hits_at_1(
    queries: np.ndarray, targets: np.ndarray, gallery: np.ndarray, excluded: np.ndarray, negatives: Sequence[np.ndarray]
) -> np.ndarray:
    """Whether each query's target is nearer to it than every other candidate (hit@1): (n,) bool.

    ``queries``, ``targets``: (n, d) unit vectors. ``gallery``: (m, d), the candidates that all share; ``excluded``: (n, m) bool,
    those of them that are no candidate of a query (its own picture, its target). ``negatives``: n arrays (k_i, d), its mined
    negatives. A tie counts as not first: a copy of the target cannot be told from it.
    """
    target = np.einsum("nd,nd->n", queries, targets)
    best_of_gallery = np.where(excluded, -np.inf, queries @ gallery.T).max(1, initial=-np.inf)
    best_negative = np.array([(v @ q).max(initial=-np.inf) for q, v in zip(queries, negatives, strict=True)])
    return target > np.maximum(best_of_gallery, best_negative) + 1e-6


def redundancy(by_text: np.ndarray, by_image: np.ndarray, candidates: int) -> dict[str, float | int]:
    """Shares of the sample found by the text alone, by the image alone, by either and by neither.

    ``by_text``, ``by_image``: (n,) bool of :func:`hits_at_1`; ``candidates``: size of the gallery they were searched in.
    """
    return {
        "sample": len(by_text),
        "candidates": candidates,
        "text_alone": float(by_text.mean()),
        "image_alone": float(by_image.mean()),
        "either": float((by_text | by_image).mean()),
        "neither": float((~by_text & ~by_image).mean()),
    }
