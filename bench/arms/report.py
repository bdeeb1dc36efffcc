"""What the runs of a plan say: a table a study, with paired differences, their 95 % intervals and a verdict."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.arms.plan import Plan, Study
from mmret.studies.statistics import Difference, differences, verdict

Rows = Sequence[Mapping[str, Any]]
CLAIMS = {
    "rising": "each above the one before",
    "last": "the last above each other",
    "over_first": "each above the first",
}


def compared(study: Study, rows: Rows, metric: str) -> tuple[list[dict[str, Any]], list[Difference]]:
    """A row per arm of ``study``, ``{arm, seeds, mean, deviation, steps, seconds, step_seconds}``, and the differences that its
    claim is about."""
    table, by_seed = [], []
    for arm in study.arms:
        own = {row["seed"]: row for row in rows if row["arm"] == arm.name}
        values = {seed: row[metric] for seed, row in own.items() if metric in row}
        by_seed.append((arm.name, values))

        def mean(name: str, own: Mapping[int, Mapping[str, Any]] = own) -> float | None:
            found = [row[name] for row in own.values() if name in row]
            return statistics.fmean(found) if found else None

        table.append(
            {
                "arm": arm.name,
                "seeds": len(values),
                "mean": statistics.fmean(values.values()) if values else None,
                "deviation": statistics.stdev(values.values()) if len(values) > 1 else None,
                **{name: mean(name) for name in ("steps", "seconds", "step_seconds")},
            }
        )
    return table, differences(study.claim, by_seed)


def print_report(plan: Plan, rows: Rows, metrics: Sequence[str]) -> None:
    """Markdown, a table a study and metric."""
    for study in plan.studies:
        for metric in metrics:
            table, found = compared(study, rows, metric)
            if not any(row["seeds"] for row in table):
                continue
            print(f"\n**{study.name}**, {metric}; differences paired by seed with 95 % intervals, each for its own comparison\n")
            print(f"| arm | steps | processor s | seeds | {metric} | difference | 95 % interval | positive | above |")
            print("|---|---|---|---|---|---|---|---|---|")
            for row in table:
                print(f"| {row['arm']} | {_arm_cells(row)} | {_difference_cells([d for d in found if d.label == row['arm']])} |")
            said = verdict(found)
            print(f"\n{CLAIMS[study.claim]}: {said}" if study.claim != "over_first" else "")


def _arm_cells(row: Mapping[str, Any]) -> str:
    if row["mean"] is None:
        return "- | - | 0 | -"
    deviation = "" if row["deviation"] is None else f" ± {row['deviation']:.1f}"
    return f"{row['steps']:,.0f} | {row['seconds']:.0f} | {row['seeds']} | {row['mean']:.1f}{deviation}"


def _difference_cells(found: Sequence[Difference]) -> str:
    columns: list[list[str]] = [[], [], [], []]
    for d in found:
        over = f" over {d.over}" if len(found) > 1 else ""
        columns[0].append("-" if d.mean is None else f"{d.mean:+.2f}{over}")
        columns[1].append("-" if d.low is None else f"{d.low:+.2f} to {d.high:+.2f}")
        columns[2].append(f"{d.positive} of {d.seeds}")
        columns[3].append(d.verdict)
    return " | ".join(", ".join(column) for column in columns)
