"""One entrance to the five runners: a checkpoint and a benchmark's pictures in, numbers with their protocol out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmret.benchmarks.circo.runner import run_circo, run_cirr, run_fashioniq
from mmret.benchmarks.common.pictures import Embedder, Encoder
from mmret.benchmarks.common.runs import BenchmarkRun, RunOptions
from mmret.benchmarks.genecis.runner import run_genecis
from mmret.benchmarks.mmeb.runner import run_mmeb
from mmret.errors import UserError
from mmret.lake import Lake

RUNNERS: dict[str, Callable[[Embedder, RunOptions], BenchmarkRun]] = {
    "circo": run_circo,
    "cirr": run_cirr,
    "fashioniq": run_fashioniq,
    "genecis": run_genecis,
    "mmeb": run_mmeb,
}


def run_benchmark(
    benchmark: str, encoder: Encoder, model: str, options: RunOptions, lake: Lake | None = None, batch_size: int = 64
) -> BenchmarkRun:
    """Run ``encoder`` on ``benchmark``. ``model`` names its weights (a digest): the key of what ``lake`` keeps of it.

    Raises UserError for an unknown benchmark, missing pictures (unless allowed), malformed annotations, and embeddings
    that are not finite or all the same.
    """
    runner = RUNNERS.get(benchmark)
    if runner is None:
        raise UserError(f"no benchmark '{benchmark}': there are {', '.join(RUNNERS)}")
    if options.gallery != "original" and benchmark != "fashioniq":
        raise UserError("only fashioniq has a choice of gallery")
    return runner(Embedder(encoder, model, lake, batch_size), options)


def run_checkpoint(
    benchmark: str, checkpoint: str | Path, options: RunOptions, lake: Lake | None = None, batch_size: int = 64
) -> BenchmarkRun:
    """As :func:`run_benchmark` for a checkpoint folder (ours, a BGE-VL or any CLIP folder) or a hub name."""
    import mmret
    from mmret.retriever.models.load import embedding_digest

    return run_benchmark(benchmark, mmret.Retriever.load(checkpoint), embedding_digest(checkpoint), options, lake, batch_size)
