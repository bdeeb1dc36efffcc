"""Records what a checkpoint was trained on, so that its exact rows can be listed again however the lake has changed since.

The state is a list of files that already exist (:mod:`mmret.lake.history`), so recording it costs one small read per partition.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from mmret.errors import UserError
from mmret.filters.verdicts import kept_with, without
from mmret.lake import Lake, history
from mmret.lake.as_of import open_as_of
from mmret.retriever.train.data import chosen_rows, fitting_rows, lowest, pair_keys
from mmret.retriever.train.rows import allowed_rows, allowed_task_rows, also_reads
from mmret.retriever.train.state import Place
from mmret.schemas import TASKS
from mmret.settings import LicenceSettings, Recipe
from mmret.tasks import COMPOSED, task_of


def record_data_state(lake: Lake, recipe: Recipe) -> str:
    """Record the state of the lake that ``recipe`` trains on, as it is now or as its ``as_of`` names it; returns the state's id."""
    said = ("verdicts",) if recipe.filters else ()
    tables = tuple(dict.fromkeys((*history.LINEAGE_TABLES, *also_reads(recipe), *said)))
    if recipe.as_of is None:
        return history.record_state(lake, history.current_state(lake, tables))
    then = history.as_of(lake, recipe.as_of)
    files = {t: then.files[t] for t in tables if t in then.files} | dict(history.current_state(lake, said).files if said else {})
    return history.record_state(lake, history.State(then.name, then.storage, files))


def write_data_state(lake: Lake, name: str, state: str) -> None:
    """Put the state's id, and the partitions of triplets and of other tasks' rows that it names, into the folder of checkpoint
    ``name``."""
    files = history.read_state(lake, state)
    record = {"state": state, **{table: files.get(table, {}) for table in ("triplets", "tasks")}}
    Place(lake.storage, f"checkpoints/{name}").add(history.STATE_FILE, json.dumps(record, indent=2) + "\n")


@dataclass(frozen=True)
class TrainedOn:
    """The triplets that a checkpoint was trained on: ``lake`` as it was then, and ``keys`` (n,) uint64, those of its pairs."""

    lake: Lake
    keys: np.ndarray
    dropped: Mapping[str, pa.Table] = field(default_factory=dict)
    """What filters left out of those rows, by filter."""

    def rows(self, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
        """``columns`` (with ``pair_id``; None: all) of those that pass ``filters`` (an expression of pyarrow; None: all), sorted by
        pair_id."""
        rows = self.lake.read("triplets", columns=columns, filters=filters).sort_by("pair_id")
        return without(rows.filter(pa.array(np.isin(pair_keys(rows), self.keys))), self.dropped)[0]


def trained_on(lake: Lake, name: str) -> TrainedOn:
    """What checkpoint ``name`` was trained on: the state and the licences that its record names, whatever the lake's settings are
    today. Cost: reading the triplets a shard at a time; then 8 bytes a triplet.

    Of a mixture of tasks these are the rows of ``composed``; :func:`checkpoint_task_rows` has the others.
    Raises UserError where it has no recorded state, was trained on pairs that are not the lake's triplets, or a file is gone.
    """
    then, recipe, licences = _training_of(lake, name)
    if COMPOSED not in recipe.tasks:
        return TrainedOn(then, np.empty(0, np.uint64))
    columns = ["pair_id", "split", "texts", "signals"]
    dropped = kept_with(then, recipe.filters) if recipe.filters else {}
    shards = (without(allowed_rows(then, recipe, licences, columns, shard), dropped)[0] for shard in then.partitions("triplets"))
    keys = np.concatenate([np.empty(0, np.uint64), *(pair_keys(fitting_rows(rows, recipe)) for rows in shards)])
    if recipe.pairs is not None and recipe.pairs < len(keys):
        keys = keys[lowest(keys, recipe)]
    return TrainedOn(then, np.sort(keys), dropped)


def _training_of(lake: Lake, name: str) -> tuple[Lake, Recipe, LicenceSettings]:
    """The lake as it was when checkpoint ``name`` was trained, its recipe and the licences that held."""
    facts = lake.facts("checkpoints", name)
    if facts is None or not facts.rows:
        raise UserError(f"no checkpoint of recipe '{name}' in {lake.address}")
    recipe = Recipe.model_validate_json(lake.read("checkpoints", name)["settings"][0].as_py())
    if recipe.pair_source != "mined":
        raise UserError(f"checkpoint {name} was trained on {recipe.pair_source} pairs, which are made anew, not kept")
    licences = LicenceSettings.model_validate(facts.notes.get("licences", {}))
    return open_as_of(lake, facts.notes.get("state", name)), recipe, licences


def checkpoint_rows(lake: Lake, name: str) -> pa.Table:
    """The exact rows that checkpoint ``name`` was trained on, columns of TRIPLETS, sorted by pair_id.

    Example: ``checkpoint_rows(Lake("lakes/demo"), "demo")``. Raises UserError as :func:`trained_on`.
    """
    return trained_on(lake, name).rows()


def checkpoint_task_rows(lake: Lake, name: str) -> pa.Table:
    """The exact rows of tasks other than ``composed`` that checkpoint ``name`` was trained on, columns of TASKS, sorted by task_id;
    none where its recipe has no such task. Raises UserError as :func:`trained_on`."""
    then, recipe, licences = _training_of(lake, name)
    others = [task for task in recipe.tasks if task != COMPOSED]
    if not others:
        return TASKS.empty_table()
    parts = [TASKS.empty_table()]
    for task in others:
        rows = allowed_task_rows(then, recipe, licences, TASKS.names, task)
        if recipe.filters:
            rows = without(rows, kept_with(then, recipe.filters))[0]
        if fitting_rows(rows, recipe, task_of(task)).num_rows:
            parts.append(chosen_rows(rows, recipe, task)[0])
    return pa.concat_tables(parts).sort_by("task_id")
