"""How a mixture of tasks is dealt out over the steps: every share comes out exactly, and a step's deal is a function of its number.

Drawn at random, a task of 5 % would be missing from a hundred steps now and then, and two runs would differ in what they saw of
it. Here the counts follow the shares: one task a step by Tijdeman's rule of the chairman assignment (1980), which keeps each count
within one step of its share at every moment; a batch of several tasks by largest remainder of what is due so far. Cost: some 10
microseconds a step, kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmret.hashing import draws


class Deal:
    """``size`` places a step, dealt to tasks by ``shares`` (n,), which are positive and add up to 1. ``seed`` decides ties.

    >>> deal = Deal([0.5, 0.25, 0.25], 1)
    >>> [deal.before(4).tolist(), deal.before(400).tolist()]
    [[2, 1, 1], [200, 100, 100]]
    """

    def __init__(self, shares: Sequence[float], size: int, seed: int = 0):
        self.shares, self.size = np.array(shares, dtype=np.float64), size
        self._ties = np.argsort(draws(np.arange(len(shares), dtype=np.uint64), seed, "tasks"), kind="stable")
        self._before = [np.zeros(len(shares), np.int64)]

    def before(self, step: int) -> np.ndarray:
        """(n,) int64: the places that each task had in all steps before ``step``."""
        if len(self.shares) == 1:
            return np.array([step * self.size], np.int64)
        while len(self._before) <= step:
            self._before.append(self._before[-1] + self._next())
        return self._before[step]

    def at(self, step: int) -> np.ndarray:
        """(n,) int64: the places that each task has in ``step``; they add up to ``size``."""
        return self.before(step + 1) - self.before(step)

    def _next(self) -> np.ndarray:
        due = self.shares * self.size * len(self._before) - self._before[-1]
        dealt = np.maximum(np.floor(due), 0).astype(np.int64) if self.size > 1 else np.zeros(len(due), np.int64)
        while (left := self.size - dealt.sum()) != 0:
            task = self._most_urgent(due - dealt) if left > 0 else self._least_due(due - dealt, dealt)
            dealt[task] += np.sign(left)
        return dealt

    def _most_urgent(self, due: np.ndarray) -> int:
        """The task that gets a single place: of those to which nearly half a place is due, the one that can wait the shortest;
        in a larger batch, the one to which most is due."""
        if self.size > 1:
            return int(self._ties[np.argmax(due[self._ties])])
        least = 1 / (2 * len(due) - 2)
        patience = np.where(due >= least - 1e-9, (1 - least - due) / self.shares, np.inf)
        return int(self._ties[np.argmin(patience[self._ties])])

    def _least_due(self, due: np.ndarray, dealt: np.ndarray) -> int:
        """The task that gives a place back, where others had had too many before."""
        return int(self._ties[np.argmin(np.where(dealt > 0, due, np.inf)[self._ties])])
