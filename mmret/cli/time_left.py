"""How long the rest of a run will take.

It starts from the seconds of the stage table (:mod:`mmret.cli.run_work`), or from what this lake's earlier runs took, which is kept
in ``pace.json``. Then what is seen corrects it: the running loop is judged by its own pace (:class:`mmret.pace.Pace`), the other
partitions of its stage by what those before them took, later stages by how fast this machine was so far. What is not known, such as
the pace of a server that was never asked, is named and not guessed. Costs some microseconds a report.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from mmret.cli.run_work import ASKED, CHECKS, LAUNCH, Part, Work
from mmret.pace import Pace
from mmret.settings import Profile
from mmret.stages import FINGERPRINTED_STAGES, STAGES, UNPARTITIONED

_START_SECONDS = 2.5  # until the first stage begins
_UNITS_FOR_A_PACE, _SECONDS_FOR_A_PACE = 16, 5.0
START = "start"
_RUN_OF = {name: stage.run for name, stage in STAGES.items()}
_RUNS = list(dict.fromkeys(_RUN_OF.values()))


@cache
def _upstream(stage: str) -> frozenset[str]:
    """Stages that ``stage`` reads, directly or not."""
    read = {r.table for r in STAGES[stage].reads if r.table in STAGES}
    return frozenset(read.union(*map(_upstream, read)))


class TimeLeft(NamedTuple):
    """``seconds`` left, without those of the stages in ``unknown``, whose pace nobody knows yet."""

    seconds: float
    unknown: tuple[str, ...] = ()


class Seen(NamedTuple):
    """Seconds that work took, and those it would have taken by the table."""

    actual: float
    expected: float


class Paces:
    """How many times as long as by the table each kind of work takes, from what was seen of it and of other work.

    ``remembered``: the same from earlier runs, by the name of the pace.
    """

    def __init__(self, remembered: Mapping[str, float] | None = None):
        self.remembered = {name: ratio for name, ratio in (remembered or {}).items() if 1e-4 < ratio < 1e7}
        self.seen: dict[str, Seen] = {}
        self.needs: dict[str, str] = {}
        self.started: float | None = None  # seconds until the first stage began

    def add(self, part: Part, seen: Seen) -> None:
        """``seen`` of ``part``, beside what was seen of others of its pace."""
        before = self.seen.get(part.pace, Seen(0.0, 0.0))
        self.seen[part.pace] = Seen(before.actual + seen.actual, before.expected + seen.expected)
        self.needs[part.pace] = part.needs

    def is_known(self, part: Part, running: Seen | None = None) -> bool:
        return part.known or part.pace in self.remembered or bool(self._own(part.pace, running).expected)

    def ratio(self, part: Part, running: Seen | None = None) -> float:
        """Times as long as by the table; ``running``: what is seen of the partition of that pace that is under way."""
        own = self._own(part.pace, running)
        if not part.known and part.pace not in self.remembered and own.expected:
            return max(own.actual, 1e-9) / own.expected
        prior = self._before(part) * (self.machine(part.needs) if part.known else 1.0)
        if not own.expected:
            return prior
        weight = max(own.actual, own.expected * prior) / 3.0
        return math.exp((weight * math.log(max(own.actual, 1e-3) / own.expected) + math.log(prior)) / (weight + 1.0))

    def trust(self, part: Part) -> float:
        """Of the ratio, in seconds of a running loop that weigh as much."""
        return 20.0 if part.pace in self.seen else 5.0 if part.pace in self.remembered else 1.0

    def _own(self, pace: str, running: Seen | None) -> Seen:
        seen = self.seen.get(pace, Seen(0.0, 0.0))
        return Seen(seen.actual + running.actual, seen.expected + running.expected) if running else seen

    def _before(self, part: Part) -> float:
        """By earlier runs; where they did no such work, what all else took in them."""
        if part.pace in self.remembered:
            return self.remembered[part.pace]
        others = [math.log(ratio) for name, ratio in self.remembered.items() if not name.startswith(ASKED)]
        return math.exp(sum(others) / len(others)) if others else 1.0

    def machine(self, needs: str) -> float:
        """How many times as long as thought this machine takes, by what it has done so far; work of the same needs says most."""
        total, weights = 0.0, 0.2
        if self.started is not None:
            total += math.log(min(8.0, max(0.5, self.started / _START_SECONDS / self.remembered.get(START, 1.0))))
            weights += 1.0
        for pace, seen in self.seen.items():
            if pace.startswith(ASKED) or seen.actual <= 0 or seen.expected <= 0:
                continue
            expected = seen.expected * self.remembered.get(pace, 1.0)
            weight = min(seen.actual, expected, 60.0) / 10 * (1.0 if self.needs[pace] == needs else 0.5)
            total += weight * math.log(seen.actual / expected)
            weights += weight
        return math.exp(total / weights)

    def to_remember(self) -> dict[str, float]:
        """What later runs should know: ratios by pace, earlier ones where this run saw too little: of what takes less than a second
        by the table, a moment's delay is most."""
        fresh = {
            pace: seen.actual / seen.expected
            for pace, seen in self.seen.items()
            if seen.actual >= 1.0 and (seen.expected >= 1.0 or (pace.startswith(ASKED) and seen.expected > 0))
        }
        if self.started is not None:
            fresh[START] = self.started / _START_SECONDS
        return self.remembered | {pace: round(ratio, 4) for pace, ratio in fresh.items()}


