"""Invariants: every variant is a recipe of the profile that differs in what the study varies and in nothing else; a run
that studies share has one name; mistakes are named."""

import pytest

from mmret.errors import UserError
from mmret.retriever.train.rows import also_reads
from mmret.settings import Recipe, load_profile
from mmret.settings.studies import designs, runs

PROFILE = load_profile("studies")
VARIED = {
    "negatives": {"negatives"},
    "signals": {"signals"},
    "scaling": {"pairs"},
    "headline": {"pairs", "pair_source", "negatives"},
}


@pytest.mark.parametrize("study", designs(PROFILE.studies), ids=lambda s: s.name)
def test_variants_of_a_study_differ_only_in_what_it_varies(study):
    names = {
        v.label: [n for s, w, _, n in runs(PROFILE.studies) if s.name == study.name and w.label == v.label] for v in study.variants
    }
    assert all(len(n) == PROFILE.studies.seeds for n in names.values())
    for seed in range(PROFILE.studies.seeds):
        recipes = [PROFILE.recipes[n[seed]].model_dump() for n in names.values()]
        assert {r["seed"] for r in recipes} == {seed}
        differ = {key for key in recipes[0] if any(r[key] != recipes[0][key] for r in recipes)}
        assert differ == VARIED[study.name]


def test_a_run_that_studies_share_is_trained_once():
    recipes = [n for _, _, _, n in runs(PROFILE.studies)]
    distinct = {PROFILE.recipes[n].model_dump_json() for n in recipes}
    assert len(set(recipes)) == len(distinct) < len(recipes)


def test_the_recipe_they_start_from_and_its_changes_are_settings():
    profile = load_profile(
        "studies",
        {
            "studies.change": {"steps": 7},
            "studies.volume": {},
            "studies.seeds": 2,
            "studies.times": 3,
            "studies.headline_pairs": 11,
        },
    )
    made = {n: r for n, r in profile.recipes.items() if n.startswith("study-")}
    assert {r.steps for r in made.values()} == {7} and {r.seed for r in made.values()} == {0, 1}
    assert {r.pairs for r in made.values() if r.pair_source == "naive"} == {33}
    assert profile.train == ()


def test_a_profile_without_studies_has_none():
    assert not [n for n in load_profile("demo").recipes if n.startswith("study-")]


def test_mistakes_are_named():
    with pytest.raises(UserError, match="no recipe called nobody"):
        load_profile("studies", {"studies.recipe": "nobody"})
    with pytest.raises(UserError, match="stepps"):
        load_profile("studies", {"studies.change": {"stepps": 7}})
    with pytest.raises(UserError, match="studies.seeds"):
        load_profile("studies", {"studies.seeds": 0})
    with pytest.raises(ValueError, match="naive pairs need a number"):
        Recipe(pair_source="naive")


def test_only_recipes_that_need_them_read_more_tables():
    read = {n: also_reads(r) for n, r in PROFILE.recipes.items()}
    assert set(read["study-signals-0-0"]) == {"neighbours"} and set(read["study-headline-0-0"]) == {"images"}
    assert not read["study"] and not read["study-negatives-0-0"]
