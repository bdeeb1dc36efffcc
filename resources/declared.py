"""What the ``defs.yaml`` files of this code location declare (:mod:`assets.components`), as the asset ``corpus_manifest`` gets it.

Empty in `mmret run`: the command line works with what a lake remembers and reads no declaration.
"""

from typing import Any

import dagster as dg

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.configuration import source_name
from mmret.lake.declared import recipe_overrides, refuse_removal


class DeclaredSource(dg.Config):
    """A source and the lake that it is for; without a lake: whichever this code location serves."""

    name: str
    path: str
    lake: str | None = None


class DeclaredRecipe(dg.Config):
    """A recipe, its fields as :class:`mmret.settings.Recipe` has them, and whether it is trained without being asked for."""

    name: str
    settings: dict[str, Any] = {}
    train: bool = False
    lake: str | None = None


class Declarations(dg.ConfigurableResource):
    """Sources and recipes that are declared; each holds for the lake it names."""

    sources: list[DeclaredSource] = []
    recipes: list[DeclaredRecipe] = []

    def sources_of(self, lake: Lake) -> dict[str, str]:
        """Name to path, as the lake records it, of the sources that are declared for ``lake``."""
        return {each.name: source_name(each.path) for each in self.sources if is_for(lake, each.lake)}

    def recipes_of(self, lake: Lake) -> dict[str, DeclaredRecipe]:
        return {each.name: each for each in self.recipes if is_for(lake, each.lake)}

    def added_to(self, plan: dict[str, Any], lake: Lake) -> dict[str, Any]:
        """``plan``, arguments of :func:`mmret.lake.configuration.resolve`, with what is declared for ``lake``.

        Raises UserError where the plan removes a declared source.
        """
        sources, recipes = self.sources_of(lake), self.recipes_of(lake)
        refuse_removal(sources, plan["remove"])
        overrides = recipe_overrides(
            lake, {name: each.settings for name, each in recipes.items()}, [name for name, each in recipes.items() if each.train]
        )
        return plan | {"sources": [*plan["sources"], *sources.values()], "overrides": overrides | plan["overrides"]}

    def unknown_to(self, lake: Lake) -> list[str]:
        """What ``lake`` has not been told of yet, in words; empty also where its own settings do not load."""
        try:
            known = set(lake.read_configuration().get("sources", []))
            recipes = recipe_overrides(lake, {name: each.settings for name, each in self.recipes_of(lake).items()}, [])
        except UserError:
            return []
        sources = [f"source {name}" for name, path in self.sources_of(lake).items() if path not in known]
        return sources + [f"recipe {key.removeprefix('recipes.')}" for key in recipes if key.startswith("recipes.")]


def is_for(lake: Lake, folder: str | None) -> bool:
    """Whether a declaration that names the lake ``folder``, a path or an address, or none, holds for ``lake``."""
    if folder is None:
        return True
    named = Lake(folder)
    if named.storage.is_local and lake.storage.is_local:
        return named.root.resolve() == lake.root.resolve()
    return named.address == lake.address
