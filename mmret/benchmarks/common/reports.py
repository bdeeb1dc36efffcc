"""Reports a run as tables, a picture, files and rows of ``evaluations``, always with its protocol and with what it left out.

Published rows come from ``published.yaml``. CIRCO's and CIRR's are test-split numbers; beside a validation run the
table says that the two cannot be compared.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from mmret.atomic import write_text
from mmret.benchmarks.common.runs import COMPOSED, BenchmarkRun, Variant
from mmret.benchmarks.common.submissions import write_submission
from mmret.hashing import fingerprint
from mmret.lake import Lake
from mmret.schemas import EVALUATIONS

Rows = list[tuple[str, list[float | None]]]


@cache
def _published() -> dict[str, Any]:
    return yaml.safe_load((Path(__file__).parent / "published.yaml").read_text(encoding="utf-8"))


def headline(benchmark: str) -> list[str]:
    """The metrics of ``benchmark`` that papers print, in their order."""
    return list(_published()[benchmark]["metrics"])


def comparison(runs: Mapping[str, BenchmarkRun]) -> tuple[list[str], Rows]:
    """Columns and rows of a table: every variant of each named run of one benchmark, then published models. None: no value."""
    benchmark = next(iter(runs.values())).benchmark
    metrics = headline(benchmark)
    rows: Rows = []
    for name, run in runs.items():
        for variant in run.variants:
            values = dict(variant.metrics())
            label = f"{name}, {variant.name} ({run.split}{', partial' if run.partial else ''})"
            rows.append((label, [values.get(m) for m in metrics]))
    published = _published()[benchmark]
    rows += [(f"{model}, published ({published['split']})", list(values)) for model, values in published["rows"].items()]
    return metrics, rows


def robustness(run: BenchmarkRun) -> list[tuple[str, float, float, float, float]]:
    """(metric, mean, standard deviation, lowest, highest) in percent over the protocol's paraphrases; empty without any."""
    if len(run.paraphrases) < 2:
        return []
    found = []
    for metric in headline(run.benchmark):
        values = [v for p in run.paraphrases if (v := dict(p.metrics()).get(metric)) is not None]
        if len(values) > 1:
            found.append((metric, statistics.fmean(values), statistics.stdev(values), min(values), max(values)))
    return found


def remarks(run: BenchmarkRun) -> list[str]:
    """What must be read with the numbers: what is missing first, then protocol and comparability."""
    published = _published()[run.benchmark]["split"]
    found = [run.partial] if run.partial else []
    found.append(f"protocol {run.protocol}; {run.split} split; {run.queries:,} queries, gallery {run.gallery:,}; model {run.model}")
    if published != run.split:
        found.append(f"published rows are of the {published} split: not comparable with {run.split}")
    if not any(v.values for v in run.variants):
        found.append("targets of this split are hidden: only the submission files were made")
    return found + list(run.notes)


