"""How the recipes of a profile build on each other: one's checkpoint is another's base, its teacher or the retriever it orders for.

A teacher may also be no recipe: the vision-language model of the lake's annotation, or scores that somebody brought. What cannot be
trained (an unknown teacher, a circle) is refused when the settings are read; the rest is put in the order that training needs,
whatever order somebody wrote it in. Costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from mmret.settings.training import Recipe

Recipes = Mapping[str, Recipe]

JUDGE = "judge"
"""The teacher that is the vision-language model of the lake's annotation, unless a recipe has that name."""
_CHECKPOINTS, _SCORES = "checkpoints/", "scores/"
_NAME = re.compile(r"\w[\w-]*", re.ASCII)


def asks_judge(recipes: Recipes, teacher: str | None) -> bool:
    """Whether ``teacher`` is the vision-language model, and no recipe of the same name."""
    return teacher == JUDGE and JUDGE not in recipes


def scores_name(teacher: str | None) -> str | None:
    """The name of the scores from outside that ``teacher`` is; None for another one.

    >>> scores_name("scores/my-cross-encoder")
    'my-cross-encoder'
    """
    return teacher.removeprefix(_SCORES) if teacher and teacher.startswith(_SCORES) else None


def scores_partition(name: str) -> str:
    """The partition of ``teacher_scores`` that holds the scores ``name``. No teacher that is a recipe has one of such a name."""
    return f"scores.{name}"


def usable_scores_name(name: str) -> bool:
    """Whether scores from outside may be called ``name``."""
    return _NAME.fullmatch(name) is not None


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


def check_links(recipes: Recipes, has_judge: bool = True) -> None:
    """Raises ValueError for a teacher that is none, a retriever that is no recipe, and for either where it is of the wrong kind or
    itself needs who names it. ``has_judge``: whether the settings name a vision-language model."""
    for name, recipe in recipes.items():
        if asks_judge(recipes, recipe.teacher):
            if not has_judge:
                raise ValueError(
                    f"recipes.{name}.teacher: no recipe is called judge, so the teacher is a vision-language model: name it in "
                    "annotate.vision.model, and its server in annotate.vision.urls"
                )
        elif (brought := scores_name(recipe.teacher)) is not None:
            if not usable_scores_name(brought):
                raise ValueError(f"recipes.{name}.teacher: '{brought}' is no name of scores: take letters, digits, - and _")
        elif recipe.teacher is not None:
            _check_link(recipes, name, "teacher", recipe.teacher)
        if recipe.retriever is not None:
            _check_link(recipes, name, "retriever", recipe.retriever)


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
    teacher = field == "teacher"
    fitting = [r for r, recipe in recipes.items() if (teacher or recipe.kind != "reranker") and r != name]
    kinds = "" if teacher else " of kind clip or mllm"
    choice = f"there are {', '.join(fitting)}{kinds}" if fitting else f"there is none{kinds or ' but this one'}"
    others = (
        f"; or say {JUDGE}, the model of annotate.vision, or {_SCORES}NAME, what `mmret teach --scores` brought" if teacher else ""
    )
    if other not in recipes:
        raise ValueError(f"{at}: no recipe called {other}; {choice}{others}")
    if other not in fitting:
        raise ValueError(f"{at}: recipe {other} is of kind {recipes[other].kind}; {choice}")
    if name in built_on(recipes, other):
        raise ValueError(f"{at}: recipe {other} itself needs the checkpoint of {name}, as base, teacher or retriever")
