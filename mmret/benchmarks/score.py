"""Scores a prediction file of any benchmark: the one way in to the scorers, for the command line and for Python."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from mmret.benchmarks.common.scores import ScoreOptions, Scores
from mmret.benchmarks.registry import benchmark_of, benchmarks_with
from mmret.errors import UserError


def score_file(benchmark: str, annotations: str | Path, predictions: str | Path, options: ScoreOptions | None = None) -> Scores:
    """Score a prediction file by the benchmark's official rules.

    ``annotations``: the benchmark's annotation file or a folder in its official layout. Raises UserError for an unknown
    benchmark, an option of another one, and malformed files of either kind.

        score_file("circo", "CIRCO/annotations/val.json", "predictions.json").values["mAP"]["5"]
    """
    entry = benchmark_of(benchmark)
    options = options or ScoreOptions()
    for field in fields(options):
        names = benchmarks_with(field.name)
        if names and benchmark not in names and getattr(options, field.name) != field.default:
            flag = f"--{field.name.replace('_', '-')}"
            raise UserError(f"{flag} is for {' and '.join(names)} only, not for {benchmark}")
    return entry.score(Path(annotations), Path(predictions), options)
