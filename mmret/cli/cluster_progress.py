"""What a person sees of `mmret run --on ray`: each launch as it begins, how far those that run are, what is left of the whole run.

As :class:`mmret.cli.run_progress.RunProgress`, for several launches at once: on a terminal a bar of the run and one for each stage
that runs, elsewhere a line every ten seconds. The time left is the rest of the work, in the seconds of the stage table, at the pace
at which the cluster has got through it so far; it is not kept for later runs, whose cluster may be another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from mmret.cli.run_progress import RunProgress
from mmret.cli.run_work import Part, Work
from mmret.cli.time_left import TimeLeft
from mmret.lake import Lake
from mmret.progress_reports import format_seconds
from mmret.settings import Profile
from mmret.stages import STAGES, UNPARTITIONED

_EVERY, _SHOWN = 10.0, 6
_HERE = ("corpus_manifest", "checks")
"""What the process that launches does itself, one after the other."""
_SECONDS_FOR_A_PACE = 2.0


class ClusterProgress(RunProgress):
    """The display of one run on a cluster, on stderr; :meth:`moved` and :meth:`ended` may be called from any thread."""

    def __init__(self, lake: Lake, profile: Profile, console: Console | None = None):
        super().__init__(lake, profile, console)
        self.address: str | None = None
        """Of the cluster's head; None: where RAY_ADDRESS says."""
        self._left_of: dict[tuple[str, str], Part] = {}
        self._shares: dict[tuple[str, str], tuple[int, int | None, str]] = {}
        self._bars: dict[tuple[str, str], Any] = {}
        self._launched: float | None = None
        self._through = 0.0
        self._lock = threading.RLock()

    def stage(self, tables: list[str], partition: str | None, done: int, total: int) -> None:
        """A launch of ``tables`` of a partition begins, while others run."""
        if tables[0] in _HERE:
            super().stage(tables, partition, done, total)
            return
        with self._lock:
            if self._stage == "corpus_manifest":
                self._plan()
            self._stage = tables[0]
            self._forget_passed(tables[0])
            self._launched = self._launched or time.monotonic()
            what = f"{' → '.join(tables)}{f' · {partition}' if partition else ''}"
            if self.console.is_terminal:
                self._forget_loop()
                self._progress.console.print(what, style="dim", markup=False)
                self._move_whole()
            else:
                self.print(f"[{format_seconds(time.monotonic() - self.started)}] {what}{self._left()}")
            self._last_line = time.monotonic()

    def moved(self, stage: str, partition: str | None, done: int, total: int | None, note: str = "") -> None:
        """``done`` of ``total`` units of the loop of ``stage`` are finished, on some node."""
        with self._lock:
            key = stage, partition or UNPARTITIONED
            self._shares[key] = done, total, note
            if self.console.is_terminal:
                if total and done >= total:
                    if (bar := self._bars.pop(key, None)) is not None:
                        self._progress.remove_task(bar)
                    return
                if key not in self._bars:
                    self._bars[key] = self._progress.add_task(f"{stage} {partition or ''}".strip(), total=total, note="")
                self._progress.update(self._bars[key], completed=done, total=total, note=note)
                self._move_whole()
            elif time.monotonic() - self._last_line > _EVERY and (running := self._running()):
                self._last_line = time.monotonic()
                self.print(f"[{format_seconds(self._last_line - self.started)}] {running}{self._left()}")

    def ended(self, stages: Sequence[str], partition: str | None) -> None:
        """A launch is over."""
        with self._lock:
            for stage in stages:
                key = stage, partition or UNPARTITIONED
                self._shares.pop(key, None)
                if part := self._left_of.pop(key, None):
                    self._through += part.seconds if part.known else 0.0
                if (bar := self._bars.pop(key, None)) is not None:
                    self._progress.remove_task(bar)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._progress.stop()

    def _plan(self) -> None:
        work = Work.of(self._lake, self._profile, self.until)
        self._left_of = {(part.stage, part.partition): part for part in work.parts(self._profile)}
        if self.console.is_terminal:
            self._whole = self._progress.add_task("whole run", total=1.0, note="", whole=True)

    def _forget_passed(self, stage: str) -> None:
        """Runs of stages that lie behind the one that begins are done, or were current."""
        runs = list(dict.fromkeys(each.run for each in STAGES.values()))
        at = runs.index(STAGES[stage].run)
        for key in [key for key in self._left_of if runs.index(STAGES[key[0]].run) < at]:
            del self._left_of[key]

    def _running(self) -> str:
        said = [
            f"{stage}{'' if partition == UNPARTITIONED else f' {partition}'}" + (f" {100 * done // total} %" if total else "")
            for (stage, partition), (done, total, _) in self._shares.items()
            if not total or done < total
        ]
        return ", ".join(said[:_SHOWN]) + (f" and {len(said) - _SHOWN} more" if len(said) > _SHOWN else "")

    def _time_left(self) -> TimeLeft | None:
        """None until the cluster has got through enough to tell its pace."""
        if self._launched is None:
            return None
        known = {key: part for key, part in self._left_of.items() if part.known}
        begun = sum(known[key].loop * done / total for key, (done, total, _) in self._shares.items() if total and key in known)
        through = self._through + begun
        if through < _SECONDS_FOR_A_PACE:
            return None
        rest = sum(part.seconds for part in known.values()) - begun
        unknown = dict.fromkeys(stage for (stage, _), part in self._left_of.items() if not part.known)
        return TimeLeft(rest * (time.monotonic() - self._launched) / through, tuple(unknown))
