"""Finds texts that do not lead from their source to their target: filter ``consistency``.

The scorers of all signals (:mod:`.scorers`) see every text with its own pair, and with what is certainly wrong: a text of another
pair, and another target of the same source. A logistic regression weighs the signals so as to tell those apart, which is how far
the encoders agree; how much of the lowest scores is wrong is told by how the wrong ones are distributed, whose rate is read from
where hardly a right text falls (:func:`threshold`). No truth is needed, and a lake without faults loses next to nothing. Cost:
two fits of each signal, some 15 s for 24,000 triplets of 3 texts on one core; linear in the texts beyond that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmret.filters.corpus import Corpus, Triplets, halves
from mmret.filters.scorers import WORDS, CrossFitted, text_bags

LEAST = 64
"""Texts below which nothing can be told."""
PRECISION = 0.92
"""Share of what is dropped that is to be wrong."""
_SIBLINGS, _BOUND = 0.5, 8.0
_SHARES = np.concatenate([np.arange(0, 0.9, 0.05), np.arange(0.9, 0.99, 0.01), np.arange(0.99, 1.0001, 0.002)])
_LOWER = 0.6
PASSES = 1


@dataclass(frozen=True)
class Consistency:
    """``scores`` (n,) of the texts, log-odds of going with their pair; ``threshold``: those at or below it are dropped;
    ``against`` (n, signals): which of ``signals`` says so by itself; ``why_not``: why nothing is judged, or None."""

    scores: np.ndarray
    threshold: float
    signals: tuple[str, ...]
    against: np.ndarray
    why_not: str | None = None

    @property
    def dropped(self) -> np.ndarray:
        return self.scores <= self.threshold


def consistency(corpus: Corpus, triplets: Triplets) -> Consistency:
    """What is said of each of ``triplets.texts``."""
    count = len(triplets.texts)
    if why_not := _why_not(corpus, triplets):
        return Consistency(np.zeros(count, np.float32), -np.inf, (), np.zeros((count, 0), bool), why_not)
    bags, half = text_bags(triplets), halves(corpus, triplets.query)
    signals = (WORDS, *corpus.vectors)
    own, texts_wrong, targets_wrong = _cases(triplets)
    keep = np.ones(len(triplets), bool)
    found = None
    for _ in range(PASSES):  # the second time without what the first found, which would teach what is wrong
        columns = [CrossFitted(signal, corpus, triplets, bags, half, keep) for signal in signals]

        def scored(case: tuple[np.ndarray, np.ndarray], columns: list[CrossFitted] = columns) -> np.ndarray:
            texts, pairs = case
            return np.stack([c.scores(texts, triplets.query[pairs], triplets.target[pairs], half[pairs]) for c in columns], axis=1)

        found = _judged(triplets, signals, scored(own), scored(texts_wrong), scored(targets_wrong))
        keep = np.bincount(triplets.row, ~found.dropped, minlength=len(triplets)) > 0
    return found


def _why_not(corpus: Corpus, triplets: Triplets) -> str | None:
    if len(triplets.texts) < LEAST:
        return f"{len(triplets.texts)} texts are too few to tell which fits its pair: {LEAST} are needed"
    if len(set(triplets.texts)) < 2:
        return "all texts are the same, so none fits a pair better than another"
    if not any(corpus.captions) and not corpus.vectors:
        return "there are neither captions nor vectors to compare texts with"
    if min(np.bincount(halves(corpus, triplets.query), minlength=2)) < 8:
        return "too few query pictures to judge some by what others teach"
    return None


def _cases(triplets: Triplets) -> list[tuple[np.ndarray, np.ndarray]]:
    """(texts, triplets whose pair they are tried with): as they are, texts of other triplets, and other targets of the source."""
    rng, row = np.random.default_rng(0), triplets.row
    texts = np.arange(len(row))
    # all texts of a triplet are replaced by those of one other, as a fault would
    partner = rng.integers(0, len(triplets), len(triplets))
    partner = np.where(np.diff(triplets.starts)[partner] > 0, partner, row[rng.integers(0, len(row), len(triplets))])
    place = (texts - triplets.starts[row]) % np.maximum(1, np.diff(triplets.starts)[partner[row]])
    by_query = np.argsort(triplets.query, kind="stable")
    first = np.searchsorted(triplets.query[by_query], triplets.query)
    size = np.searchsorted(triplets.query[by_query], triplets.query, side="right") - first
    at = np.empty(len(triplets), np.int64)
    at[by_query] = np.arange(len(triplets))
    step = 1 + rng.integers(0, np.maximum(1, size - 1))
    other = by_query[first + (at - first + step) % size]
    alone = (triplets.target[other] == triplets.target) | (size < 2)
    other = np.where(alone, partner, other)
    return [(texts, row), (triplets.starts[partner[row]] + place, row), (texts, other[row])]


def _judged(triplets: Triplets, signals: tuple[str, ...], own: np.ndarray, *wrong: np.ndarray) -> Consistency:
    """``own`` (n, signals) as the texts are, ``wrong`` the same of the two certain faults."""
    every = np.concatenate([own, *wrong])
    centre, spread = own.mean(axis=0), own.std(axis=0) + 1e-6
    label = np.repeat([1.0, 0.0], [len(own), len(every) - len(own)])
    importance = np.repeat([1.0, 1 / len(wrong)], [len(own), len(every) - len(own)])
    weights = logistic((every - centre) / spread, label, importance)
    log_odds = [_with_siblings(triplets, _linear((x - centre) / spread, weights)) for x in (own, *wrong)]
    null = np.concatenate(log_odds[1:])
    by_signal = [_with_siblings(triplets, own[:, s]) for s in range(len(signals))]
    nulls = [np.concatenate([_with_siblings(triplets, x[:, s]) for x in wrong]) for s in range(len(signals))]
    against = [scores <= threshold(scores, null) for scores, null in zip(by_signal, nulls, strict=True)]
    return Consistency(log_odds[0].astype(np.float32), threshold(log_odds[0], null), signals, np.stack(against, axis=1))


def _linear(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.clip(x @ weights[:-1] + weights[-1], -_BOUND, _BOUND)


def _with_siblings(triplets: Triplets, scores: np.ndarray) -> np.ndarray:
    """Each text's score and half the mean of its triplet's other texts, which are wrong together where the target is."""
    row = triplets.row
    total, count = np.bincount(row, scores, len(triplets)), np.bincount(row, minlength=len(triplets))
    others = np.where(count[row] > 1, (total[row] - scores) / np.maximum(1, count[row] - 1), scores)
    return (scores + _SIBLINGS * others) / (1 + _SIBLINGS)


def logistic(x: np.ndarray, label: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Weights (columns + 1,) of a logistic regression, the constant last; weights of columns are not below zero, since no signal
    speaks for what does not fit it."""
    one = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    free = np.ones(one.shape[1], bool)
    while True:
        part, weights = one[:, free], np.zeros(int(free.sum()))
        for _ in range(25):
            p = 1 / (1 + np.exp(-np.clip(part @ weights, -30, 30)))
            ridge = 1e-3 * np.eye(len(weights)) * len(part)
            hessian = (part * (importance * p * (1 - p))[:, None]).T @ part + ridge
            step = np.linalg.solve(hessian, part.T @ (importance * (p - label)) + ridge @ weights)
            weights = weights - step
            if np.abs(step).max() < 1e-6:
                break
        full = np.zeros(one.shape[1])
        full[free] = weights
        if (full[:-1] >= 0).all():
            return full
        free &= full >= 0
        free[-1] = True


