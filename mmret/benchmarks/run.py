"""Runs a checkpoint on any benchmark: the one way in to the runners, for the command line and for Python."""

from __future__ import annotations

from pathlib import Path

from mmret.benchmarks.common.pictures import Embedder
from mmret.benchmarks.common.runs import BenchmarkRun, RunOptions
from mmret.benchmarks.registry import benchmark_of, benchmarks_with
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.search.encoder import Encoder


def run_benchmark(
    benchmark: str, encoder: Encoder, model: str, options: RunOptions, lake: Lake | None = None, batch_size: int = 64
) -> BenchmarkRun:
    """Run ``encoder`` on ``benchmark``. ``model`` names its weights (a digest): vectors are stored in ``lake`` under that name.

    Raises UserError for an unknown benchmark, missing pictures (unless allowed), malformed annotations, and embeddings
    that are not finite or all the same.
    """
    entry = benchmark_of(benchmark)
    if options.gallery != "original" and "gallery" not in entry.options:
        raise UserError(f"only {' and '.join(benchmarks_with('gallery'))} has a choice of gallery")
    return entry.run(Embedder(encoder, model, lake, batch_size), options)


def run_checkpoint(
    benchmark: str, checkpoint: str | Path, options: RunOptions, lake: Lake | None = None, batch_size: int = 64
) -> BenchmarkRun:
    """As :func:`run_benchmark` for a checkpoint folder (ours, a BGE-VL or any CLIP folder) or a hub name.

    run_checkpoint("cirr", "lakes/demo/checkpoints/demo", RunOptions(images, annotations)).variants[0].values
    """
    from mmret.retriever.models.load import Retriever, embedding_digest

    return run_benchmark(benchmark, Retriever.load(checkpoint), embedding_digest(checkpoint), options, lake, batch_size)
