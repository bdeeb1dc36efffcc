"""The figures of every direction as people read them: strongest first, each before and after training.

Everything that shows them goes through here: `mmret run`, `mmret evaluate`, cards, Dagster and the page. Reads table
``evaluations`` alone; costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mmret.lake import Lake
from mmret.search.models import UNTRAINED
from mmret.tasks import COMPOSED, TASKS, Task

COMPOSED_QUERIES = "held-out triplets"
"""The set of queries that shows the composed direction."""
LOST = 1.0
"""Points of R@10 below the untrained model from which a direction counts as lost, of so many queries that it is two at least."""

Nested = Mapping[str, Mapping[str, Any]]
"""``{benchmark: {"queries", "gallery", recipe: {metric: percent}}}``."""


@dataclass(frozen=True)
class DirectionFigures:
    """Percent by metric (``R@1``, ``R@10``, ...) of one direction: ``before`` by the untrained model, ``after`` by the recipe's;
    empty where that was not measured."""

    task: Task
    queries: int
    gallery: int
    before: Mapping[str, float]
    after: Mapping[str, float]

    @property
    def searched(self) -> str:
        """What the gallery consists of."""
        return "captions" if self.task.searches_texts else "pictures with captions" if len(self.task.candidate) > 1 else "pictures"

    @property
    def strength(self) -> float:
        """What directions are ordered by: R@10 after training, before it where there is no other."""
        return (self.after or self.before).get("R@10", 0.0)

    def change(self, metric: str = "R@10") -> float | None:
        """Points won or lost by training; None where one of both is not there."""
        return self.after[metric] - self.before[metric] if metric in self.before and metric in self.after else None

    def shown(self, metric: str) -> str:
        """``48.0 → 60.3``, or the one figure there is."""
        return " → ".join(f"{side[metric]:.1f}" for side in (self.before, self.after) if metric in side)


def nest(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of ``evaluations`` by benchmark and recipe (:data:`Nested`), rounded."""
    out: dict[str, Any] = {}
    for row in rows:
        benchmark = out.setdefault(row["benchmark"], {"queries": row["queries"], "gallery": row["gallery"]})
        benchmark.setdefault(row["recipe"], {})[row["metric"]] = round(row["value"], 3)
    return out


def by_direction(evaluations: Nested, recipe: str) -> list[DirectionFigures]:
    """The directions that were measured of ``recipe`` or of the untrained model, strongest first."""
    found = []
    for name, task in TASKS.items():
        figures = evaluations.get(COMPOSED_QUERIES if name == COMPOSED else name)
        if figures is None:
            continue
        before, after = figures.get(UNTRAINED, {}), figures.get(recipe, {}) if recipe != UNTRAINED else {}
        if before or after:
            found.append(DirectionFigures(task, figures["queries"], figures["gallery"], before, after))
    return sorted(found, key=lambda of: -of.strength)


def recorded(lake: Lake, recipes: Iterable[str] | None = None) -> dict[str, Any]:
    """:data:`Nested` figures of the lake's evaluations, of ``recipes`` and the untrained model or of all; the last of each."""
    wanted = None if recipes is None else {*recipes, UNTRAINED}
    last: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in lake.read_rows("evaluations"):
        if wanted is None or row["recipe"] in wanted:
            key = row["recipe"], row["benchmark"], row["metric"]
            last.pop(key, None)  # its place is that of the last
            last[key] = row
    return nest(last.values())


def left_out(lake: Lake, recipes: Iterable[str], note: str = "left_out") -> dict[str, str]:
    """Directions that could not be measured of ``recipes``, by name, and why; or what another ``note`` of theirs says of this."""
    found: dict[str, str] = {}
    for recipe in recipes:
        if facts := lake.facts("evaluations", recipe):
            found |= facts.notes.get(note, {})
    return found


def lost(directions: Iterable[DirectionFigures]) -> list[DirectionFigures]:
    """Those in which the trained model finds clearly less than the untrained one."""
    return [of for of in directions if (change := of.change()) is not None and change < -max(LOST, 199 / of.queries)]


def markdown(directions: Iterable[DirectionFigures], recipe: str) -> str:
    """A table of the directions, before and after the training of ``recipe``."""
    lines = [
        f"| query | searched | queries | R@1 untrained → {recipe} | R@10 untrained → {recipe} |",
        "|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {of.task.shown} | {of.gallery:,} {of.searched} | {of.queries:,} | {of.shown('R@1')} | {of.shown('R@10')} |"
        for of in directions
    ]
    return "\n".join(lines)
