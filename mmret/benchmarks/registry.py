"""The list of benchmarks: of each its name and the options that only it has. A new benchmark is a folder and a line here.

A folder ``<name>/`` holds ``scorer.py`` with ``score(annotations, predictions, options)`` and ``runner.py`` with
``run(embedder, options)``, and ``protocol.yaml``. They are imported on first use, since the command line needs the names alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from mmret.errors import UserError

if TYPE_CHECKING:
    from mmret.benchmarks.common.pictures import Embedder
    from mmret.benchmarks.common.runs import BenchmarkRun, RunOptions
    from mmret.benchmarks.common.scores import ScoreOptions, Scores


@dataclass(frozen=True)
class Benchmark:
    """``options``: fields of ScoreOptions and RunOptions that only some benchmarks take."""

    name: str
    options: tuple[str, ...] = ()

    @property
    def score(self) -> Callable[[Path, Path, ScoreOptions], Scores]:
        """Scores a prediction file (annotations, predictions, options)."""
        return import_module(f"mmret.benchmarks.{self.name}.scorer").score

    @property
    def run(self) -> Callable[[Embedder, RunOptions], BenchmarkRun]:
        """Runs a model on the benchmark's pictures."""
        return import_module(f"mmret.benchmarks.{self.name}.runner").run


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("circo", ("remove_reference",)),
        Benchmark("cirr", ("subset_predictions", "soft")),
        Benchmark("fashioniq", ("remove_reference", "gallery")),
        Benchmark("genecis"),
        Benchmark("mmeb"),
    )
}


def benchmark_of(name: str) -> Benchmark:
    """The benchmark called ``name``. Raises UserError listing those there are."""
    if name not in BENCHMARKS:
        raise UserError(f"no benchmark '{name}': there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def benchmarks_with(option: str) -> list[str]:
    """Names of the benchmarks that have ``option``, a field of ScoreOptions or RunOptions."""
    return [name for name, benchmark in BENCHMARKS.items() if option in benchmark.options]
