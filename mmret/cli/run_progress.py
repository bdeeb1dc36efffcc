"""What a person sees while `mmret run` works: the stage, how far it is, and an honest estimate of what is left of the whole run.

On a terminal two bars, of the run and of the loop that is running; elsewhere a line every ten seconds. How the estimate is made:
:mod:`mmret.cli.time_left`. What this run took is kept with the lake for the next one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from mmret.atomic import write_text
from mmret.cli.run_work import Work
from mmret.cli.time_left import Estimate, TimeLeft
from mmret.lake import Lake
from mmret.progress import Counts
from mmret.progress_reports import format_seconds
from mmret.settings import Profile

_EVERY = 10.0
_FRESH = 0.5  # seconds for which the time left of the terminal's bar is not worked out anew
_PACE_FILE = "pace.json"


def read_paces(lake: Lake) -> dict[str, float]:
    """What earlier runs of the lake took, times the stage table; empty where that is not known, or the file is not to be read."""
    try:
        found = json.loads((lake.scratch / _PACE_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return {str(k): float(v) for k, v in found.items() if isinstance(v, int | float)} if isinstance(found, dict) else {}


def write_paces(lake: Lake, paces: Mapping[str, float]) -> None:
    """Keep ``paces`` for later runs. A disk that takes no more does not fail a run that has ended well."""
    with suppress(OSError):
        write_text(lake.scratch / _PACE_FILE, json.dumps(dict(sorted(paces.items())), indent=1))


class _Count(MofNCompleteColumn):
    """Units done of all, and of the whole run the share of its time."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.percentage:3.0f} %") if task.fields.get("whole") else super().render(task)


class RunProgress:
    """The progress display of one run, on stderr. A context manager: the bars are drawn inside the block.

    Give :meth:`advance` to :func:`mmret.progress.reporting` and :meth:`stage` to the runner (``mmret.cli.graph.materialize``).
    ``until``: the last stage that the run is to reach, if not the last there is; set it before the block.
    """

    def __init__(self, lake: Lake, profile: Profile, console: Console | None = None):
        self._lake, self._profile = lake, profile
        self.console = console or Console(stderr=True, highlight=False)
        self.estimate = Estimate(profile, remembered=read_paces(lake))
        self.until: str | None = None
        self.started = time.monotonic()
        self._stage, self._last_line = "", 0.0
        self._said: tuple[float, str] = (-_FRESH, "")
        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=28),
            _Count(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._whole: Any = None
        self._loop: tuple[str, Any] = "", None

    def __enter__(self) -> RunProgress:
        self._progress.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._progress.stop()
        if error is None and self._stage:
            self.estimate.finish()
            write_paces(self._lake, self.estimate.paces.to_remember())

    def print(self, text: str) -> None:
        """A line on stderr, above the bars where there are any."""
        self.console.print(text, markup=False, soft_wrap=True)

    def stage(self, tables: list[str], partition: str | None, done: int, total: int) -> None:
        """The runner begins ``tables`` of a partition, the ``done``-th of ``total`` that need it."""
        if self._stage == "corpus_manifest":
            self.estimate.plan(Work.of(self._lake, self._profile, self.until))
            if self.console.is_terminal:
                self._whole = self._progress.add_task("whole run", total=1.0, note="", whole=True)
        self._stage = tables[0]
        self.estimate.begin(tables, partition)
        what = f"{' → '.join(tables)}{f' · {partition}' if partition else ''}"
        if self.console.is_terminal:
            self._progress.console.print(what, style="dim", markup=False)
            self._forget_loop()
            self._move_whole()
        else:
            self.print(f"[{format_seconds(time.monotonic() - self.started)}] {what}{self._left()}")
        self._last_line = time.monotonic()

    def advance(self, task: str, done: int, total: int | None, note: str = "", counts: Counts | None = None) -> None:
        """Reporter for the loops inside the stages."""
        self.estimate.advance(task, done, total)
        if self.console.is_terminal:
            if self._loop[0] != task:
                self._forget_loop()
                self._loop = task, self._progress.add_task(task, total=total, note="")
            bar = self._loop[1]
            if done < self._progress.tasks[-1].completed:
                self._progress.reset(bar)
            self._progress.update(bar, completed=done, total=total, note=note)
            self._move_whole()
        elif time.monotonic() - self._last_line > _EVERY:
            self._last_line = time.monotonic()
            share = f" ({100 * done // total} %)" if total else ""
            count = f" {done:,}/{total:,}" if total else f" {done:,}" if done else ""
            said = f"{task}{count}{share} {note}".rstrip()
            self.print(f"[{format_seconds(self._last_line - self.started)}] {said}{self._left()}")

    def _forget_loop(self) -> None:
        if self._loop[1] is not None:
            self._progress.remove_task(self._loop[1])
        self._loop = "", None

    def _move_whole(self) -> None:
        """Draw the bar of the whole run anew."""
        now = time.monotonic()
        if self._whole is None or now - self._said[0] < _FRESH:
            return
        left, elapsed = self._time_left(), now - self.started
        self._said = now, self._left().removeprefix(" · ")
        share = elapsed / (elapsed + left.seconds) if left else 0.0
        self._progress.update(self._whole, completed=min(0.99, share), note=self._said[1])

    def _time_left(self) -> TimeLeft | None:
        return self.estimate.left()

    def _left(self) -> str:
        left = self._time_left()
        if left is None:
            return ""
        beside = f", and {', '.join(left.unknown)}, whose pace is not known yet" if left.unknown else ""
        return f" · about {format_seconds(left.seconds)} left{beside}"
