"""Training as it runs on a lake: a recipe, the lake's triplets and pictures in, a checkpoint folder and its record out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmret.ingest.images import images_by_id
from mmret.lake import Facts, Lake, history
from mmret.lake.as_of import opened
from mmret.lake.configuration import resolve
from mmret.retriever.train.data_state import data_state, write_data_state
from mmret.retriever.train.loop import train
from mmret.retriever.train.parallel import ALONE, Group
from mmret.retriever.train.rows import training_rows
from mmret.retriever.train.trainer import OnRow
from mmret.schemas import CHECKPOINTS
from mmret.settings import Recipe

UNTRAINED = "untrained"


TrainOn = Callable[[Lake, str, Recipe], dict[str, Any]]
"""(lake, recipe's name, recipe) -> facts of the run, with the checkpoint's folder in place: here, or in another process."""


def base_folder(lake: Lake, base: str) -> Path | str:
    """Where the weights a recipe starts from lie: inside the lake for ``towers/<name>`` and ``checkpoints/<recipe>``,
    else as given."""
    return lake.root / base if base.startswith(("towers/", "checkpoints/")) else base


def checkpoint_folder(lake: Lake, name: str) -> Path:
    """Where the checkpoint of a recipe lies."""
    return lake.root / "checkpoints" / name


def train_on_lake(lake: Lake, name: str, recipe: Recipe, on_row: OnRow | None = None, group: Group = ALONE) -> dict[str, Any]:
    """Train ``recipe`` on the lake's triplets into its checkpoint folder; see :func:`mmret.retriever.train.loop.train`."""
    rows = training_rows(opened(lake, recipe.as_of), recipe)
    return train(
        recipe,
        rows,
        lambda ids: images_by_id(lake, ids),
        base_folder(lake, recipe.base),
        checkpoint_folder(lake, name),
        on_row,
        group,
    )


def train_recipe(lake: Lake, name: str, recipe: Recipe, inputs: str, train_on: TrainOn = train_on_lake) -> Facts:
    """Train ``recipe`` into ``<lake>/checkpoints/<name>`` and record it; a lake without training triplets records none.

    The state of the lake that it trains on is recorded with it, so its exact rows can be listed again (`--as-of`).
    """
    state = data_state(lake, recipe)
    recipe = recipe.model_copy(update={"as_of": state})  # the same rows in every process, whatever is written meanwhile
    then = opened(lake, state)
    if not any(f.notes.get("train") for p in then.partitions("triplets") if (f := then.facts("triplets", p))):
        return lake.write("checkpoints", name, CHECKPOINTS.empty_table(), inputs, reason="no training triplets")
    with history.hold(lake, state):
        made = train_on(lake, name, recipe)
    folder = checkpoint_folder(lake, name).relative_to(lake.root)
    write_data_state(lake, lake.root / folder, state)
    row = {
        "recipe": name,
        "folder": str(folder),
        "settings": recipe.model_dump_json(),
        **{k: made[k] for k in ("step", "loss", "pairs", "seconds")},
    }
    return lake.write(
        "checkpoints",
        name,
        pa.Table.from_pylist([row], CHECKPOINTS),
        inputs,
        state=state,
        licences=resolve(lake)[0].licences.model_dump(),
        **{k: v for k, v in made.items() if k not in ("pairs", "step")},
    )
