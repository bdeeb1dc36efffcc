"""``mmret train``: one recipe's checkpoint, by this process, by all that torchrun or accelerate started, or by a Ray cluster."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from mmret.cli.lake_option import LakeOption
from mmret.errors import UserError


def train(
    lake: LakeOption,
    recipe: Annotated[str, typer.Option(help="name of a recipe of the lake's profile")],
    on: Annotated[
        str | None,
        typer.Option(metavar="ray[:ADDRESS]", help="train on a Ray cluster: at RAY_ADDRESS, or ray:http://head:8265"),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes on that cluster; else the recipe's `workers`")] = None,
) -> None:
    """Train one recipe on the lake's triplets, without Dagster. Continues where a killed one stopped.

    Over several GPUs or machines: `--on ray --workers 16`, `torchrun --nproc-per-node 8 -m mmret train --lake L --recipe R`, or
    `accelerate launch -m mmret train ...`. `mmret run` then finds the checkpoint and records it.
    """
    from mmret.cli.terminal import say_loading
    from mmret.lake import Lake
    from mmret.lake.configuration import resolve

    store = Lake(lake)
    profile, _ = resolve(store)
    if recipe not in profile.recipes:
        raise UserError(f"no recipe '{recipe}': profile {profile.name} has {', '.join(profile.recipes)}")
    if workers is not None and on is None:
        raise UserError("--workers are those of a Ray cluster: add --on ray, or start torchrun with --nproc-per-node")
    if on is not None or profile.recipes[recipe].workers and "WORLD_SIZE" not in os.environ:
        return _train_on_ray(store, profile, recipe, on or "ray", workers)

    if os.environ.get("RANK", "0") == "0":
        say_loading()
    from mmret.retriever.train.log import log_line
    from mmret.retriever.train.parallel import Group
    from mmret.retriever.train.stage import TrainingJob, train_on_lake

    job = TrainingJob.of(store, profile, recipe)
    with Group.join() as group:
        facts = train_on_lake(job, lambda row: typer.echo(log_line(row), err=True), group)
        if group.first:
            _print_facts(job, facts)


def _train_on_ray(store: Any, profile: Any, recipe: str, on: str, workers: int | None) -> None:
    from mmret.ray_cluster import address_in, address_to_join, is_dashboard, require
    from mmret.retriever.train.on_ray import submit

    address = address_in(on)
    require("ray")
    workers = workers or profile.recipes[recipe].workers
    if workers is None:
        raise UserError(f"by how many processes? Add --workers N, or set recipes.{recipe}.workers")
    if is_dashboard(address := address_to_join(address)):
        command = ["train", "--lake", store.address, "--recipe", recipe, "--on", "ray", "--workers", str(workers)]
        return submit(command, address, lambda line: typer.echo(line, err=True))

    from mmret.lake.configuration import resolve
    from mmret.retriever.train.log import log_line
    from mmret.retriever.train.on_ray import train_on_ray
    from mmret.retriever.train.stage import TrainingJob

    chosen = {f"recipes.{recipe}.workers": workers, f"recipes.{recipe}.processes": 1}
    job = TrainingJob.of(store, resolve(store, overrides=chosen)[0], recipe)

    def say(line: str) -> None:
        typer.echo(line, err=True)

    _print_facts(job, train_on_ray(job, lambda row: say(log_line(row)), say, address))


def _print_facts(job: Any, facts: dict[str, Any]) -> None:
    from mmret.tasks import COMPOSED

    typer.echo(f"{job.place.shown}: {facts['step']} steps, loss {facts['loss']:.3f}, {facts['samples_per_second']:,} samples/s")
    if set(facts["tasks"]) - {COMPOSED}:
        seen = ", ".join(f"{task} {of['seen']:,} (of {of['rows']:,} rows)" for task, of in facts["tasks"].items())
        typer.echo(f"rows seen: {seen}")
    for note in facts["notes"]:
        typer.echo(note, err=True)
