"""``mmret teach``: has a reranker score the training triplets, for recipes whose ``teacher`` it is."""

from __future__ import annotations

from typing import Annotated

import typer

from mmret.cli.lake_option import LakeOption


def teach(
    lake: LakeOption,
    recipe: Annotated[str, typer.Option(help="recipe of a reranker that has a checkpoint")],
) -> None:
    """Write table `teacher_scores`: what the reranker says of every training triplet's target and hard negatives.

    Training with `teacher: RECIPE` does so by itself where scores are missing; this does it beforehand, on another machine say.
    Begun again it goes on where it was stopped.
    """
    from mmret.ingest.pictures.images import images_by_id
    from mmret.lake import Lake
    from mmret.retriever.train.teach import teach as score

    store, shown = Lake(lake), 0

    def report(done: int, total: int) -> None:
        nonlocal shown
        if done >= shown + max(1, total // 20):
            shown = done
            typer.echo(f"{done:,} of {total:,} triplets", err=True)

    columns = ["pair_id", "query_id", "target_id", "texts", "hard_negatives", "split"]
    model, made = score(store, recipe, store.read("triplets", columns=columns), lambda ids: images_by_id(store, ids), report)
    typer.echo(f"{recipe} ({model}): {made:,} new scores in table teacher_scores")
