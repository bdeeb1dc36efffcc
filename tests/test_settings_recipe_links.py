"""Invariants of recipes that build on each other: what could never be trained is refused when settings are read, in one sentence;
the others are put behind what they need, wherever somebody wrote them down."""

from __future__ import annotations

from typing import Any

import pytest

from mmret.errors import UserError
from mmret.settings import Profile, load_profile
from mmret.settings.recipe_links import asks_judge, measured_on, scores_name

JUDGE = {"kind": "reranker"}
STUDENT = {"teacher": "judge"}


def profile(train: tuple[str, ...] = (), **recipes: dict[str, Any]) -> Profile:
    return load_profile("demo", {"recipes": recipes, "train": train})


@pytest.mark.parametrize(
    ("recipes", "said"),
    [
        (
            {"student": STUDENT},
            r"no recipe is called judge, so the teacher is a vision-language model: name it in annotate\.vision",
        ),
        (
            {"student": {"teacher": "jduge"}, "judge": JUDGE},
            "no recipe called jduge; there are judge; or say judge, .* or scores/NAME",
        ),
        ({"student": {"teacher": "scores/"}}, "recipes.student.teacher: '' is no name of scores"),
        ({"student": {"teacher": "scores/a/b"}}, "'a/b' is no name of scores: take letters, digits, - and _"),
        ({"judge": {**JUDGE, "retriever": "nosuch"}, "a": {}}, "recipes.judge.retriever: no recipe called nosuch; .* are a"),
        ({"judge": {**JUDGE, "retriever": "other"}, "other": JUDGE}, "recipes.judge.retriever: recipe other is of kind reranker"),
        ({"judge": {**JUDGE, "retriever": "judge"}}, "recipes.judge.retriever is the recipe itself"),
        ({"student": {"teacher": "student"}}, "recipes.student.teacher is the recipe itself"),
        (
            {"student": STUDENT, "judge": {**JUDGE, "base": "checkpoints/between"}, "between": {"base": "checkpoints/student"}},
            "recipes.student.teacher: recipe judge itself needs the checkpoint of student",
        ),
        ({"student": STUDENT, "judge": {**JUDGE, "retriever": "student"}}, "recipe judge itself needs the checkpoint of student"),
    ],
)
def test_a_teacher_or_retriever_that_can_never_be_trained_is_refused_by_name(recipes, said):
    with pytest.raises(UserError, match=said):
        profile(**recipes)


def test_a_teacher_is_a_recipe_of_any_kind_the_judge_or_scores_that_were_brought():
    vlm = {"annotate.vision": {"model": "m"}}
    recipes = {"a": {"teacher": "b"}, "b": {}, "c": {"teacher": "judge"}, "d": {"teacher": "scores/my-own_1"}}
    made = load_profile("demo", {"recipes": recipes, "train": list(recipes), **vlm})
    assert made.in_training_order(made.train) == ["b", "a", "c", "d"]
    assert asks_judge(made.recipes, "judge") and not asks_judge({**made.recipes, "judge": made.recipes["b"]}, "judge")
    assert [scores_name(recipe.teacher) for recipe in made.recipes.values()] == [None, None, None, "my-own_1"]


def test_recipes_are_trained_behind_those_whose_checkpoints_they_need_and_else_in_the_order_given():
    made = profile(student=STUDENT, after={"base": "checkpoints/student"}, judge={**JUDGE, "retriever": "first"}, free={}, first={})
    assert made.in_training_order(made.recipes) == ["first", "judge", "student", "after", "free"]
    assert made.in_training_order(["after", "free", "judge"]) == ["judge", "after", "free"], "through recipes not asked for"
    demo = load_profile("demo")
    assert demo.in_training_order(demo.recipes) == list(demo.recipes)


def test_a_reranker_that_names_no_retriever_is_measured_on_none_that_learns_from_it():
    made = profile(("student", "judge", "free"), student=STUDENT, judge=JUDGE, free={})
    assert measured_on(made.recipes, made.train, "judge") == "free"
    assert made.in_training_order(made.train) == ["free", "judge", "student"]
    assert measured_on(made.recipes, ("student", "judge"), "judge") is None
