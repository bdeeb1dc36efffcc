"""What is declared beside a lake (``defs.yaml`` files in Dagster) as settings that the lake remembers when its corpus is sealed.

A lake keeps its own settings, so that `mmret run`, the survey and every backfill see the same; a declaration is handed in once and
is the lake's from then on. Costs reading ``lake.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmret.errors import UserError
from mmret.lake.configuration import DEFAULT_PROFILE, source_name
from mmret.lake.store import Lake
from mmret.settings import Recipe, load_profile


def recipe_overrides(lake: Lake, recipes: Mapping[str, Mapping[str, Any]], train: Sequence[str]) -> dict[str, Any]:
    """Overrides that give ``lake`` these recipes, and those of them that are in ``train`` into its setting ``train``.

    A recipe that the lake has with the same settings is left out, so declaring again changes nothing. Other recipes stay.

    >>> recipe_overrides(lake, {"night": {"steps": 500}}, train=["night"])
    {'recipes.night': {'steps': 500}, 'train': ['demo', 'night']}

    Raises UserError where the lake's own settings do not load.
    """
    known = lake.read_configuration()
    profile = load_profile(known.get("profile") or DEFAULT_PROFILE, known.get("overrides"))
    changed: dict[str, Any] = {
        f"recipes.{name}": dict(fields)
        for name, fields in recipes.items()
        if profile.recipes.get(name) != Recipe.model_validate(fields)
    }
    trained = [name for name in profile.train if name not in recipes or name in train]
    trained += [name for name in train if name not in trained]
    return changed | ({"train": trained} if trained != list(profile.train) else {})


def refuse_removal(declared: Mapping[str, str], remove: Sequence[str]) -> None:
    """Raise UserError where a source to ``remove`` is one of ``declared`` (name to path as the lake records it): it would come back
    with the next sealing."""
    paths = {path: name for name, path in declared.items()}
    for source in remove:
        if (name := paths.get(source_name(source))) is not None:
            raise UserError(f"{source} is declared as source '{name}': delete its defs.yaml first, then remove it")
