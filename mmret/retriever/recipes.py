"""Training as it runs on a lake: a recipe, the lake's triplets and pictures in, a checkpoint folder and its record out."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from mmret.ingest.images import images_by_id
from mmret.lake import Facts, Lake
from mmret.retriever.pairs import training_rows
from mmret.retriever.train import train
from mmret.schemas import CHECKPOINTS
from mmret.settings import Recipe

UNTRAINED = "untrained"


def base_folder(lake: Lake, base: str) -> Path | str:
    """Where the weights a recipe starts from lie: inside the lake for ``towers/<name>``, else as given."""
    return lake.root / base if base.startswith("towers/") else base


def train_recipe(lake: Lake, name: str, recipe: Recipe, inputs: str) -> Facts:
    """Train ``recipe`` into ``<lake>/checkpoints/<name>`` and record it; a lake without training triplets records none."""
    if not any(f.notes.get("train") for p in lake.partitions("triplets") if (f := lake.facts("triplets", p))):
        return lake.write("checkpoints", name, CHECKPOINTS.empty_table(), inputs, reason="no training triplets")
    folder = Path("checkpoints") / name
    made = train(recipe, training_rows(lake, recipe), lambda ids: images_by_id(lake, ids), base_folder(lake, recipe.base),
                 lake.root / folder)
    row = {"recipe": name, "folder": str(folder), "settings": recipe.model_dump_json(),
           **{k: made[k] for k in ("step", "loss", "pairs", "seconds")}}
    return lake.write("checkpoints", name, pa.Table.from_pylist([row], CHECKPOINTS), inputs,
                      **{k: v for k, v in made.items() if k not in ("pairs", "step")})
