"""Where tables are printed: as wide as the terminal, and whole where the output is a file or a pipe."""

from __future__ import annotations

import sys

from rich.console import Console

_WIDE = 4000


def console() -> Console:
    """A console on stdout that never cuts a cell for want of a terminal."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_WIDE)
