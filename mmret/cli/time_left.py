"""How long the rest of a run will take.

The stage table (:mod:`mmret.stages`) holds seconds per unit of work, measured on two cores with profile ``demo``. They only set
the proportions between stages: every finished stage rescales what is left by actual over expected, and the running stage is
judged by its own pace (:class:`mmret.pace.Pace`) more and more. Costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mmret.lake import Lake
from mmret.pace import Pace
from mmret.settings import Profile
from mmret.stages import TABLE

_MIN_SECONDS = 10.0  # seconds of finished stages before they rescale the rest


class Estimate:
    """Seconds left, from the stages still to come and the one that runs. Knows nothing until the corpus is listed."""

    def __init__(self, profile: Profile, clock: Callable[[], float] = time.monotonic):
        self._profile, self._clock = profile, clock
        self._expected: dict[str, float] = {}
        self._current: list[str] = []
        self._share = 1.0
        self._began = clock()
        self._task, self._done, self._total = "", 0, 0
        self._pace = Pace(None)
        self._seen: set[str] = set()  # tables of the current run that have reported
        self._spent_expected, self._spent = 0.0, 0.0

    def plan(self, lake: Lake) -> None:
        """Look at what the lake has: new shards go through every stage, old ones are only merged and annotated again."""
        rows = {shard: lake.facts("corpus_manifest", shard).rows for shard in lake.shards()}
        every = sum(rows.values())
        new = every - sum(n for shard, n in rows.items() if lake.facts("candidates", shard))
        steps = sum(self._profile.recipes[r].steps for r in self._profile.train)
        units = {
            "new image": new,
            "image": every,
            "image pair": new * (every - new / 2),
            "picture trained on": self._tower_work(lake),
            "step": steps,
        }
        self._expected = {stage.name: cost.seconds * units[cost.unit] for stage in TABLE if (cost := stage.cost)}

    def _tower_work(self, lake: Lake) -> float:
        """Pictures that go through a tower, forward and backward, while they are trained."""
        settings = self._profile.towers
        if settings is None or lake.facts("towers", "all"):
            return 0
        from mmret.towers.corpus import distinct_words
        from mmret.towers.train import steps

        captions = [c for c in lake.read("corpus_manifest", columns=["caption"])["caption"].to_pylist() if c]
        images, words = min(len(captions), settings.max_images), distinct_words(captions[: settings.max_images])
        passes = (settings.epochs, settings.dino_epochs)
        return settings.batch_size * sum(steps(epochs, images, words, settings) for epochs in passes)

    def begin(self, tables: Sequence[str], done: int, total: int) -> None:
        """A run over ``tables`` starts; it is the ``done``-th of ``total`` like it."""
        self._finish()
        for earlier in list(self._expected):  # whatever the graph has passed is done or was current
            if earlier == tables[0]:
                break
            self._expected[earlier] = 0.0
        self._current, self._began, self._task, self._seen = list(tables), self._clock(), "", set()
        self._share = 1 / max(1, total - done)

    def _finish(self) -> None:
        for table in self._current:
            expected = self._expected_of(table)
            self._spent_expected += expected
            self._expected[table] = self._expected.get(table, 0.0) - expected
        self._spent += self._clock() - self._began if self._current else 0.0

    def _expected_of(self, table: str) -> float:
        """Seconds by the table above for what is left of ``table``, this run's share."""
        return self._expected.get(table, 0.0) * self._share

    def advance(self, task: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` units of the loop ``task`` are finished."""
        if task not in self._current or not total:
            return
        if task != self._task or done < self._done:
            self._task = task
            self._pace = Pace(self._expected_of(task) * self._correction() / total)
            self._seen.add(task)
        self._done, self._total = done, total
        self._pace.observe(self._clock(), done)

    def _correction(self) -> float:
        """How many times as long as by the table the finished stages took."""
        return self._spent / self._spent_expected if self._spent_expected > _MIN_SECONDS else 1.0

    def left(self) -> float | None:
        """Seconds, or None while there is nothing to go by: before the corpus is listed, or when a stage has outrun its estimate
        without saying how far it is.
        """
        if not self._expected:
            return None
        correction = self._correction()
        running = sum(map(self._expected_of, self._current))
        later = max(0.0, sum(self._expected.values()) - running)
        if self._task and (pace := self._pace.seconds()):
            to_come = sum(self._expected_of(t) for t in self._current if t not in self._seen)
            return pace * (self._total - self._done) + (to_come + later) * correction
        elapsed = self._clock() - self._began
        if elapsed > running * correction:
            return None
        return (running + later) * correction - elapsed
