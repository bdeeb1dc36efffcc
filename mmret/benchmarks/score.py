"""One entrance to the five scorers, for the command line and for Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmret.benchmarks.circo import scorer as circo
from mmret.benchmarks.cirr import scorer as cirr
from mmret.benchmarks.common.scores import ScoreOptions, Scores
from mmret.benchmarks.fashioniq import scorer as fashioniq
from mmret.benchmarks.genecis import scorer as genecis
from mmret.benchmarks.mmeb import scorer as mmeb
from mmret.errors import UserError

SCORERS: dict[str, Callable[[Path, Path, ScoreOptions], Scores]] = {
    "circo": circo.score,
    "cirr": cirr.score,
    "fashioniq": fashioniq.score,
    "genecis": genecis.score,
    "mmeb": mmeb.score,
}


def score_file(benchmark: str, annotations: str | Path, predictions: str | Path, options: ScoreOptions | None = None) -> Scores:
    """Score a prediction file by the benchmark's official rules.

    ``annotations``: the benchmark's annotation file or a folder in its official layout. Raises UserError for an unknown
    benchmark and for malformed files of either kind.
    """
    scorer = SCORERS.get(benchmark)
    if scorer is None:
        raise UserError(f"no benchmark '{benchmark}': there are {', '.join(SCORERS)}")
    options = options or ScoreOptions()
    for chosen, name, takers in (
        (options.subset_predictions, "--subset-predictions", ("cirr",)),
        (options.soft, "--soft", ("cirr",)),
        (options.remove_reference, "--remove-reference", ("circo", "fashioniq")),
        (options.gallery != "original", "--gallery", ("fashioniq",)),
    ):
        if chosen and benchmark not in takers:
            raise UserError(f"{name} is for {' and '.join(takers)} only, not for {benchmark}")
    return scorer(Path(annotations), Path(predictions), options)
