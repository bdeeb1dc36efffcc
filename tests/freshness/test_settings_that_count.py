"""Which setting makes which stage's partitions stale, and which changes no result and so none: followed by changing each alone."""

from __future__ import annotations

from typing import Any

import pytest

from mmret.annotate.backends import captions
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.lake.inputs import Inputs
from mmret.settings import RECIPE_RUNTIME_FIELDS, Profile, RerankerSettings, load_profile
from mmret.settings.ingredients import Ingredients
from mmret.stages import FINGERPRINTED_STAGES, STAGES
from tests.retriever.test_recipe_fingerprint import OTHER

MINED = {"candidates", "pairs"}
NAIVE = {"recipes.demo.pair_source": "naive", "recipes.demo.pairs": 50, "recipes.demo.negatives": "query"}

CHANGES: list[tuple[dict[str, Any], set[str]]] = [
    ({"corpus.images": 5, "corpus.shard_size": 7, "automation.new_pairs": 3, "history.days": 1}, set()),
    ({"quality.max_leakage": 0.2}, set()),
    ({"ingest.max_bytes": 1000}, {"images"}),
    ({"ingest.max_pixels": 1000}, {"images"}),
    ({"towers.epochs": 9}, {"towers"}),
    ({"encoders.clip_image.batch_size": 3, "encoders.caption.device": "cpu"}, set()),
    ({"encoders.clip_image.model": "another"}, {"clip_image"}),
    ({"encoders.dino_image.model": "another"}, {"dino_image"}),
    ({"encoders.caption.model": "another"}, {"caption"}),
    ({"mine.k": 7}, MINED | {"neighbours"}),
    ({"mine.bands.caption": {"low": 0.7, "high": 0.9}}, MINED),
    ({"mine.signals": ("clip_image", "caption")}, MINED),
    ({"mine.targets_per_query": 2}, {"pairs"}),
    ({"mine.hard_negatives": 2}, {"pairs"}),
    ({"mine.seed": 2}, {"pairs"}),
    ({"mine.draw": "together"}, {"pairs"}),
    ({"mine.tile": 128, "mine.device": "cpu"}, set()),
    ({"mine.index.probes": 7, "mine.index.checked": 9}, set()),  # exact search uses none of them
    ({"mine.index.kind": "ivf_pq"}, {"candidates"}),
    ({"leaks.benchmarks": {"circo": "/pictures"}}, {"leaks"}),
    ({"annotate.seed": 8}, {"descriptions", "instructions"}),
    ({"evaluate.held_out": 0.2}, {"triplets", "tasks", "evaluations"}),
    ({"evaluate.edits": 7}, {"evaluations"}),
    ({"evaluate.texts": 7}, {"evaluations"}),
    ({"evaluate.robustness": 7}, {"evaluations"}),
    ({"evaluate.max_spread": 0.7, "evaluate.max_negatives_first": 0.7}, set()),
    ({"licences.unknown": "apart"}, {"checkpoints"}),
    ({"licences.exclude": ("CC-BY-NC*",)}, {"checkpoints"}),
    ({"recipes.demo.steps": 7}, {"checkpoints"}),
    ({"recipes.demo.learning_rate": 0.5}, {"checkpoints"}),
    ({"recipes.demo.temperature": 0.5}, {"checkpoints"}),
    ({"recipes.demo.matrix_learning_rate": 0.5}, {"checkpoints"}),
    ({"recipes.demo.matryoshka": [8, 16]}, {"checkpoints"}),
    ({"recipes.demo.licence_set": "share_alike"}, {"checkpoints"}),
    ({"recipes.demo.as_of": "run-1"}, {"checkpoints"}),
    ({"recipes.demo.checkpoint_every": 3, "recipes.demo.log_every": 3, "recipes.demo.evaluate_every": 3}, set()),
    ({"recipes.demo.held_out_queries": 3, "recipes.demo.processes": 2, "recipes.demo.outside": True}, set()),
]


def counted(profile: Profile) -> dict[str, Any]:
    partition = {"shard": "shard-00000", "whole": "all", "recipe": "demo"}
    values = {}
    for name, stage in FINGERPRINTED_STAGES.items():
        found = stage.fingerprint_settings(profile, partition[stage.partitions])
        values[name] = Inputs(name, stage.version, found, ()).fingerprint
    return values


@pytest.mark.parametrize(("change", "stale"), CHANGES, ids=lambda value: " ".join(value) if isinstance(value, dict) else "")
def test_a_changed_setting_makes_stale_what_it_decides_and_nothing_else(change, stale):
    before, after = counted(load_profile("demo")), counted(load_profile("demo", change))
    assert {name for name in before if before[name] != after[name]} == stale


@pytest.mark.parametrize("field", ["bits", "partition_rows", "probes", "fetch", "from_rows"])
def test_of_an_index_that_is_used_its_settings_count_but_not_how_it_is_measured(field):
    index = {"mine.index.kind": "ivf_rq"}
    one = counted(load_profile("demo", index))
    value = getattr(load_profile("demo", index).mine.index, field)
    other = counted(load_profile("demo", index | {f"mine.index.{field}": value * 2}))
    assert {name for name in one if one[name] != other[name]} == {"candidates"}
    assert counted(load_profile("demo", index | {"mine.index.checked": 9, "mine.index.recall_floor": 0.1})) == one


