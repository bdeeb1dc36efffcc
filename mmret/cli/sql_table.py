"""Rows as a table of text: on a terminal as wide as that and not too long, with a note of what was left out; elsewhere whole.

The first 1,000 rows decide how wide the columns are, so the first line is there before the last row is known; a later cell that
is longer moves the rest of its line. Memory is that of 1,000 rows.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from mmret.cli.terminal import one_line
from mmret.warehouse.query import BATCH, Rows

_NARROWEST = 12
"""Characters that a column keeps at least; columns for which even that is too much are left out, the last ones first."""
_GAP, _MARGIN = "  ", " "
_NUMBER = r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*\)"


def print_table(rows: Rows, wide: bool = False) -> None:
    """Print ``rows`` on stdout as a table; notes of what a terminal does not show go to stderr. ``wide``: lines of any length."""
    terminal = sys.stdout.isatty()
    first = next(rows.batches, [])
    if rows.is_plan:
        print("\n".join(str(row[-1]) for row in first))
        return
    names, texts = [one_line(name) for name in rows.names], [_texts(row, rows.types) for row in first]
    natural = [max(map(cell_len, column)) for column in zip(names, *texts, strict=True)]
    widths = natural if wide or not terminal else fit(natural, shutil.get_terminal_size().columns)
    if len(first) == 1 and widths != natural:
        _print_one(names, texts[0], shutil.get_terminal_size().columns)
        return
    layout = _Layout(widths, rows.types, cut=widths != natural)
    head, rule = layout.line(names), "─" if _is_utf8() else "-"
    print("", _bold(head) if terminal else head, _MARGIN + rule * layout.width, *map(layout.line, texts), sep="\n")
    number, more = len(first), False
    for batch in rows.batches:
        more = terminal
        if more:
            break
        print("\n".join(layout.line(_texts(row, rows.types)) for row in batch))
        number += len(batch)
    print(f"\n{number:,} rows" + (" are shown" if more else ""))
    _say_what_is_missing(names, natural, widths, more)


def fit(natural: Sequence[int], width: int) -> list[int]:
    """Widths at which a table fits ``width`` characters: the widest columns are narrowed first, and where that is not enough the
    last columns get none (0). The first column is always shown.

    >>> fit([10, 100], 60), fit([30, 30, 30], 31)
    ([10, 47], [14, 14, 0])
    """
    shown = len(natural)
    while shown > 1 and sum(min(n, _NARROWEST) for n in natural[:shown]) > _room(width, shown):
        shown -= 1
    room, widths = _room(width, shown), [0] * len(natural)
    for left, at in enumerate(sorted(range(shown), key=lambda at: natural[at])):
        widths[at] = max(1, min(natural[at], room // (shown - left)))
        room -= widths[at]
    return widths


def _room(width: int, columns: int) -> int:
    return width - len(_MARGIN) - len(_GAP) * (columns - 1)


class _Layout:
    """How a line is laid out: columns of width 0 are left out, numbers stand to the right. ``cut``: longer cells are shortened."""

    def __init__(self, widths: Sequence[int], types: Sequence[str], cut: bool):
        right = [re.fullmatch(_NUMBER, kind) is not None for kind in types]
        self._columns = [(at, size, right[at]) for at, size in enumerate(widths) if size]
        self._cut = cut
        self.width = sum(size for _, size, _ in self._columns) + len(_GAP) * (len(self._columns) - 1)

    def line(self, texts: Sequence[str]) -> str:
        return (_MARGIN + _GAP.join(self._cell(texts[at], size, right) for at, size, right in self._columns)).rstrip()

    def _cell(self, text: str, size: int, right: bool) -> str:
        room = size - (len(text) if text.isascii() else cell_len(text))
        if room < 0 and self._cut:
            return set_cell_size(text, size - 1) + _ellipsis()
        return " " * room + text if right else text + " " * room


def _texts(row: Sequence[Any], types: Sequence[str]) -> list[str]:
    """Each value on one line; single-precision numbers with the digits that they have."""
    return [
        f"{value:.7g}" if kind == "FLOAT" and value is not None else one_line(value) for value, kind in zip(row, types, strict=True)
    ]


def _print_one(names: Sequence[str], texts: Sequence[str], width: int) -> None:
    """One row that is wider than the terminal, a line a column: nothing is left out."""
    widest = max(map(cell_len, names))
    print()
    for name, text in zip(names, texts, strict=True):
        lines = textwrap.wrap(text, max(20, width - widest - len(_MARGIN + _GAP)), drop_whitespace=False) or [""]
        for at, line in enumerate(lines):
            print(_MARGIN + set_cell_size("" if at else name, widest) + _GAP + line)
    print("\n1 rows")


def _say_what_is_missing(names: Sequence[str], natural: Sequence[int], widths: Sequence[int], more: bool) -> None:
    left_out = [name for name, size in zip(names, widths, strict=True) if not size]
    cut = [name for name, needed, size in zip(names, natural, widths, strict=True) if 0 < size < needed]
    said = []
    if left_out:
        said.append(f"{len(left_out)} of {len(names)} columns do not fit and are left out ({_listed(left_out)})")
    if cut:
        said.append(f"cells of {_listed(cut)} are cut")
    if said:
        print(f"note: {'; '.join(said)}. --wide, or .wide in the shell, shows all", file=sys.stderr)
    if more:
        print(
            f"note: there are more than {BATCH:,} rows: LIMIT and OFFSET show others, --csv and a pipe, as in `| less -S`, all",
            file=sys.stderr,
        )


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().startswith("utf")


def _ellipsis() -> str:
    return "…" if _is_utf8() else "~"


def _bold(text: str) -> str:
    return text if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else f"\x1b[1m{text}\x1b[0m"
