"""Training as it runs on a lake: a recipe, the lake's triplets and pictures in, a checkpoint folder and its record out.

The lake's settings are not read here: a :class:`TrainingJob` carries those of the run, overrides included. Cost: the training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmret.errors import UserError
from mmret.filters.check import check, filtered
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Facts, Lake, history
from mmret.lake.as_of import open_as_of
from mmret.paths import local_path
from mmret.retriever.train.data_state import record_data_state, write_data_state
from mmret.retriever.train.first_hits import with_first_hits
from mmret.retriever.train.loop import train
from mmret.retriever.train.neighbours import Neighbours
from mmret.retriever.train.parallel import SINGLE_PROCESS, Group
from mmret.retriever.train.rows import neighbours_of, training_rows
from mmret.retriever.train.state import Place
from mmret.retriever.train.taught_rows import taught_rows
from mmret.retriever.train.trainer import OnRow
from mmret.schemas import CHECKPOINTS
from mmret.settings import AnnotateSettings, EvaluateSettings, LicenceSettings, Profile, Recipe
from mmret.settings.recipe_links import asks_judge
from mmret.tasks import COMPOSED

_SETTINGS = ("recipe", "licences", "evaluate", "annotate")


@dataclass(frozen=True)
class TrainingJob:
    """One recipe to train on one lake, with all the settings that decide on its rows: where it is trained, nothing else is read.

    Example: ``TrainingJob.of(Lake("lakes/demo"), load_profile("demo"), "demo")``.
    """

    lake: Lake
    name: str
    recipe: Recipe
    licences: LicenceSettings
    evaluate: EvaluateSettings
    annotate: AnnotateSettings = AnnotateSettings()
    """Names the vision-language model of whatever asks one."""
    asks_judge: bool = False
    """Whether the recipe's teacher is that model, and no recipe."""

    @classmethod
    def of(cls, lake: Lake, profile: Profile, name: str) -> TrainingJob:
        """The job of recipe ``name`` of ``profile``."""
        recipe = profile.recipes[name]
        asked = asks_judge(profile.recipes, recipe.teacher)
        return cls(lake, name, recipe, profile.licences, profile.evaluate, profile.annotate, asked)

    @property
    def place(self) -> Place:
        """Where its checkpoint lies."""
        return Place(self.lake.storage, f"checkpoints/{self.name}")

    @property
    def folder(self) -> Path:
        """Its checkpoint on this machine; see :attr:`Place.folder`."""
        return self.place.folder

    def rows(self) -> pa.Table:
        """What it trains on, of the lake as it was where the recipe says so; see :func:`training_rows`."""
        return training_rows(open_as_of(self.lake, self.recipe.as_of), self.recipe, self.licences, self.evaluate)

    def neighbours(self, rows: pa.Table) -> Neighbours | None:
        """Which query pictures of ``rows`` are neighbours, of that same lake; see :func:`neighbours_of`."""
        return neighbours_of(open_as_of(self.lake, self.recipe.as_of), self.recipe, rows)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, from which :meth:`from_json` makes the same job in another process."""
        settings = {part: getattr(self, part).model_dump(mode="json") for part in _SETTINGS}
        return {"lake": self.lake.address, "name": self.name, "asks_judge": self.asks_judge, **settings}

    @classmethod
    def from_json(cls, job: Mapping[str, Any]) -> TrainingJob:
        """The job that :meth:`to_json` wrote; further keys are ignored."""
        return cls(
            Lake(job["lake"]),
            job["name"],
            Recipe.model_validate(job["recipe"]),
            LicenceSettings.model_validate(job["licences"]),
            EvaluateSettings.model_validate(job["evaluate"]),
            AnnotateSettings.model_validate(job["annotate"]),
            job["asks_judge"],
        )


TrainOn = Callable[[TrainingJob], dict[str, Any]]
"""job -> facts of the run, with the checkpoint's folder in place: trained here, or in another process."""


def base_folder(lake: Lake, base: str) -> Path | str:
    """Where the weights a recipe starts from lie on this machine: inside the lake for ``towers/<name>`` and
    ``checkpoints/<recipe>``, else as given. Raises UserError for an address."""
    if base.startswith(("towers/", "checkpoints/")):
        return Place(lake.storage, base).folder
    return str(local_path(base, "recipes.*.base"))