def threshold(scores: np.ndarray, null: np.ndarray) -> float:
    """The score at or below which a text is wrong rather than right, where wrong ones are distributed as ``null`` (m,).

    Beside each share of ``null`` the share of ``scores`` (n,) is counted. Where hardly a right one falls, in the lower part, that
    ratio is the rate of wrong ones, and where right ones come in it grows. The threshold lies where, of all below, ``PRECISION``
    is wrong by that rate. -inf where nothing is found.

    >>> rng = np.random.default_rng(0)
    >>> 1 < threshold(np.concatenate([rng.normal(6, 1, 900), rng.normal(0, 1, 100)]), rng.normal(0, 1, 1000)) < 5
    True
    """
    edges = np.quantile(null, _SHARES)
    found = np.searchsorted(np.sort(scores), edges, side="right").astype(float)
    found[0] = 0  # those below all of the null are as wrong as its lowest
    ratio = np.diff(found) / len(scores) / np.diff(_SHARES)
    rate = float(np.median(ratio[_SHARES[1:] <= _LOWER]))
    if rate == 0:
        return -np.inf
    wrong = np.minimum(np.diff(found), rate * np.diff(_SHARES) * len(scores))
    good = np.flatnonzero((np.cumsum(wrong) >= PRECISION * found[1:]) | (_SHARES[1:] <= _LOWER))
    return float(edges[good[-1] + 1])
