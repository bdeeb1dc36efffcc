"""How the commands print: results as wide as the terminal and never cut or wrapped in a file or a pipe; progress on stderr."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from mmret.progress import Counts, Reporter

_WIDE = 4000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def console(stderr: bool = False) -> Console:
    """A console on stdout (or stderr) that neither cuts a cell nor wraps a line where there is no terminal."""
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False) if terminal else Console(stderr=stderr, highlight=False, width=_WIDE)


def say(text: str) -> None:
    """A line of progress, on stderr at once."""
    console(stderr=True).print(text, markup=False, soft_wrap=True)


def say_loading() -> None:
    """Say that libraries and a model are loaded now, which takes seconds: before the first import of them, once it is known that
    what was asked for is there."""
    say("loading …")


def printable(value: object) -> Text:
    """``value`` as text for a table: square brackets are no markup, and characters that would steer the terminal or change the
    direction of the line are replaced, for captions and paths come from outside.

    >>> printable("[red]a[/red]").plain
    '[red]a[/red]'
    """
    return Text(without_controls("" if value is None else str(value)))


def without_controls(text: str) -> str:
    """``text`` with a replacement character for each that would steer the terminal or change the direction of the line."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(value: object) -> str:
    r"""``value`` as :func:`printable` shows it, on one line: its line ends and tabs are written ``\n``, ``\r`` and ``\t``."""
    if value is None:
        return ""
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return without_controls(text.replace("\n", r"\n").replace("\r", r"\r").replace("\t", r"\t"))


def print_json(value: Any, indent: int | None = None) -> None:
    """Print ``value`` as strict JSON on stdout, whatever a table can hold.

    Times, decimals and what else JSON has no type for are texts, bytes hexadecimal digits. JSON has no NaN and no
    infinity: they are null, and a note on stderr counts them.

    >>> print_json({"score": float("nan"), "bytes": b"\\x01\\xff"})
    {"score": null, "bytes": "01ff"}
    """
    lost: list[float] = []
    print(_json(value, lost, indent))
    _say_lost(lost)


def print_json_array(values: Iterable[Any]) -> None:
    """Print ``values`` as :func:`print_json` with ``indent=1`` prints a list of them, each as it comes: none is kept."""
    lost: list[float] = []
    before = "["
    for value in values:
        indented = _json(value, lost, 1).replace("\n", "\n ")  # inside a text JSON writes a line end as two characters
        print(f"{before}\n {indented}", end="")
        before = ","
    print("[]" if before == "[" else "\n]")
    _say_lost(lost)


def _json(value: Any, lost: list[float], indent: int | None) -> str:
    ascii_only = not (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    return json.dumps(json_value(value, lost), ensure_ascii=ascii_only, indent=indent, allow_nan=False)


def _say_lost(lost: list[float]) -> None:
    if lost:
        print(f"note: {len(lost):,} numbers that JSON cannot hold (NaN, Infinity) are null", file=sys.stderr)


def json_value(value: Any, lost: list[float]) -> Any:
    """``value`` as what JSON has types for; numbers that it cannot hold are added to ``lost``."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        lost.append(value)
        return None
    if isinstance(value, Mapping):
        return {_text(key): json_value(each, lost) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(each, lost) for each in value]
    if hasattr(value, "tolist"):  # NumPy
        return json_value(value.tolist(), lost)
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return value if isinstance(value, str) else str(value)


def stderr_reporter(task_name: str, every: float = 5.0) -> Reporter:
    """A reporter for :func:`mmret.progress.reporting` that prints on stderr how many rows are done.

    At most one line in ``every`` seconds. Example: ``with reporting(stderr_reporter("embedding")): ...``
    """
    last = time.monotonic()

    def report(task: str, done: int, total: int | None, note: str = "", counts: Counts | None = None) -> None:
        nonlocal last
        if time.monotonic() - last > every:
            last = time.monotonic()
            total_text, note_text = f" of {total:,}" if total else "", f" ({note})" if note else ""
            print(f"{task_name}: {done:,}{total_text}{note_text}", file=sys.stderr)

    return report
