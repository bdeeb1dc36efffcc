"""The report: one Markdown table and one JSON file, written anew whenever there is a row more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmret.atomic import replacing


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows so far; a last line that is half written is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def write_report(folder: Path, facts: dict[str, Any], rows: Sequence[dict[str, Any]], states: Sequence[dict[str, Any]]) -> None:
    """``report.md`` and ``report.json`` in ``folder``. ``states``: of each part, its name, seconds and what became of it."""
    for name, text in (
        ("report.md", markdown(facts, rows, states)),
        ("report.json", json.dumps({"machine": facts, "rows": rows, "parts": states}, indent=1)),
    ):
        with replacing(folder / name) as aside:
            aside.write_text(text)


def markdown(facts: dict[str, Any], rows: Sequence[dict[str, Any]], states: Sequence[dict[str, Any]]) -> str:
    lines = ["# Measured on this GPU", "", *(f"* {name}: {value}" for name, value in facts.items()), ""]
    lines += ["| row | figure | beside it | peak GiB | note |", "|---|---|---|---|---|"]
    for row in rows:
        figure = f"{row['figure']:.5g} {row['unit']}".strip() if row["figure"] is not None else _last_line(row["failed"])
        cells = (f"`{row['row']}`", figure, row["beside"], "" if row["peak_gib"] is None else row["peak_gib"], row["note"])
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    lines += ["", "| part | seconds | ended |", "|---|---|---|"]
    lines += [f"| {state['part']} | {state['seconds']:.0f} | {state['ended']} |" for state in states]
    for row in rows:
        if row["failed"] and "\n" in row["failed"]:
            lines += ["", f"`{row['row']}`:", "", "```", row["failed"].rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:300]
