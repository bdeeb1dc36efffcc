"""Where tables are printed: as wide as the terminal, and whole where the output is a file or a pipe."""

from __future__ import annotations

import re
import sys
import time

from rich.console import Console
from rich.text import Text

from mmret.progress import Reporter

_WIDE = 4000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def console() -> Console:
    """A console on stdout that never cuts a cell for want of a terminal."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_WIDE)


def shown(value: object) -> Text:
    """``value`` as it is printed: without markup of ours, and without characters that would steer the terminal or turn the line's
    direction, for captions and paths come from outside."""
    return Text(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", "" if value is None else str(value)))


def reporter(what: str, every: float = 5.0) -> Reporter:
    """Says on stderr how many rows are done, at most once in ``every`` seconds; give it to ``mmret.progress.reporting``."""
    last = time.monotonic()

    def report(task: str, done: int, total: int | None, note: str = "") -> None:
        nonlocal last
        if time.monotonic() - last > every:
            last = time.monotonic()
            print(f"{what}: {done:,}" + (f" of {total:,}" if total else "") + (f" ({note})" if note else ""), file=sys.stderr)

    return report
