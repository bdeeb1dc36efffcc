"""``mmret train``: one recipe's checkpoint, by this process or by all that torchrun or accelerate started."""

from __future__ import annotations

from typing import Annotated

import typer

from mmret.cli.lake_option import LakeOption
from mmret.errors import UserError


def train(
    lake: LakeOption,
    recipe: Annotated[str, typer.Option(help="name of a recipe of the lake's profile")],
) -> None:
    """Train one recipe on the lake's triplets, without Dagster. Continues where a killed one stopped.

    Over several GPUs or machines: `torchrun --nproc-per-node 8 -m mmret train --lake L --recipe R`, or
    `accelerate launch -m mmret train ...`. `mmret run` then finds the checkpoint and records it.
    """
    from mmret.lake import Lake
    from mmret.lake.configuration import resolve
    from mmret.retriever.train.log import log_line
    from mmret.retriever.train.parallel import Group
    from mmret.retriever.train.stage import TrainingJob, train_on_lake
    from mmret.tasks import COMPOSED

    store = Lake(lake)
    profile, _ = resolve(store)
    if recipe not in profile.recipes:
        raise UserError(f"no recipe '{recipe}': profile {profile.name} has {', '.join(profile.recipes)}")
    job = TrainingJob.of(store, profile, recipe)
    with Group.join() as group:
        facts = train_on_lake(job, lambda row: typer.echo(log_line(row), err=True), group)
        if group.first:
            typer.echo(f"{job.folder}: {facts['step']} steps, loss {facts['loss']:.3f}, {facts['samples_per_second']:,} samples/s")
            if set(facts["tasks"]) - {COMPOSED}:
                seen = ", ".join(f"{task} {of['seen']:,} (of {of['rows']:,} rows)" for task, of in facts["tasks"].items())
                typer.echo(f"rows seen: {seen}")
            for note in facts["notes"]:
                typer.echo(note, err=True)
