"""How long the rest of a run will take.

``_PER_UNIT`` holds seconds per unit of work measured on two cores with profile ``demo`` (see docs/performance.md). They only
set the proportions between stages: every finished stage rescales what is left by actual over expected, and the running stage is
judged by its own pace after the first seconds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from mmret.lake import Lake
from mmret.settings import Profile

_PER_UNIT = {  # stage: (seconds a unit, unit)
    "images": (0.0005, "new image"),
    "towers": (0.0014, "picture trained on"),
    "clip_image": (0.0004, "new image"),
    "dino_image": (0.0004, "new image"),
    "caption": (0.0003, "new image"),
    "candidates": (3e-8, "image pair"),
    "neighbours": (0.0001, "image"),
    "pairs": (0.0001, "image"),
    "descriptions": (0.0004, "image"),
    "instructions": (0.0003, "image"),
    "triplets": (0.0001, "image"),
    "checkpoints": (0.16, "step"),
    "evaluations": (0.0014, "image"),
}
_MEASURED = 10.0  # seconds of finished stages before they rescale the rest
_TRUST = 3.0  # seconds after which a loop's own pace says more than the table


class Estimate:
    """Seconds left, from the stages still to come and the one that runs. Knows nothing until the corpus is listed."""

    def __init__(self, profile: Profile):
        self._profile = profile
        self._expected: dict[str, float] = {}
        self._current: list[str] = []
        self._began = time.monotonic()
        self._fraction, self._task = 0.0, ""
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
        self._expected = {s: seconds * units[unit] for s, (seconds, unit) in _PER_UNIT.items()}

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
        self._current, self._began, self._fraction = list(tables), time.monotonic(), 0.0
        self._share = 1 / max(1, total - done)

    def _finish(self) -> None:
        for table in self._current:
            expected = self._expected.get(table, 0.0) * self._share
            self._spent_expected += expected
            self._expected[table] = self._expected.get(table, 0.0) - expected
        self._spent += time.monotonic() - self._began if self._current else 0.0

    def advance(self, task: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` units of the loop ``task`` are finished."""
        if task in self._current and total:
            if task != self._task:
                self._task, self._began = task, time.monotonic()
            self._fraction = done / total

    def left(self) -> float | None:
        """Seconds, or None while there is nothing to go by: before the corpus is listed, or when a stage has outrun its estimate
        without saying how far it is.
        """
        if not self._expected:
            return None
        pace = self._spent / self._spent_expected if self._spent_expected > _MEASURED else 1.0
        running = sum(self._expected.get(t, 0.0) * self._share for t in self._current)
        later = sum(self._expected.values()) - running
        elapsed = time.monotonic() - self._began
        if self._task in self._current and self._fraction > 0 and elapsed > _TRUST:
            own = self._expected.get(self._task, 0.0) * self._share
            now = elapsed * (1 - self._fraction) / self._fraction + max(0.0, running - own) * pace
        elif elapsed > running * pace:
            return None
        else:
            now = running * pace - elapsed
        return now + max(0.0, later) * pace
