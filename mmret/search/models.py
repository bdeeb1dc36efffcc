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


RERANKER = "reranker"
"""The kind of recipes whose checkpoints order what a retriever found and embed nothing."""


def trained_recipes(lake: Lake, profile: Profile) -> list[str]:
    """Retrievers of the lake that have a checkpoint, those that `mmret run` trains (``profile.train``) first."""
    return _trained(lake, profile, rerankers=False)


def trained_rerankers(lake: Lake, profile: Profile) -> list[str]:
    """Rerankers of the lake that have a checkpoint, those that `mmret run` trains first."""
    return _trained(lake, profile, rerankers=True)


def _trained(lake: Lake, profile: Profile, rerankers: bool) -> list[str]:
    facts = {name: lake.facts("checkpoints", name) for name in lake.partitions("checkpoints")}
    have = [name for name, f in facts.items() if f.rows and (f.notes.get("kind") == RERANKER) == rerankers]
    first = profile.train
    return sorted(have, key=lambda name: (first.index(name) if name in first else len(first), name))


def pick_recipe(lake: Lake, profile: Profile, recipe: str | None = None) -> str:
    """``recipe``, or the first trained recipe of the lake where it is None. Raises UserError for one without a checkpoint."""
    have = trained_recipes(lake, profile)
    if recipe is None:
        return have[0] if have else UNTRAINED
    if recipe in trained_rerankers(lake, profile):
        raise UserError(
            f"recipe '{recipe}' is a reranker, which orders what a retriever found: search with {(have or [UNTRAINED])[0]} and "
            f"--rerank {recipe}"
        )
    if recipe != UNTRAINED and recipe not in have:
        raise UserError(f"no checkpoint of recipe '{recipe}' in {lake.address}; there are {', '.join([*have, UNTRAINED])}")
    return recipe


def pick_reranker(lake: Lake, profile: Profile, recipe: str) -> str:
    """``recipe`` itself. Raises UserError where it is no reranker with a checkpoint."""
    have = trained_rerankers(lake, profile)
    if recipe in have:
        return recipe
    if recipe in (*trained_recipes(lake, profile), UNTRAINED):
        raise UserError(f"recipe '{recipe}' is no reranker but a retriever: name it with --recipe")
    raise UserError(
        f"no checkpoint of reranker '{recipe}' in {lake.address}; there are {', '.join(have) or 'none'}: name a recipe of kind "
        f"'reranker' in `train`, as in `mmret run --lake {lake.address} --set 'train=[demo, reranker]'`"
    )


def first_retriever(profile: Profile) -> str:
    """The recipe whose base stands for the model before training: the first retriever that `mmret run` trains, else the first
    there is. Raises UserError where a profile has none."""
    for name in (*profile.train, *profile.recipes):
        if profile.recipes[name].kind != RERANKER:
            return name
    raise UserError("the profile has no recipe of a retriever, which every search begins with: add one of kind clip or mllm")


def _checkpoint_folder(lake: Lake, recipe: str) -> Path:
    """The folder on this machine of the weights of ``recipe``; of a lake in an object store another one with every content. Raises
    UserError where it is gone."""
    place = lake.read("checkpoints", recipe)["folder"][0].as_py()
    try:
        return lake.storage.local_folder(place)
    except FileNotFoundError:
        if lake.storage.is_local:
            return lake.root / place
        raise UserError(
            f"the checkpoint of recipe '{recipe}' is not at {lake.storage.shown(place)} any more: train it again, "
            f"`mmret train --lake {lake.address} --recipe {recipe}`"
        ) from None


def model_folder(lake: Lake, profile: Profile, recipe: str) -> Path | str:
    """Folder (or hub name) of the weights of ``recipe``, a name that :func:`pick_recipe` returned.

    ``untrained`` is the model that the lake's first recipe starts from. Raises UserError where it is not there yet.
    """
    if recipe != UNTRAINED:
        return _checkpoint_folder(lake, recipe)
    from mmret.retriever.train.stage import base_folder  # imports the models, which takes seconds

    folder = base_folder(lake, profile.recipes[first_retriever(profile)].base)
    if isinstance(folder, Path) and not folder.is_dir():
        raise UserError(f"{lake.address} has no towers yet: run `mmret run --lake {lake.address}` first")
    return folder
