"""The figures of robustness as people read them: one table, a line a probe, a column a model, the untrained one first.

`mmret run`, `mmret evaluate`, cards and Dagster show it. Reads figures of table ``evaluations`` alone; costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmret.benchmarks.figures import Nested, left_out
from mmret.benchmarks.probes import COMBINED, PREFIX, SECOND, is_robustness
from mmret.benchmarks.robustness import K
from mmret.lake import Lake
from mmret.search.models import UNTRAINED

MODELS = 6
"""Columns of the table: of a lake of studies the first recipes by name, and how many more there are."""


@dataclass(frozen=True)
class Shown:
    """How probes whose names begin with ``of`` are shown: ``metric``, and in brackets ``beside``, what it is compared with."""

    of: str
    title: str
    metric: str
    beside: str


SHOWN = (
    Shown(f"{PREFIX}wordings of ", f"spread over wordings (mean R@{K})", f"spread R@{K}", f"mean R@{K}"),
    Shown(f"{PREFIX}hard negatives of ", f"a hard negative before the target (in the first {K})", "before target", f"in first {K}"),
    Shown(f"{PREFIX}parts of ", "picture or text alone would do (both needed)", f"either R@{K}", f"needs both R@{K}"),
    Shown(SECOND, f"R@{K} with a second picture of the same (with one)", f"R@{K}", f"one picture R@{K}"),
    Shown(COMBINED, f"R@{K} of two pictures combined (of one and words)", f"R@{K}", f"one picture R@{K}"),
)


def table_of(evaluations: Nested) -> tuple[list[str], list[list[str]]]:
    """Names of the columns and their cells, percent; no rows where no probe was measured.

    >>> table_of(recorded(lake, ["demo"]))[1][0]
    ['spread over wordings (mean R@10)', 'held-out edits', '200', '16.0 (9.4)', '31.0 (47.1)']
    """
    lines = list(_lines(evaluations))
    models = {model for _, _, figures in lines for model, of in figures.items() if isinstance(of, Mapping)}
    every = sorted(models, key=lambda model: (model != UNTRAINED, model))
    order, more = every[:MODELS], len(every[MODELS:])
    cells = [[how.title, asked, f"{of['queries']:,}", *(_cell(how, of.get(model)) for model in order)] for how, asked, of in lines]
    if more:
        cells.append([f"{more:,} models more: table evaluations", "", "", *("" for _ in order)])
    return ["robustness, percent", "asked", "queries", *order], cells


def _lines(evaluations: Nested) -> Iterator[tuple[Shown, str, Mapping[str, Any]]]:
    for how in SHOWN:
        for name in sorted(name for name in evaluations if name.startswith(how.of)):
            asked = name.removeprefix(how.of) or ("held-out triplets" if how.of == SECOND else "held-out edits")
            yield how, asked, evaluations[name]


def _cell(how: Shown, figures: Mapping[str, float] | None) -> str:
    if not figures or how.metric not in figures:
        return ""
    return f"{figures[how.metric]:.1f}" + (f" ({figures[how.beside]:.1f})" if how.beside in figures else "")


def without_robustness(evaluations: Nested) -> dict[str, Any]:
    """The other benchmarks, which are recall of queries."""
    return {name: figures for name, figures in evaluations.items() if not is_robustness(name)}


def not_measured(lake: Lake, recipes: Iterable[str]) -> dict[str, str]:
    """Probes that could not be measured of ``recipes``, by name, and why."""
    return left_out(lake, recipes, "robustness_left_out")


def beyond(rows: Iterable[Mapping[str, Any]], of: str, metric: str, limit: float) -> list[tuple[str, str, float]]:
    """Recipe, benchmark and percent of rows of ``evaluations`` of trained models whose ``metric`` is above ``limit`` percent, of
    probes whose names begin with ``of``."""
    return [
        (row["recipe"], row["benchmark"], round(row["value"], 1))
        for row in rows
        if row["benchmark"].startswith(of) and row["metric"] == metric and row["recipe"] != UNTRAINED and row["value"] > limit
    ]
