"""What a person sees while `mmret run` works: the stage, how far it is, and an honest estimate of what is left.

The estimate starts from seconds per unit measured on two cores and is corrected by this machine: a finished stage by what it took,
the running one by its own pace. On a terminal it is one live display; elsewhere a line every ten seconds.
"""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmret.cli.time_left import Estimate
from mmret.lake import Lake
from mmret.progress import Counts
from mmret.progress_reports import format_seconds
from mmret.settings import Profile

_EVERY = 10.0


class RunProgress:
    """The progress display of one run, on stderr. A context manager: the bars are drawn inside the block.

    Give :meth:`advance` to :func:`mmret.progress.reporting` and :meth:`stage` to the runner (``mmret.cli.graph.materialize``).
    """

    def __init__(self, lake: Lake, profile: Profile):
        self._lake = lake
        self.console = Console(stderr=True, highlight=False)
        self.estimate = Estimate(profile)
        self.started = time.monotonic()
        self._stage, self._last_line = "", 0.0
        self._bars: dict[str, Any] = {}
        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> RunProgress:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def print(self, text: str) -> None:
        """A line on stderr, above the bars where there are any."""
        self.console.print(text, markup=False, soft_wrap=True)

    def stage(self, tables: list[str], partition: str | None, done: int, total: int) -> None:
        """The runner begins ``tables`` of a partition, the ``done``-th of ``total`` that need it."""
        if self._stage == "corpus_manifest":
            self.estimate.plan(self._lake)
        self._stage = tables[0]
        self.estimate.begin(tables, done, total)
        what = f"{' → '.join(tables)}{f' · {partition}' if partition else ''}"
        if self.console.is_terminal:
            self._progress.console.print(what, style="dim", markup=False)
        else:
            self.print(f"[{format_seconds(time.monotonic() - self.started)}] {what}{self._left()}")
        self._last_line = time.monotonic()

    def advance(self, task: str, done: int, total: int | None, note: str = "", counts: Counts | None = None) -> None:
        """Reporter for the loops inside the stages."""
        self.estimate.advance(task, done, total)
        if self.console.is_terminal:
            bar = self._bars.get(task)
            if bar is None:
                bar = self._bars[task] = self._progress.add_task(task, total=total, note="")
            if done < self._progress.tasks[bar].completed:
                self._progress.reset(bar)
            self._progress.update(bar, completed=done, total=total, note=f"{note}{self._left()}")
        elif time.monotonic() - self._last_line > _EVERY:
            self._last_line = time.monotonic()
            share = f" ({100 * done // total} %)" if total else ""
            count = f"{done:,}/{total:,}" if total else f"{done:,}"
            self.print(f"[{format_seconds(self._last_line - self.started)}] {task} {count}{share} {note}{self._left()}")

    def _left(self) -> str:
        left = self.estimate.left()
        return "" if left is None else f" · about {format_seconds(left)} left"
