"""``mmret teach``: scores of the training triplets for recipes with a ``teacher``: made by it, or brought from outside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmret.cli.lake_option import LakeOption
from mmret.cli.terminal import printable, say_loading

if TYPE_CHECKING:
    from mmret.lake import Lake


def teach(
    lake: LakeOption,
    recipe: Annotated[
        str, typer.Option(help="recipe of a reranker or a retriever that has a checkpoint; judge; with --scores any name")
    ],
    scores: Annotated[
        Path | None,
        typer.Option(help="Parquet, CSV or JSON lines of query_id, text, candidate_id, score: the scores of a model of your own"),
    ] = None,
) -> None:
    """Write table `teacher_scores`: what a teacher says of every training triplet's target and hard negatives.

    Training with `teacher: RECIPE` does so by itself where scores are missing; this does it beforehand, on another machine say.
    Begun again it goes on where it was stopped. Teacher `judge` is the model of annotate.vision. With --scores the table takes
    what a file says, for recipes with `teacher: scores/RECIPE`.
    """
    from mmret.lake import Lake

    store = Lake(lake)
    if scores is not None:
        _bring(store, recipe, scores)
    else:
        _score(store, recipe)


def _score(store: Lake, teacher: str) -> None:
    say_loading()
    from mmret.ingest.pictures.images import images_by_id
    from mmret.lake.configuration import resolve
    from mmret.retriever.train.teach import teach as score
    from mmret.settings.recipe_links import asks_judge

    profile, _ = resolve(store)
    shown = 0

    def report(done: int, total: int) -> None:
        nonlocal shown
        if done >= shown + max(1, total // 20):
            shown = done
            typer.echo(f"{done:,} of {total:,} triplets", err=True)

    columns = ["pair_id", "query_id", "target_id", "texts", "hard_negatives", "split"]
    judge = profile.annotate if asks_judge(profile.recipes, teacher) else None
    triplets = store.read("triplets", columns=columns)
    model, made, unscored = score(store, teacher, triplets, lambda ids: images_by_id(store, ids), report, judge)
    typer.echo(f"{teacher} ({model}): {made:,} new scores in table teacher_scores")
    for reason, count in unscored.items():
        typer.echo(f"without a score: {count:,} × {printable(reason)}; run again to ask anew", err=True)


def _bring(store: Lake, name: str, file: Path) -> None:
    say_loading()
    from mmret.errors import UserError
    from mmret.retriever.train.imported_scores import import_scores
    from mmret.retriever.train.teach import coverage
    from mmret.settings.recipe_links import scores_name, usable_scores_name

    name = scores_name(name) or name
    if not usable_scores_name(name):
        raise UserError(f"'{printable(name)}' is no name of scores: take letters, digits, - and _")
    found = import_scores(store, name, file)
    for remark in found.remarks:
        typer.echo(f"note: {printable(remark)}", err=True)
    if found.repeated:
        typer.echo(f"note: {found.repeated:,} rows say what another one says", err=True)
    if found.unknown:
        typer.echo(f"note: {found.unknown:,} rows left out: not in the lake ({printable(found.example)})", err=True)
    columns = ["query_id", "target_id", "texts", "hard_negatives", "split"]
    known, wanted = coverage(store, name, store.read("triplets", columns=columns))
    state = "in" if found.changed else "already in"
    typer.echo(f"scores/{name} ({found.model}): {found.kept:,} scores {state} table teacher_scores")
    typer.echo(f"they answer {known:,} of {wanted:,} questions of the training triplets")
