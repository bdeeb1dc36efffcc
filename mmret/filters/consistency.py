"""Finds texts that do not lead from their source to their target: filter ``consistency``.

The scorers of all signals (:mod:`.scorers`) see every text with its own pair, and with what is certainly wrong: a text of another
pair, another target of the same source, and a target of any other. A logistic regression weighs the signals so as to tell those
apart, which is how far the encoders agree; how much of the lowest scores is wrong is told by how the wrong ones are distributed,
whose rate is read from where hardly a right text falls (:func:`threshold`). No truth is needed, and a lake without faults loses
next to nothing. Cost: two fits of each signal; with filter ``false_negatives`` some 40 s for 24,000 triplets of 3 texts on one core
beside other work; linear in the texts beyond that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmret.filters.corpus import Corpus, Triplets, halves
from mmret.filters.scorers import WORDS, CrossFitted, text_bags

LEAST = 1000
"""Texts below which nothing is told: of 360 texts without a fault up to a half were dropped, of 900 one in a hundred."""
MOST = 0.5
"""Where a larger share would be dropped, nothing is told from anything."""
_SIBLINGS, _BOUND = 0.5, 8.0
_SHARES = np.concatenate([np.arange(0, 0.9, 0.05), np.arange(0.9, 0.99, 0.01), np.arange(0.99, 1.0001, 0.002)])
_LOWER = 0.6


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
    columns = [CrossFitted(signal, corpus, triplets, bags, half) for signal in signals]

    def scored(texts: np.ndarray, targets: np.ndarray) -> np.ndarray:
        query, target, by = triplets.query[triplets.row], triplets.target[targets], half[triplets.row]
        return np.stack([c.scores(texts, query, target, by) for c in columns], axis=1)

    (texts, targets, _), *wrong = _cases(triplets)
    return _judged(triplets, signals, scored(texts, targets), *((scored(*case), certain) for *case, certain in wrong))


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


def _cases(triplets: Triplets) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(texts, triplets whose target they are tried with, whether it is another), each beside the source of its row: as they are,
    texts of other triplets, other targets of the source, and targets of other triplets."""
    rng, row = np.random.default_rng(0), triplets.row
    texts, every = np.arange(len(row)), np.arange(len(triplets))
    # all texts of a triplet are replaced by those of one other, as a fault would
    partner = _another(rng, len(triplets))
    partner = np.where(np.diff(triplets.starts)[partner] > 0, partner, row[rng.integers(0, len(row), len(triplets))])
    place = (texts - triplets.starts[row]) % np.maximum(1, np.diff(triplets.starts)[partner[row]])
    by_query = np.argsort(triplets.query, kind="stable")
    first = np.searchsorted(triplets.query[by_query], triplets.query)
    size = np.searchsorted(triplets.query[by_query], triplets.query, side="right") - first
    at = np.empty(len(triplets), np.int64)
    at[by_query] = every
    step = 1 + rng.integers(0, np.maximum(1, size - 1))
    other = by_query[first + (at - first + step) % size]
    # a fault that keeps the source: such targets agree more with the text by chance than another pair does
    elsewhere = _another(rng, len(triplets))
    differs = [triplets.target[case] != triplets.target for case in (other, elsewhere)]
    return [
        (texts, row, np.zeros(len(row), bool)),
        (triplets.starts[partner[row]] + place, row, (partner != every)[row]),
        (texts, other[row], differs[0][row]),
        (texts, elsewhere[row], differs[1][row]),
    ]


def _another(rng: np.random.Generator, count: int) -> np.ndarray:
    """For each of ``count`` things another one, drawn."""
    return (np.arange(count) + rng.integers(1, max(2, count), count)) % count