def checkpoint_folder(lake: Lake, name: str) -> Path:
    """The checkpoint of a recipe on this machine; see :attr:`Place.folder`."""
    return Place(lake.storage, f"checkpoints/{name}").folder


def trained_folder(lake: Lake, name: str) -> Path:
    """Where the checkpoint of a recipe lies that another one learns from. Raises UserError where there is none."""
    folder = checkpoint_folder(lake, name)
    if not folder.is_dir():
        raise UserError(
            f"recipe '{name}' has no checkpoint in {lake.address}: train it first, "
            f"`mmret train --lake {lake.address} --recipe {name}`"
        )
    return folder


def train_on_lake(job: TrainingJob, on_row: OnRow | None = None, group: Group = SINGLE_PROCESS) -> dict[str, Any]:
    """Train the job's recipe on the lake's triplets into its checkpoint folder; see :func:`mmret.retriever.train.loop.train`.

    Filters look at the rows first, then a teacher scores them, as far as they have not yet, and a retriever finds a reranker's
    negatives: the first process has them do so, the others wait.
    """
    rows, dropped = job.rows(), []
    if job.recipe.filters:
        then = open_as_of(job.lake, job.recipe.as_of)
        rows, dropped = group.all_values(filtered(job.lake, job.recipe, rows, then, job.annotate) if group.first else None)[0]
    neighbours = job.neighbours(rows)

    def load_images(ids: Sequence[str]) -> dict[str, bytes]:
        return images_by_id(job.lake, ids)

    if (retriever := job.recipe.first_hits_of()) is not None:
        folder, count = trained_folder(job.lake, retriever), job.recipe.reranker.first_hits
        rows = group.all_values(with_first_hits(rows, folder, count, load_images) if group.first else None)[0]
    judge = job.annotate if job.asks_judge else None
    rows, teacher, notes = taught_rows(job.lake, job.recipe, rows, load_images, group, judge)
    facts = train(
        job.recipe, rows, load_images, base_folder(job.lake, job.recipe.base), job.place, on_row, group, teacher, neighbours
    )
    return {**facts, "notes": [*facts["notes"], *dropped, *notes]} if dropped or notes else facts


def nothing_to_train_on(lake: Lake, recipe: Recipe) -> str | None:
    """Why ``lake`` trains nothing by ``recipe``: it has no row of split ``train`` of any of its tasks; None where it has some."""
    if COMPOSED in recipe.tasks and any(
        f.notes.get("train") for p in lake.partitions("triplets") if (f := lake.facts("triplets", p))
    ):
        return None
    others = [name for name in recipe.tasks if name != COMPOSED]
    for partition in lake.partitions("tasks") if others else []:
        train = (pc.field("split") == "train") & pc.field("task").isin(others)
        if lake.read("tasks", partition, ["task", "split"], train).num_rows:
            return None
    return f"no training rows of {', '.join(recipe.tasks)}" if others else "no training triplets"


def train_recipe(job: TrainingJob, inputs: str, train_on: TrainOn = train_on_lake) -> Facts:
    """Train the job's recipe into ``<lake>/checkpoints/<name>`` and record it; a lake without training triplets records none.

    The state of the lake that it trains on is recorded with it, and the licences, so its exact rows can be listed again
    (`--as-of`). ``inputs``: fingerprint of all it is computed from.
    """
    lake, name = job.lake, job.name
    if job.recipe.filters:  # before the state is recorded, which has the verdicts
        check(lake, job.recipe.filters, open_as_of(lake, job.recipe.as_of), job.annotate)
    state = record_data_state(lake, job.recipe)
    # the same rows in every process, whatever is written meanwhile
    job = replace(job, recipe=job.recipe.model_copy(update={"as_of": state}))
    then = open_as_of(lake, state)
    if reason := nothing_to_train_on(then, job.recipe):
        return lake.write("checkpoints", name, CHECKPOINTS.empty_table(), inputs, reason=reason)
    with history.protect_state(lake, state):
        run = train_on(job)
    write_data_state(lake, name, state)
    row = {
        "recipe": name,
        "folder": job.place.key,
        "settings": job.recipe.model_dump_json(),
        **{k: run[k] for k in ("step", "loss", "pairs", "seconds")},
    }
    return lake.write(
        "checkpoints",
        name,
        pa.Table.from_pylist([row], CHECKPOINTS),
        inputs,
        state=state,
        licences=job.licences.model_dump(),
        **{k: v for k, v in run.items() if k not in ("pairs", "step")},
    )
