"""The part of `mmret run`'s summary, and of `mmret evaluate`, that shows every kind of query before and after training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmret.benchmarks.figures import by_direction, lost
from mmret.benchmarks.robustness_figures import without_robustness
from mmret.search.models import UNTRAINED
from mmret.tasks import TASKS


def composed_only(evaluations: Mapping[str, Any]) -> dict[str, Any]:
    """The sets of composed queries, each with its parts; directions and robustness have tables of their own."""
    return {benchmark: figures for benchmark, figures in without_robustness(evaluations).items() if benchmark not in TASKS}


def print_directions(evaluations: Mapping[str, Any], left_out: Mapping[str, str], console: Console) -> None:
    """A table a recipe, a line a direction, strongest first; below, what training lost and what could not be measured."""
    if not any(benchmark in TASKS for benchmark in evaluations):
        return
    measured = [figures for benchmark, figures in evaluations.items() if benchmark in TASKS]
    # a reranker is measured on what a retriever found: it has no direction of its own
    models = {name for figures in measured for name, of in figures.items() if isinstance(of, dict) and "first R@1" not in of}
    recipes = sorted(models - {UNTRAINED})
    for recipe in recipes or [UNTRAINED]:
        directions = by_direction(evaluations, recipe)
        trained = recipe != UNTRAINED
        table = Table("kind of query", "searched", "queries", *(f"R@{k}" for k in (1, 10)), box=box.SIMPLE_HEAD)
        for column in table.columns[2:]:
            column.justify = "right"
        if trained:
            table.add_column("R@10 gained", justify="right")
        for of in directions:
            change = of.change()
            gained = ["" if change is None else f"{change:+.1f}"] if trained else []
            searched = f"{of.gallery:,} {of.searched}"
            table.add_row(of.task.shown, searched, f"{of.queries:,}", of.shown("R@1"), of.shown("R@10"), *gained)
        console.print(Text(f"every kind of query, {'untrained → ' if trained else ''}{recipe}, percent"))
        console.print(table)
        if fewer := lost(directions):
            kinds = ", ".join(of.task.shown for of in fewer)
            console.print(
                Text(
                    f"{recipe}: training for what it was given cost what the model found before: {kinds}. "
                    "A recipe with `tasks` trains them along (docs/training.md)."
                )
            )
    for name, why in left_out.items():
        console.print(Text(f"not measured: {TASKS[name].shown}: {why}", style="dim"))