def _judged(triplets: Triplets, signals: tuple[str, ...], own: np.ndarray, *tried: tuple[np.ndarray, np.ndarray]) -> Consistency:
    """``own`` (n, signals) as the texts are, ``tried`` the same of each kind of fault, and (n,) bool: where it certainly is one."""
    wrong = [(scores, certain) for scores, certain in tried if certain.any()]
    every = np.concatenate([own, *(scores[certain] for scores, certain in wrong)])
    centre, spread = own.mean(axis=0), own.std(axis=0) + 1e-6
    label = np.repeat([1.0, 0.0], [len(own), len(every) - len(own)])
    importance = np.repeat([1.0, 1 / len(wrong)], [len(own), len(every) - len(own)])
    weights = logistic((every - centre) / spread, label, importance)

    def shared(scored: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
        """One score a text, with its siblings: of ``own``, then of each fault."""
        return [_with_siblings(triplets, scored(own)), *(_with_siblings(triplets, scored(x))[certain] for x, certain in wrong)]

    log_odds = shared(lambda x: _linear((x - centre) / spread, weights))
    limit, scores = threshold(*log_odds), log_odds[0].astype(np.float32)
    if (doubtful := float((log_odds[0] <= limit).mean())) > MOST:
        note = f"{doubtful:.0%} of the texts fit their pair no better than those of other pairs, too many to tell which are wrong"
        return Consistency(scores, -np.inf, signals, np.zeros(own.shape, bool), note)
    by_signal = [shared(lambda x, s=s: x[:, s]) for s in range(len(signals))]
    against = [cases[0] <= threshold(*cases) for cases in by_signal]
    limit = np.nextafter(np.float32(limit), np.float32(np.inf)) if np.isfinite(limit) else limit  # scores are rounded
    return Consistency(scores, float(limit), signals, np.stack(against, axis=1))


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


def threshold(scores: np.ndarray, *nulls: np.ndarray) -> float:
    """The score at or below which a text is wrong, where wrong ones are distributed as ``nulls``, each in a share of its own.

    The shares are fitted where hardly a right text falls, in the lower part of the nulls. Where right ones come in there are more
    than they say, and where there are twice as many, which is beyond chance, one of two is right: there the threshold lies. -inf
    where nothing is found.

    >>> rng = np.random.default_rng(0)
    >>> 1 < threshold(np.concatenate([rng.normal(6, 1, 900), rng.normal(0, 1, 100)]), rng.normal(0, 1, 1000)) < 5
    True
    """
    edges = np.quantile(np.concatenate(nulls), _SHARES)[1:]  # what lies below all nulls is as wrong as their lowest
    found, *wrong = (np.diff(np.searchsorted(np.sort(x), edges, side="right"), prepend=0).astype(float) for x in (scores, *nulls))
    expected = np.stack(wrong, axis=1) * [len(scores) / len(null) for null in nulls]
    lower = _SHARES[1:] <= _LOWER
    if not found[lower].any():
        return -np.inf
    expected = expected @ _shares(expected[lower], found[lower])
    near, near_expected = (np.convolve(np.pad(x, 1, mode="edge"), np.ones(3), mode="valid") for x in (found, expected))
    chance = 2 * np.sqrt(near_expected) + 2  # counts vary
    right = np.flatnonzero((found > 2 * expected + np.sqrt(expected)) & (near > 2 * near_expected + chance))
    end = int(right[0]) if len(right) else len(found)
    return float(edges[end - 1]) if end else -np.inf


def _shares(nulls: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The shares, none below zero, in which the columns of ``nulls`` add up to ``found``, by least squares of counts."""
    spread = 1 / np.sqrt(found + 1)
    parts, best, least = nulls * spread[:, None], np.zeros(nulls.shape[1]), np.inf
    for some in range(1, 2 ** nulls.shape[1]):
        columns = [n for n in range(nulls.shape[1]) if some >> n & 1]
        fitted = np.linalg.lstsq(parts[:, columns], found * spread, rcond=None)[0]
        error = float(((parts[:, columns] @ fitted - found * spread) ** 2).sum())
        if (fitted >= 0).all() and error < least:
            best, least = np.zeros(nulls.shape[1]), error
            best[columns] = fitted
    return best
