"""Where tables are printed: as wide as the terminal, and whole where the output is a file or a pipe."""

from __future__ import annotations

import sys
import time

from rich.console import Console

from mmret.progress import Reporter

_WIDE = 4000


def console() -> Console:
    """A console on stdout that never cuts a cell for want of a terminal."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_WIDE)


def reporter(what: str, every: float = 5.0) -> Reporter:
    """Says on stderr how many rows are done, at most once in ``every`` seconds; give it to ``mmret.progress.reporting``."""
    last = time.monotonic()

    def report(task: str, done: int, total: int | None, note: str = "") -> None:
        nonlocal last
        if time.monotonic() - last > every:
            last = time.monotonic()
            print(f"{what}: {done:,}" + (f" of {total:,}" if total else "") + (f" ({note})" if note else ""), file=sys.stderr)

    return report
