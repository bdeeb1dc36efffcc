"""How the recipes of a profile build on each other: one's checkpoint is another's base, its teacher or the retriever it orders for.

What cannot be trained (an unknown teacher, a circle) is refused when the settings are read; the rest is put in the order that
training needs, whatever order somebody wrote it in. Costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mmret.settings.training import Recipe

Recipes = Mapping[str, Recipe]

_CHECKPOINTS = "checkpoints/"


def base_recipe(recipe: Recipe) -> str | None:
    """The recipe whose checkpoint ``recipe`` starts from; None where it starts from other weights."""
    return recipe.base.removeprefix(_CHECKPOINTS) if recipe.base.startswith(_CHECKPOINTS) else None


def built_on(recipes: Recipes, name: str) -> set[str]:
    """All recipes whose checkpoints recipe ``name`` needs, those that these need included.

    >>> built_on(load_profile("demo").recipes, "reranker")
    {'demo'}
    """
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = [other for other in _named_by(recipes, waiting.pop()) if other not in found]
        found.update(new)
        waiting += new
    return found


def check_links(recipes: Recipes) -> None:
    """Raises ValueError for a teacher or a retriever that is no recipe, is of the wrong kind, or itself needs who names it."""
    for name, recipe in recipes.items():
        for field, other in (("teacher", recipe.teacher), ("retriever", recipe.retriever)):
            if other is not None:
                _check_link(recipes, name, field, other)


def measured_on(recipes: Recipes, train: Iterable[str], name: str) -> str | None:
    """The retriever that reranker ``name`` is measured on, as far as the settings say: the one it names, else the first of
    ``train`` that does not learn from it; None: whichever the lake has."""
    retrievers = (r for r in train if recipes[r].kind != "reranker" and name not in built_on(recipes, r))
    return recipes[name].retriever or next(retrievers, None)


def in_training_order(recipes: Recipes, train: Iterable[str], names: Iterable[str]) -> list[str]:
    """``names``, each behind those of them whose checkpoints it is trained from or measured with, else in the order given."""
    placed: dict[str, None] = {}
    begun: set[str] = set()

    def place(name: str) -> None:
        if name in begun:
            return
        begun.add(name)
        retriever = measured_on(recipes, train, name) if recipes[name].kind == "reranker" else None
        for other in (*_named_by(recipes, name), *([retriever] if retriever in recipes else [])):
            place(other)
        placed[name] = None

    wanted = list(names)
    for name in wanted:
        place(name)
    return [name for name in placed if name in set(wanted)]


def _named_by(recipes: Recipes, name: str) -> list[str]:
    recipe = recipes[name]
    return [other for other in (base_recipe(recipe), recipe.teacher, recipe.retriever) if other in recipes]


def _check_link(recipes: Recipes, name: str, field: str, other: str) -> None:
    at = f"recipes.{name}.{field}"
    if other == name:
        raise ValueError(f"{at} is the recipe itself: name another one")
    rerankers = field == "teacher"
    fitting = [r for r, recipe in recipes.items() if (recipe.kind == "reranker") == rerankers and r != name]
    kinds = "reranker" if rerankers else "clip or mllm"
    choice = f"of kind {kinds} there are {', '.join(fitting)}" if fitting else f"there is none of kind {kinds}"
    if other not in recipes:
        raise ValueError(f"{at}: no recipe called {other}; {choice}")
    if other not in fitting:
        raise ValueError(f"{at}: recipe {other} is of kind {recipes[other].kind}; {choice}")
    if name in built_on(recipes, other):
        raise ValueError(f"{at}: recipe {other} itself needs the checkpoint of {name}, as base, teacher or retriever")
