"""``mmret evaluate``: composed retrieval of a checkpoint over the whole corpus, on triplets of the user's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mmret.cli.lake_option import LakeOption
from mmret.cli.terminal import print_json, say_loading
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.tasks import TASKS


def evaluate(
    lake: LakeOption,
    triplets: Annotated[
        Path,
        typer.Option(
            help='JSON lines or an array of {"reference", "text", "target"}; paths as in the corpus manifest, or image ids'
        ),
    ],
    recipe: Annotated[str | None, typer.Option(help="checkpoint to measure, or 'untrained'; default: the first")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="or the folder of any checkpoint, a merged one say")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Recall at 1, 5, 10 and 50, the reference image removed, beside the untrained model; and every other kind of query, and
    how robust the answers are, as they were measured when the checkpoint was."""
    from mmret.lake.configuration import resolve
    from mmret.search.models import UNTRAINED, pick_recipe

    store = Lake(lake)
    profile, _ = resolve(store)
    if checkpoint is not None and recipe is not None:
        raise UserError("--recipe and --checkpoint name two models: leave one out")
    if checkpoint is not None and not checkpoint.is_dir():
        raise UserError(f"--checkpoint {checkpoint}: there is no such folder")
    name = str(checkpoint) if checkpoint is not None else pick_recipe(store, profile, recipe)
    say_loading()
    from mmret.benchmarks.figures import left_out, recorded
    from mmret.benchmarks.probes import is_robustness
    from mmret.benchmarks.robustness_figures import not_measured
    from mmret.benchmarks.stage import Model, evaluate_queries
    from mmret.benchmarks.triplets import read_triplets

    queries, skipped = read_triplets(store, triplets)
    for reason, n in skipped.items():
        print(f"note: {n:,} rows left out: {reason.replace('_', ' ')}", file=sys.stderr)
    asked = {name: Model(store, checkpoint).evaluate(queries)} if checkpoint is not None else {}
    recipes = dict.fromkeys((name, UNTRAINED) if checkpoint is None else (UNTRAINED,))
    results = asked | {r: evaluate_queries(store, profile, r, queries) for r in recipes}
    gallery = results[name].pop("gallery")
    results.get(UNTRAINED, {}).pop("gallery", None)
    own = [name] if checkpoint is None else []
    measured = recorded(store, own)
    if as_json:
        counts = {"queries": len(queries), "skipped": skipped, "gallery": gallery}
        every = {benchmark: of for benchmark, of in measured.items() if benchmark in TASKS}
        robust = {benchmark: of for benchmark, of in measured.items() if is_robustness(benchmark)}
        print_json(
            {"recipe": name, **counts, **results[name], UNTRAINED: results[UNTRAINED], "directions": every, "robustness": robust}
        )
        return
    from mmret.cli.run_summary import print_before_after
    from mmret.cli.run_summary_directions import print_directions
    from mmret.cli.run_summary_robustness import print_robustness
    from mmret.cli.terminal import console

    print_before_after({triplets.name: {"queries": len(queries), "gallery": gallery, **results}}, console())
    print_directions(measured, left_out(store, own), console())
    print_robustness(measured, not_measured(store, own), console())
