"""The pace of one loop: seconds per unit of its work, from the times of its progress reports. Costs nothing.

What comes before a loop's first unit is done (compilation, features computed once, that unit itself) says nothing about the others
and is left out.
"""

from __future__ import annotations

from collections import deque


class Pace:
    """Seconds per unit of one loop, from the times of its progress reports and from the ``expected`` seconds per unit, if any.

    Until the first unit is done the pace is the expected one. From then on the loop's own pace counts the more, the more units
    and seconds it was observed for. It is that of the later half of the units since, so a slow start that lasts several units
    fades too.

    Example: after ``observe(30.0, 1)`` and ``observe(30.2, 2)`` the 30 seconds of the first unit are not in ``seconds()``.
    """

    def __init__(self, expected: float | None):
        self.expected = expected or None
        self._first: tuple[float, int] | None = None
        self._marks: deque[tuple[float, int]] = deque()

    def observe(self, now: float, done: int) -> None:
        """``done`` units are finished at ``now`` (seconds of any clock)."""
        if done <= 0 or (self._marks and done <= self._marks[-1][1]):
            return
        self._first = self._first or (now, done)
        self._marks.append((now, done))
        half = (done + self._first[1]) / 2
        while len(self._marks) > 2 and self._marks[1][1] <= half:
            self._marks.popleft()

    def seconds(self) -> float | None:
        """Seconds a unit, or None where nothing is known yet."""
        if len(self._marks) < 2:
            return self.expected
        (start, before), (end, done) = self._marks[0], self._marks[-1]
        own = max(1e-9, end - start) / (done - before)
        if self.expected is None:
            return own
        units = done - self._first[1]
        # two units or one second are worth as much as the table; a single unit may be a second slow start, however long it took
        trust = units / 2 + (end - self._first[0]) * (1 - 1 / units)
        weight = trust / (1 + trust)
        return own**weight * self.expected ** (1 - weight)  # geometric: a table that is ten times off either way fades alike
