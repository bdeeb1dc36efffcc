"""The pace of one loop: seconds per unit of its work, from the times of its progress reports. Costs nothing.

What comes before a loop's first unit is done (compilation, features computed once, that unit itself) says nothing about the others
and is left out.
"""

from __future__ import annotations

from collections import deque

_APART = 0.01  # of the time so far: marks that lie closer are one, so that a loop of millions keeps some hundred


class Pace:
    """Seconds per unit of one loop, from the times of its progress reports and from the ``expected`` seconds per unit, if any.
    ``trust``: of what is expected, in seconds of the loop's own that weigh as much.

    Until the first unit is done the pace is the expected one. From then on the loop's own pace counts the more, the more units
    and seconds it was observed for. It is that of the later half of the units since, so a slow start that lasts several units
    fades too.

    Example: after ``observe(30.0, 1)`` and ``observe(30.2, 2)`` the 30 seconds of the first unit are not in ``seconds()``.
    """

    def __init__(self, expected: float | None, trust: float = 1.0):
        self.expected, self._trust = expected or None, trust
        self._first: tuple[float, int] | None = None
        self._marks: deque[tuple[float, int]] = deque()

    def observe(self, now: float, done: int) -> None:
        """``done`` units are finished at ``now`` (seconds of any clock)."""
        if done <= 0 or (self._marks and done <= self._marks[-1][1]):
            return
        self._first = self._first or (now, done)
        if len(self._marks) > 2 and now - self._marks[-2][0] < _APART * (now - self._first[0]):
            self._marks[-1] = (now, done)
        else:
            self._marks.append((now, done))
        half = (done + self._first[1]) / 2
        while len(self._marks) > 2 and self._marks[1][1] <= half:
            self._marks.popleft()

    @property
    def first_done(self) -> int:
        """Units that were done when the first one was seen."""
        return self._first[1] if self._first else 0

    def own_seconds(self) -> float | None:
        """Seconds a unit as observed, or None before a second unit is done."""
        if len(self._marks) < 2:
            return None
        (start, before), (end, done) = self._marks[0], self._marks[-1]
        return max(1e-9, end - start) / (done - before)

    def seconds(self) -> float | None:
        """Seconds a unit, or None where nothing is known yet."""
        own = self.own_seconds()
        if own is None:
            return self.expected
        if self.expected is None:
            return own
        end, done = self._marks[-1]
        units = done - self._first[1]
        # two units or one second are worth as much as the table; a single unit may be a second slow start, however long it took
        trust = units / 2 + (end - self._first[0]) * (1 - 1 / units)
        weight = trust / (self._trust + trust)
        return own**weight * self.expected ** (1 - weight)  # geometric: a table that is ten times off either way fades alike
