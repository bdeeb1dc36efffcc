"""Chooses the model that answers a search: the checkpoint of a recipe or, for comparison, the model before training.

Reads the records of ``checkpoints``; loads no model.
"""

from __future__ import annotations

from pathlib import Path

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.settings import Profile

UNTRAINED = "untrained"
"""Name of the model before training, beside the names of recipes."""


def trained_recipes(lake: Lake, profile: Profile) -> list[str]:
    """Recipes of the lake that have a checkpoint, those that `mmret run` trains (``profile.train``) first."""
    have = [name for name in lake.partitions("checkpoints") if lake.facts("checkpoints", name).rows]
    first = profile.train
    return sorted(have, key=lambda name: (first.index(name) if name in first else len(first), name))


def pick_recipe(lake: Lake, profile: Profile, recipe: str | None = None) -> str:
    """``recipe``, or the first trained recipe of the lake where it is None. Raises UserError for one without a checkpoint."""
    have = trained_recipes(lake, profile)
    if recipe is None:
        return have[0] if have else UNTRAINED
    if recipe != UNTRAINED and recipe not in have:
        raise UserError(f"no checkpoint of recipe '{recipe}' in {lake.root}; there are {', '.join([*have, UNTRAINED])}")
    return recipe


def model_folder(lake: Lake, profile: Profile, recipe: str) -> Path | str:
    """Folder (or hub name) of the weights of ``recipe``, a name that :func:`pick_recipe` returned.

    ``untrained`` is the model that the lake's first recipe starts from. Raises UserError where it is not there yet.
    """
    if recipe != UNTRAINED:
        return lake.root / lake.read("checkpoints", recipe)["folder"][0].as_py()
    from mmret.retriever.train.stage import base_folder  # imports the models, which takes seconds

    first = next(iter(profile.train or profile.recipes))
    folder = base_folder(lake, profile.recipes[first].base)
    if isinstance(folder, Path) and not folder.is_dir():
        raise UserError(f"{lake.root} has no towers yet: run `mmret run --lake {lake.root}` first")
    return folder
