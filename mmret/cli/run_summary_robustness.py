"""The part of `mmret run`'s summary, and of `mmret evaluate`, that shows how much answers depend on what should not matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmret.benchmarks.probes import PREFIX
from mmret.benchmarks.robustness_figures import table_of


def print_robustness(evaluations: Mapping[str, Any], left_out: Mapping[str, str], console: Console) -> None:
    """One table of all models; below, what could not be measured. Nothing where nothing was asked for."""
    columns, rows = table_of(evaluations)
    if rows:
        table = Table(*columns, box=box.SIMPLE_HEAD)
        for column in table.columns[2:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for name, why in left_out.items():
        console.print(Text(f"not measured: {name.removeprefix(PREFIX)}: {why}", style="dim"))
