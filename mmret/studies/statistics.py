"""What a few seeds allow to be said: paired differences with their 95 % intervals, and a claim judged by them.

Variants of a study are compared seed by seed, since runs of one seed saw the same draws: the interval is that of the mean
difference, by Student's t over the seeds that both have. Each interval is for its own comparison. A claim is "shown" only where
all the intervals that it needs say so, so that no correction for their number is due; "contradicted" takes one of them, which
chance gives in 2.5 % of the comparisons. Costs nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

Claim = Literal["rising", "last", "over_first"]
"""``rising``: every variant is above the one before; ``last``: the last is at least as good as each other; ``over_first``: every
variant is above the first."""
Verdict = Literal["shown", "not shown", "contradicted", "needs two seeds", "not measured"]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """``label`` minus ``over``, over the ``seeds`` that both have: mean, the ends of its 95 % interval and the number of seeds in
    which it is positive. Ends are None for one seed, the mean too for none."""

    label: str
    over: str
    seeds: int
    positive: int
    mean: float | None
    low: float | None
    high: float | None

    @property
    def verdict(self) -> Verdict:
        """Whether ``label`` is above ``over``."""
        if self.mean is None:
            return "not measured"
        if self.low is None or self.high is None:
            return "needs two seeds"
        return "shown" if self.low > 0 else "contradicted" if self.high < 0 else "not shown"

    def to_json(self) -> dict[str, Any]:
        rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return rounded | {"verdict": self.verdict}


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Ends of the 95 % interval of the mean of ``values``; None for fewer than two.

    >>> interval([1.0, 2.0, 3.0])  # 2 ± 4.303 * 1 / sqrt(3)
    (-0.484..., 4.484...)
    """
    if len(values) < 2:
        return None, None
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def difference(label: str, values: Mapping[int, float], over: str, others: Mapping[int, float]) -> Difference:
    """Of figures by seed."""
    gains = [values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())]
    mean = statistics.fmean(gains) if gains else None
    return Difference(label, over, len(gains), sum(gain > 0 for gain in gains), mean, *interval(gains))


def differences(claim: Claim, variants: Sequence[tuple[str, Mapping[int, float]]]) -> list[Difference]:
    """Those that ``claim`` is about; ``variants``: (label, figure by seed) in the study's order."""
    if claim == "rising":
        pairs = [(above, below) for below, above in zip(variants, variants[1:], strict=False)]
    elif claim == "last":
        pairs = [(variants[-1], other) for other in variants[:-1]]
    else:
        pairs = [(other, variants[0]) for other in variants[1:]]
    return [difference(*above, *below) for above, below in pairs]


def verdict(needed: Sequence[Difference]) -> Verdict:
    """Of a claim that needs all of ``needed`` to be above zero.

    "At least as good" is judged alike: no number of seeds tells equal from a little worse, so it counts as shown where the last is
    better than each. How much worse it may be is :func:`at_most_below`.
    """
    found = {d.verdict for d in needed}
    if "contradicted" in found:
        return "contradicted"
    for word in ("not measured", "needs two seeds", "not shown"):
        if word in found:
            return word
    return "shown"


def at_most_below(needed: Sequence[Difference]) -> float | None:
    """By how much the variants of ``needed`` are below what they are compared with at most, as far as the intervals tell; None
    where one has no interval. 0.0 where none reaches below zero."""
    lows = [d.low for d in needed]
    if None in lows or not lows:
        return None
    return max(0.0, -min(low for low in lows if low is not None))


@cache
def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """What Student's t of ``freedom`` degrees of freedom stays within, on both sides of zero, with probability ``confidence``.

    >>> round(t_quantile(9), 3)
    2.262
    """
    low, high = 0.0, 2.0
    while _inside(high, freedom) < confidence:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < confidence else (low, middle)
    return high


def _inside(t: float, freedom: int) -> float:
    """P(|T| <= t), by the finite series for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for n in range(2 + odd, freedom - 1, 2):
        term *= (n - 1) / n * math.cos(angle) ** 2
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