class _Running:
    """The launch that runs: its parts, and when each was first heard of."""

    def __init__(self, parts: list[Part], began: float):
        self.parts = {part.stage: part for part in parts}
        self.began = began
        self.heard: dict[str, float] = {}  # when, by stage, in order
        self.marked = False  # whether the first was heard of as it began, so that all before is Dagster's
        self.noted: set[str] = set()  # stages whose loop is in the paces already
        self.stage = ""
        self.pace, self.done, self.total = Pace(None), 0, 0

    def passed(self, stage: str) -> bool:
        """Whether ``stage`` is behind: it was heard of and is not now, or one that reads it was."""
        return stage != self.stage and (stage in self.heard or any(stage in _upstream(each) for each in self.heard))

    def has_pace_of(self, part: Part) -> bool:
        """Whether the running loop has a pace in common with ``part``."""
        return bool(self.stage) and part.pace == self.parts[self.stage].pace

    def seen_in_loop(self) -> Seen | None:
        """What the running loop shows; None while it shows nothing, or too little of work that nothing was known of: a server
        may answer its first requests all at once."""
        units, own = self.done - self.pace.first_done, self.pace.own_seconds()
        part = self.parts[self.stage] if self.stage else None
        if part is None or own is None or not part.loop or not units:
            return None
        if not part.known and (units < _UNITS_FOR_A_PACE or own * units < _SECONDS_FOR_A_PACE):
            return None
        return Seen(own * units, part.loop * units / self.total)


