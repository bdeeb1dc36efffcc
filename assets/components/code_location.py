"""The code location: the graph of the stages with what the ``defs.yaml`` files of a project declare."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import dagster as dg

from assets.components.recipe import Recipe
from assets.components.source import Source, key_of
from mmret.errors import UserError
from resources.declared import Declarations


def with_declared(graph: dg.Definitions, tree: dg.ComponentTree) -> dg.Definitions:
    """``graph``, whose ``corpus_manifest`` is given what the files of ``tree`` declare, with all else that these define.

    Raises UserError where two files declare a source or a recipe of one name, or a source that is no path of this machine.
    """
    sources = [each.declared(tree.project_root) for each in tree.get_all_components(Source)]
    recipes = [each.declared(tree.project_root) for each in tree.get_all_components(Recipe)]
    _refuse_twice("source", (each.name for each in sources))
    _refuse_twice("recipe", (each.name for each in recipes))
    resources: dict[str, Any] = {**(graph.resources or {}), "declared": Declarations(sources=sources, recipes=recipes)}
    keys = [key_of(each.name) for each in sources]
    whole = dg.Definitions(
        assets=[_fed_by(keys, each) for each in graph.assets or ()],
        asset_checks=graph.asset_checks,
        jobs=graph.jobs,
        schedules=graph.schedules,
        sensors=graph.sensors,
        resources=resources,
        executor=graph.executor,
        loggers=graph.loggers,
        metadata=graph.metadata,
    )
    return dg.Definitions.merge(whole, tree.build_defs())


def _fed_by(sources: list[dg.AssetKey], assets: Any) -> Any:
    """``assets``, those that list the sources with these as what they are made from."""
    if not sources or not isinstance(assets, dg.AssetsDefinition) or dg.AssetKey("corpus_manifest") not in assets.keys:
        return assets
    return assets.map_asset_specs(lambda spec: spec.merge_attributes(deps=sources))


def _refuse_twice(kind: str, names: Iterable[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{kind} {twice[0]} is declared in two files: give one of them another name")