def markdown(runs: Mapping[str, BenchmarkRun]) -> str:
    """The comparison, the robustness over paraphrases and every remark, as one Markdown text."""
    first = next(iter(runs.values()))
    metrics, rows = comparison(runs)
    lines = [f"# {first.benchmark}", "", *_table(["model", *metrics], [[n, *map(_two, v)] for n, v in rows]), ""]
    for name, run in runs.items():
        if spread := robustness(run):
            lines += [
                f"## {name} over {len(run.paraphrases)} paraphrases",
                "",
                *_table(["metric", "mean", "sd", "lowest", "highest"], [[m, *map(_two, v)] for m, *v in spread]),
                "",
            ]
        lines += [f"- {name}: {remark}" for remark in remarks(run)]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] + ["---:"] * (len(head) - 1), *rows)]


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def picture(runs: Mapping[str, BenchmarkRun], path: Path) -> None:
    """Draw the comparison as horizontal bars per metric into ``path`` (PNG); published models in grey."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("Agg", force=False)
    metrics, rows = comparison(runs)
    shown = [m for i, m in enumerate(metrics) if any(v[i] is not None for _, v in rows)][:4]
    figure = Figure(figsize=(3.2 * len(shown) + 2.5, 0.32 * len(rows) + 1.4), layout="constrained")
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axis, metric in zip(axes, shown, strict=True):
        column = metrics.index(metric)
        values = [v[column] or 0.0 for _, v in rows]
        colours = ["0.7" if "published" in name else "tab:blue" if COMPOSED in name else "tab:cyan" for name, _ in rows]
        axis.barh(range(len(rows)), values, color=colours)
        for i, (_, v) in enumerate(rows):
            axis.text(values[i], i, f" {_two(v[column])}", va="center", fontsize=7)
        axis.set_title(metric, fontsize=9)
        axis.set_xlim(0, max(1.0, *values) * 1.2)
        axis.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=7)
    axes[0].invert_yaxis()
    first = next(iter(runs.values()))
    figure.suptitle(
        f"{first.benchmark}, {first.protocol}" + (" - PARTIAL" if any(r.partial for r in runs.values()) else ""),
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def evaluation_rows(run: BenchmarkRun, recipe: str) -> pa.Table:
    """Rows of schema EVALUATIONS. ``benchmark`` carries split and protocol (``circo.val [circo-1/megapairs]``); metrics
    other than the composed query's are prefixed with the name of the variant, and those of a partial run with ``partial``.
    """
    inputs = fingerprint(run.model, run.protocol, run.split, run.queries, run.gallery, run.partial)
    rows: list[dict[str, Any]] = []

    def add(prefix: str, variant: Variant) -> None:
        for metric, value in variant.metrics():
            rows.append(
                {
                    "recipe": recipe,
                    "benchmark": f"{run.name} [{run.protocol}]",
                    "metric": f"{prefix}{metric}",
                    "value": value,
                    "queries": run.queries,
                    "gallery": run.gallery,
                    "inputs": inputs,
                }
            )

    partial = "partial " if run.partial else ""
    for variant in run.variants:
        add(partial if variant.name == COMPOSED else f"{partial}{variant.name} ", variant)
    for metric, mean, spread, _, _ in robustness(run):
        for name, value in (("paraphrases mean", mean), ("paraphrases sd", spread)):
            rows.append(
                {
                    "recipe": recipe,
                    "benchmark": f"{run.name} [{run.protocol}]",
                    "metric": f"{partial}{name} {metric}",
                    "value": value,
                    "queries": run.queries,
                    "gallery": run.gallery,
                    "inputs": inputs,
                }
            )
    return pa.Table.from_pylist(rows, EVALUATIONS)


def record(lake: Lake, run: BenchmarkRun, recipe: str) -> None:
    """Write the rows into the lake's ``evaluations`` as a partition of their own, ``<recipe>.<benchmark>.<split>``."""
    lake.write(
        "evaluations",
        f"{recipe}.{run.name}",
        evaluation_rows(run, recipe),
        fingerprint(run.model, run.protocol),
        protocol=run.protocol,
        partial=run.partial,
    )


def summary(run: BenchmarkRun) -> dict[str, Any]:
    """Everything but rankings, for JSON."""
    return {
        "benchmark": run.benchmark,
        "split": run.split,
        "protocol": run.protocol,
        "model": run.model,
        "partial": run.partial,
        "queries": run.queries,
        "gallery": run.gallery,
        "notes": list(run.notes),
        "scores": {v.name: v.values for v in run.variants},
        "paraphrases": {m: dict(zip(("mean", "sd", "lowest", "highest"), v, strict=True)) for m, *v in robustness(run)},
    }


def write_files(run: BenchmarkRun, name: str, out: Path) -> list[Path]:
    """Write scores, table, picture, predictions of every variant, and submission files under ``out``; returns their paths."""
    written = []
    for variant in run.variants:
        for file, content in variant.predictions.items():
            path = out / variant.name.replace(", ", "-").replace(" ", "-") / file
            write_text(path, json.dumps(content, separators=(",", ":")))
            written.append(path)
    for file, content in run.submissions.items():
        write_submission(out / file, content)
        written.append(out / file)
    for path, text in (
        (out / "scores.json", json.dumps(summary(run), indent=2)),
        (out / "table.md", markdown({name: run})),
    ):
        write_text(path, text)
        written.append(path)
    if any(v.values for v in run.variants):
        picture({name: run}, out / "comparison.png")
        written.append(out / "comparison.png")
    return written