class Estimate:
    """Seconds left, from the stages still to come and the one that runs. Knows nothing until the corpus is listed.

    ``remembered``: see :class:`Paces`.
    """

    def __init__(
        self,
        profile: Profile,
        clock: Callable[[], float] = time.monotonic,
        remembered: Mapping[str, float] | None = None,
    ):
        self._profile, self._clock = profile, clock
        self.paces = Paces(remembered)
        self._work: Work | None = None
        self._later: dict[tuple[str, str], Part] = {}
        self._sums: dict[str, tuple[Part, float]] = {}  # by pace: a part, and the seconds of all that are to come
        self._launches = 0
        self._running: _Running | None = None
        self._made = clock()

    def plan(self, work: Work) -> None:
        """``work``: what there is to do."""
        self._work = work
        self._later = {(part.stage, part.partition): part for part in work.parts(self._profile)}
        self._sum_up()

    def _sum_up(self) -> None:
        self._sums = {}
        for part in self._later.values():
            self._sums[part.pace] = part, self._sums.get(part.pace, (part, 0.0))[1] + part.seconds
        self._launches = len({(_RUN_OF[stage], partition) for stage, partition in self._later})

    def begin(self, tables: Sequence[str], partition: str | None) -> None:
        """A launch of ``tables`` starts."""
        now = self._clock()
        self._end(now)
        if self.paces.started is None:
            self.paces.started = now - self._made
        if self._work is None or tables[0] not in FINGERPRINTED_STAGES:
            if tables[0] == CHECKS:
                self._later = {}
                self._sum_up()
            return
        key = partition or UNPARTITIONED
        parts = [self._later.get((t, key)) or self._work.part(self._profile, t, key, again=True) for t in tables]
        self._forget_passed(tables[0], key)
        for part in parts:
            self._later.pop((part.stage, key), None)
        self._sum_up()
        self._running = _Running(parts, now)

    def _forget_passed(self, stage: str, partition: str) -> None:
        """Whatever the graph has passed is done or was current."""
        at = _RUNS.index(_RUN_OF[stage])
        for name, key in list(self._later):
            run = _RUNS.index(_RUN_OF[name])
            if run < at or (run == at and STAGES[name].partitions == "shard" and key <= partition):
                del self._later[name, key]

    def finish(self) -> None:
        """The run has ended."""
        self._end(self._clock())

    def _end(self, now: float) -> None:
        """Take note of what the launch that ran took, stage by stage."""
        self._note_loop(now)
        running, self._running = self._running, None
        if running is None:
            return
        order = list(running.parts)
        marks = [("", running.began), *running.heard.items()]
        for (stage, at), (_, until) in zip(marks, [*marks[1:], ("", now)], strict=True):
            group = [running.parts[stage] if stage else LAUNCH]
            if not stage or stage == marks[-1][0]:  # stages that say nothing lie before the first that does, or after the last
                first = min((order.index(s) for s in running.heard), default=len(order))
                silent = [s for s in order if s not in running.heard and (order.index(s) < first) == (not stage)]
                group += [running.parts[s] for s in silent]
            seconds, expected = until - at, sum(p.seconds + self._first(p) for p in group)
            if not stage and running.heard and not running.marked:
                continue
            for part in group:
                if part.stage not in running.noted and expected > 0 and part.seconds > 0 and all(p.known for p in group):
                    self.paces.add(part, Seen(seconds / expected * part.seconds, part.seconds))

    def _note_loop(self, now: float) -> None:
        """Take note of what the loop that ran shows of its stage, if it was most of it."""
        running = self._running
        if running is None or not running.stage or running.stage in running.noted:
            return
        part, seen = running.parts[running.stage], running.seen_in_loop()
        if seen is not None and (seen.actual > 0.3 * (now - running.heard[part.stage]) or not part.known):
            self.paces.add(part, Seen(seen.actual / seen.expected * part.seconds, part.seconds))
            running.noted.add(part.stage)

    def advance(self, task: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` units of the loop ``task`` are finished."""
        running = self._running
        if running is None or task not in running.parts:
            return
        part, now = running.parts[task], self._clock()
        if task != running.stage or done < running.done:
            self._note_loop(now)
            running.stage, running.done, running.total = task, 0, 0
            running.pace = Pace(None)
        if not running.heard:
            running.marked = total is None
        running.heard.setdefault(task, now)
        if total:
            if not running.total and self.paces.is_known(part):
                running.pace = Pace(part.loop * self.paces.ratio(part) / total, self.paces.trust(part))
            running.done, running.total = done, total
            running.pace.observe(now, done)

    def left(self) -> TimeLeft | None:
        """None while there is nothing to go by: before the corpus is listed."""
        if self._work is None:
            return None
        seen = None
        seconds, unknown = 0.0, []
        running = self._running
        if running is not None and running.stage not in running.noted:
            seen = running.seen_in_loop()
        for part, to_come in self._sums.values():
            of_running = seen if running is not None and running.has_pace_of(part) else None
            if self.paces.is_known(part, of_running):
                seconds += (to_come + self._first(part)) * self.paces.ratio(part, of_running)
            else:
                unknown.append(part.stage)
        seconds += self._launches * LAUNCH.seconds * self.paces.ratio(LAUNCH)
        seconds += self._work.checks() * self.paces.machine("cpu")
        if running is not None:
            seconds += self._left_of_launch(running, seen, unknown)
        return TimeLeft(max(0.0, seconds), tuple(dict.fromkeys(unknown)))

    def _first(self, part: Part) -> float:
        """Seconds once a run, until the stage has run."""
        return 0.0 if part.pace in self.paces.seen else part.first

    def _left_of_launch(self, running: _Running, seen: Seen | None, unknown: list[str]) -> float:
        seconds, now = 0.0, self._clock()
        for stage, part in running.parts.items():
            if running.passed(stage):
                continue
            unit = running.pace.seconds() if stage == running.stage and running.total else None
            if unit and (seen is not None or self.paces.is_known(part)):
                # half of what a partition takes beside its loop lies before it
                after = 0.5 * part.beside * self.paces.ratio(part, seen) if part.known else 0.0
                seconds += unit * (running.total - running.done) + after
                continue
            of_running = seen if stage != running.stage and running.has_pace_of(part) else None
            if not self.paces.is_known(part, of_running):
                unknown.append(stage)
            else:
                expected = (part.seconds + self._first(part)) * self.paces.ratio(part, of_running)
                since = running.heard.get(stage, running.began if not running.heard else now)
                spent = now - since
                seconds += max(expected - spent, 0.25 * min(expected, spent))
        return seconds
