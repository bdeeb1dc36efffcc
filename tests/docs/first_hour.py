"""docs/first-hour.md as a test reads it: its commands in order, each with the output that the page shows."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.conftest import CHECKOUT

PAGE = (CHECKOUT / "docs" / "first-hour.md").read_text()
_DURATION = r"(?:\d+ h )?(?:\d+ min )?\d+ s\b"
_TOKEN = re.compile(
    rf"(?P<duration>{_DURATION})|(?P<number>\d[\d,.]*\d|\d)|(?P<anything>…)|(?P<rule>─+)|(?P<blank>\s+)|(?P<text>.)", re.DOTALL
)
_PATTERNS = {"duration": _DURATION, "number": r"\d[\d,.]*", "anything": ".*?", "rule": "─+", "blank": r"\s+"}


@dataclass(frozen=True)
class Step:
    """A block of commands and what the page shows of their output; "" where it shows none."""

    commands: str
    shown: str
    rows_vary: bool
    """Below the rule of the table other rows may stand."""


def steps() -> list[Step]:
    blocks = re.findall(r"^```(bash|text(?: rows)?)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    found = []
    for at, (kind, text) in enumerate(blocks):
        if kind == "bash":
            following, shown = blocks[at + 1] if at + 1 < len(blocks) else ("bash", "")
            found.append(Step(text.strip(), "" if following == "bash" else shown, following == "text rows"))
    return found


def pattern(shown: str) -> re.Pattern[str]:
    """What the output must hold: numbers and durations may differ, ``…`` is anything, any blank is as good as another."""
    parts = [_PATTERNS.get(found.lastgroup) or re.escape(found[0]) for found in _TOKEN.finditer(shown.strip())]
    return re.compile("".join(parts), re.DOTALL)


def fits(step: Step, output: str) -> bool:
    """Whether ``output`` is as the page shows it."""
    if not step.rows_vary:
        return pattern(step.shown).search(output) is not None
    head, rows = re.split("─+", step.shown, maxsplit=1)
    found = pattern(head + "─").search(output)
    below = output[found.end() :].strip().splitlines() if found else []
    return len(below) >= len(rows.strip().splitlines())
