"""``mmret score``: the official metrics of a prediction file, with no model and no image at hand."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmret.benchmarks.registry import BENCHMARKS

Benchmark = StrEnum("Benchmark", list(BENCHMARKS))


class Gallery(StrEnum):
    original = "original"
    union = "union"


def score(
    benchmark: Annotated[Benchmark, typer.Argument(help="which official metric")],
    annotations: Annotated[Path, typer.Option(help="annotation file, or a folder in the official layout")],
    predictions: Annotated[Path, typer.Option(help="rankings, best first; JSON, plain or gzip")],
    subset_predictions: Annotated[Path | None, typer.Option(help="cirr: the recall_subset file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of a table")] = False,
    partial: Annotated[bool, typer.Option(help="score incomplete files over what they hold, and say so")] = False,
    soft: Annotated[bool, typer.Option(help="cirr: also by the authors' soft targets")] = False,
    remove_reference: Annotated[bool, typer.Option(help="circo, fashioniq: drop the query's own image first")] = False,
    gallery: Annotated[Gallery, typer.Option(help="fashioniq: union = references and targets only; easier")] = Gallery.original,
) -> None:
    """Score a prediction file by the benchmark's official rules; all figures in percent."""
    from mmret.benchmarks.common.scores import ScoreOptions
    from mmret.benchmarks.score import score_file
    from mmret.cli.terminal import console, print_json

    options = ScoreOptions(subset_predictions, partial, soft, remove_reference, gallery.value)
    scores = score_file(benchmark.value, annotations, predictions, options)
    for note in scores.notes:
        typer.echo(f"note: {note}", err=True)
    if as_json:
        print_json(scores.document(), indent=2)
        return
    from rich.table import Table

    table = Table(title=f"{benchmark.value}, {scores.queries:,} queries", title_justify="left")
    table.add_column("metric")
    table.add_column("%", justify="right")
    for metric, value in scores.rows():
        bound = "≥ " if metric in scores.lower_bounds else ""
        table.add_row(metric, "-" if value is None else f"{bound}{value:.2f}")
    console().print(table)