@pytest.mark.parametrize(
    ("recipe", "counts", "does_not"),
    [
        ("demo", ["texts", "captioned_pictures", "robustness"], ["rerank_depth"]),
        ("reranker", ["rerank_depth"], ["texts", "captioned_pictures", "robustness"]),
    ],
)
def test_an_evaluation_follows_the_galleries_that_its_kind_of_model_is_measured_on(recipe, counts, does_not):
    def found(change: dict[str, Any]) -> Any:
        return STAGES["evaluations"].fingerprint_settings(load_profile("demo", change), recipe)

    for name in counts:
        assert found({f"evaluate.{name}": 7}) != found({})
    for name in does_not:
        assert found({f"evaluate.{name}": 7}) == found({})
    assert found({"evaluate.edits": 7}) != found({}) != found({"evaluate.max_queries": 7})


def test_naive_pairs_follow_the_held_out_share_because_they_are_drawn_without_triplets():
    one, other = (counted(load_profile("demo", NAIVE | {"evaluate.held_out": share})) for share in (0.1, 0.2))
    assert one["checkpoints"] != other["checkpoints"]


def test_naive_pairs_and_no_other_recipe_follow_the_rules_that_word_them(monkeypatch):
    profiles = [load_profile("demo", change) for change in (NAIVE, {})]
    before = [STAGES["checkpoints"].fingerprint_settings(profile, "demo") for profile in profiles]
    monkeypatch.setattr(captions, "VERSION", "of tomorrow")
    after = [STAGES["checkpoints"].fingerprint_settings(profile, "demo") for profile in profiles]
    assert before[0] != after[0] and before[1] == after[1]


def test_settings_that_were_added_later_count_only_where_they_change_something():
    """Lakes of before them would be computed again, and their pairs described again, for nothing."""
    local = load_profile("local")
    assert "draw" not in STAGES["pairs"].fingerprint_settings(local, "shard-00000")
    name = next(iter(local.recipes))
    assert not {"matrix_learning_rate", "matryoshka"} & STAGES["checkpoints"].fingerprint_settings(local, name).keys()
    assert STAGES["pairs"].fingerprint_settings(load_profile("demo"), "shard-00000")["draw"] == "by_signal"


def test_every_field_of_a_recipe_counts_but_those_that_change_no_weight():
    later = {"matryoshka": (8,), "tasks": {"composed": 1.0, "text_to_image": 1.0}, "task_batches": "mixed"}
    later |= {"reranker": RerankerSettings(grid=3)}  # at their defaults they are left out
    later |= {"teacher": "reranker", "distillation": 2.0, "teacher_temperature": 2.0}
    later |= {name: OTHER[name] for name in Ingredients.model_fields}
    plain = load_profile("demo")
    recipe = plain.recipes["demo"].model_copy(update=later)  # which no single kind has a use for
    profile = plain.model_copy(update={"recipes": {"demo": recipe}})
    values = STAGES["checkpoints"].fingerprint_settings(profile, "demo")
    assert values.keys() - {"filtered_by"} == set(type(recipe).model_fields) - RECIPE_RUNTIME_FIELDS
    assert values["steps"] == recipe.steps and values["batch_size"] == recipe.batch_size


def test_weights_in_a_folder_of_the_user_s_count_by_their_content(tmp_path):
    (tmp_path / "model").mkdir()
    weights = tmp_path / "model" / "model.safetensors"
    change = {"encoders.clip_image.model": str(tmp_path / "model")}
    weights.write_bytes(b"one")
    one = counted(load_profile("demo", change))
    weights.write_bytes(b"another")
    assert counted(load_profile("demo", change))["clip_image"] != one["clip_image"]


def test_what_a_recipe_reads_follows_its_signals_its_pairs_and_the_licences():
    def read(overrides: dict[str, Any]) -> set[str]:
        profile = load_profile("demo", overrides)
        return {(r.table, r.scope) for r in STAGES["checkpoints"].conditional_reads(profile, "demo")}

    assert read({}) == set()
    assert read(NAIVE) == {("images", "all")}
    assert read({"recipes.demo.signals": ("caption",)}) == {("neighbours", "all")}
    assert read({"licences.exclude": ("CC0*",)}) == {("images", "all")}


def test_what_the_lake_remembers_wins_over_the_profile_and_what_is_asked_now_over_both(tmp_path):
    lake = Lake(tmp_path / "lake")
    lake.write_configuration(resolve(lake, overrides={"mine.k": 7, "mine.seed": 3}, sources=["shapes:9"], shard_size=5)[1])
    settings, configuration = resolve(lake, overrides={"mine.k": 8}, sources=["shapes:9", "shapes:11"])
    assert (settings.mine.k, settings.mine.seed, settings.corpus.shard_size) == (8, 3, 5)
    assert settings.corpus.sources == ("shapes:9", "shapes:11") and configuration["profile"] == "demo"
    assert resolve(lake)[0].mine.k == 7, "asked for, not written"
    assert resolve(lake, shard_size=6)[0].corpus.shard_size == 6
    removed, remembered = resolve(lake, sources=["shapes:11"], remove=["shapes:9"])
    assert removed.corpus.sources == ("shapes:11",) and removed.corpus.removed == ("shapes:9",)
    lake.write_configuration(remembered)
    back = resolve(lake, sources=["shapes:9"])[0]
    assert back.corpus.sources == ("shapes:11", "shapes:9") and back.corpus.removed == ()
