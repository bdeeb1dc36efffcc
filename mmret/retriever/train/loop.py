"""The training loop: any kind of MMRet from triplets, by one recipe.

A step has its embedder make the features of a batch, chunk by chunk, gathers queries and candidates from them and takes
InfoNCE. What a step does depends on (recipe, step, weights) alone and the state is kept every ``checkpoint_every``
steps, so a killed run continues to the same weights, bit for bit on the CPU. With several processes (:mod:`.parallel`)
each does its share of every step. Cost: the embedder's; see :mod:`.clip` and :mod:`.mllm`.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmret.errors import UserError
from mmret.hashing import digest_table, fingerprint
from mmret.retriever.models.checkpoint import RECORD, weights_digest
from mmret.retriever.models.kinds import adapter_base
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.distillation import TeacherScores
from mmret.retriever.train.kinds import EMBEDDERS, TRAINERS
from mmret.retriever.train.log import write_log
from mmret.retriever.train.neighbours import Neighbours
from mmret.retriever.train.parallel import SINGLE_PROCESS, Group
from mmret.retriever.train.state import Place, States
from mmret.retriever.train.tower import LoadImages
from mmret.retriever.train.trainer import OnRow, Trainer, check_dimensions
from mmret.settings import Recipe
from mmret.tasks import COMPOSED


def train(
    recipe: Recipe,
    triplets: pa.Table,
    load_images: LoadImages,
    base: Path | str,
    out: Path | Place,
    on_row: OnRow | None = None,
    group: Group = SINGLE_PROCESS,
    teacher: TeacherScores | None = None,
    neighbours: Neighbours | None = None,
) -> dict[str, Any]:
    """Train ``base`` on ``triplets`` (schema TRIPLETS, or what :func:`mmret.retriever.train.rows.training_rows` gives for a mixture
    of tasks) and put the checkpoint into folder ``out``, or a :class:`Place` of a storage; returns the facts of the run.

    ``load_images`` gives the files of image ids. Work in progress lies in ``<out>.work`` until ``out`` stands; for a
    checkpoint that is there already its facts are returned. ``on_row`` is called with each row of the log as it is written.
    ``teacher``: the scores that a recipe with a teacher learns from; ``neighbours``: of the query pictures, which a recipe of
    ``batch_neighbours`` needs. With several processes all of them call this, each with its :class:`Group`; the first one writes.
    Facts: ``step, loss`` (mean of the last tenth), ``pairs`` (queries seen, of all tasks), ``seconds, triplets, images,
    batch_size`` (the largest), ``tasks`` (of each, ``rows`` it has and ``seen``), ``samples_per_second, truncated_texts,
    recall_1, recall_5, recall_10`` (last held-out measurement, if any), ``averaged_steps`` (where the weights are a mean: of how
    many steps), ``notes`` (what a reader should know). Raises UserError where there is nothing to train on, an image is missing,
    the base is not of the recipe's kind, or the loss is not finite or explodes.
    """
    identity = run_identity(recipe, triplets, base, teacher, neighbours)
    place = Place.of(out)
    done = place.finished(identity) if group.first else None
    if (done := group.all_values(done)[0]) is not None:
        return done
    data = TrainingSet(triplets, recipe, neighbours)
    for task, size in zip(data.tasks, data.sizes, strict=True):
        if size < group.size:
            rows = "triplets" if task == COMPOSED else f"rows of {task}"
            raise UserError(
                f"{group.size} processes cannot share a batch of {size}: "
                f"there are {len(data.of[task])} {rows} to train on; lower the recipe's processes"
            )
    work = place.work
    if group.first:
        States(work, identity, place)  # throws away what another run left there, before anybody looks
    group.wait()
    if group.first_of_machine:
        States(work, identity, place)  # the same of this machine's own folder
    group.wait()
    if place.storage.is_local and not group.all_see(work):
        raise UserError(
            f"not all processes see {place.shown}.work: a lake that several machines train on lies on a disk that they share, "
            "or in an object store"
        )
    states = States(work, identity, place)
    embedder = EMBEDDERS[recipe.kind].load(recipe, base, group)
    check_dimensions(recipe, embedder)
    embedder.open(data, load_images, work)
    trainer = TRAINERS.get(recipe.kind, Trainer)(recipe, data, embedder, states, group)
    trainer.on_row, trainer.teacher = on_row, teacher
    if recipe.evaluate_every and (group.first or trainer.exchange.measured_by_all):
        trainer.held_out = trainer.held_out_of(triplets, recipe, load_images)
    with ThreadPoolExecutor(1) as pool:
        trainer.run(pool)
    facts = group.all_values(trainer.facts())[0]

    def fill(folder: Path) -> None:
        embedder.save(folder)
        write_log(trainer.log, folder)
        record = {"identity": identity, "recipe": recipe.model_dump(), "facts": facts}
        (folder / RECORD).write_text(json.dumps(record, indent=2, default=str) + "\n")

    with trainer.exchange.saving():
        if group.first:
            with place.publish() as aside:
                fill(aside)
    if group.first:
        states.clear()
    group.wait()
    return facts


def run_identity(
    recipe: Recipe, triplets: pa.Table, base: Path | str, teacher: TeacherScores | None, neighbours: Neighbours | None
) -> str:
    """A digest of all that decides a run's weights, by which its states and its checkpoint are known again; of a ``base`` that is
    an adapter, those of the model below it too."""
    taught = [teacher.model] if teacher is not None else []
    near = [{"neighbours": neighbours.digest()}] if neighbours is not None and recipe.batch_neighbours > 1 else []
    below = [{"below": weights_digest(under)}] if (under := adapter_base(base)) is not None else []
    return fingerprint(recipe.decisive(), digest_table(triplets), weights_digest(base), *taught, *near, *below)


def finished_run(out: Path | Place, identity: str | None = None) -> dict[str, Any] | None:
    """The facts of the checkpoint in ``out``, of the run ``identity`` where that is given; None where there is none."""
    return Place.of(out).finished(identity)
