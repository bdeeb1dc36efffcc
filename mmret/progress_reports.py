"""Tells of a long loop at a rate that a log bears, with its pace and the time left: what Dagster's log and asset pages are given.

A report is due after ``first`` seconds, then every ``every``, and when a tenth of the time has passed again since the last one. So
a loop of seconds has none, one of an hour some thirty and one of a week under a hundred. Costs a look at the clock each time the
loop reports.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mmret.pace import Pace
from mmret.progress import Counts

_SHARE = 0.1
MOST = 200
"""Reports of one schedule, however long a loop takes."""


def format_seconds(seconds: float) -> str:
    """A duration for a person.

    >>> format_seconds(95)
    '1 min 35 s'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@dataclass(frozen=True)
class Report:
    """How far a loop is. ``seconds``: since it began; ``per_second``: units now; ``left``: seconds. None: not known yet."""

    task: str
    done: int
    total: int | None
    seconds: float
    per_second: float | None
    left: float | None
    note: str
    counts: Counts

    def line(self) -> str:
        """All of it in one line: ``instructions: 1,200 of 4,000 (30 %), 9.8/s, about 4 min 46 s left, …``"""
        done = f"{self.done:,} of {self.total:,} ({100 * self.done // max(1, self.total)} %)" if self.total else f"{self.done:,}"
        parts = [f"{self.task}: {done}"]
        if self.per_second is not None:
            parts.append(f"{self.per_second:,.{0 if self.per_second >= 100 else 1 if self.per_second >= 1 else 3}f}/s")
        if self.left is not None:
            parts.append(f"about {format_seconds(self.left)} left")
        if self.counts.rejects:
            parts.append("rejects " + " ".join(f"{reason} {n:,}" for reason, n in sorted(self.counts.rejects.items())))
        if self.counts.tokens_in or self.counts.tokens_out:
            parts.append(f"tokens {self.counts.tokens_in:,} in {self.counts.tokens_out:,} out")
        if self.counts.cost:
            parts.append(f"cost {self.counts.cost:,.4g}")
        return ", ".join([*parts, *([self.note] if self.note else [])])


class Schedule:
    """When a report is due, and how many there have been."""

    def __init__(self, first: float, every: float):
        self._next, self._every, self.given = first, every, 0

    def due(self, seconds: float) -> bool:
        """Whether one is due, ``seconds`` after the start. It counts as given then."""
        if seconds < self._next or self.given >= MOST:
            return False
        self._next, self.given = seconds + max(self._every, _SHARE * seconds), self.given + 1
        return True


class Loop:
    """A reporter (:class:`mmret.progress.Reporter`) that hands on what is due: ``tell`` are pairs of a schedule and a function.

    >>> with also_reporting(Loop([(Schedule(10, 30), lambda report: print(report.line()))])): ...
    """

    def __init__(self, tell: list[tuple[Schedule, Callable[[Report], None]]], clock: Callable[[], float] = time.monotonic):
        self._tell, self._clock, self._began = tell, clock, clock()
        self._paces: dict[str, tuple[Pace, int]] = {}  # by task, with how much of it was done at the last call

    def __call__(self, task: str, done: int, total: int | None, note: str = "", counts: Counts | None = None) -> None:
        now = self._clock()
        pace, before = self._paces.get(task, (None, 0))
        if pace is None or done < before:  # the same loop once more
            pace = Pace(None)
        self._paces[task] = pace, done
        pace.observe(now, done)
        due = [hand_on for schedule, hand_on in self._tell if schedule.due(now - self._began)]
        if due:
            unit = pace.seconds()
            left = None if unit is None or not total else unit * (total - done)
            report = Report(task, done, total, now - self._began, 1 / unit if unit else None, left, note, counts or Counts())
            for hand_on in due:
                hand_on(report)
