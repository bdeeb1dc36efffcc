"""Invariant: a checkpoint is computed again where a setting changes a weight, and stays current where none does; whatever decides
on the rows that a recipe trains on enters its fingerprint."""

from __future__ import annotations

from typing import Any

import pytest

from mmret.curation.decisions import DecisionLog
from mmret.lake import Lake
from mmret.lake.inputs import Inputs
from mmret.settings import RECIPE_RUNTIME_FIELDS, LicenceSettings, Profile, Recipe, RerankerSettings, load_profile
from mmret.stages import STAGES

STAGE = STAGES["checkpoints"]
OTHER: dict[str, Any] = {
    "kind": "mllm", "base": "towers/other", "signals": ("caption",), "negatives": "query", "mined_negatives": 9, "pairs": 77,
    "pair_source": "naive", "decisions": "only_accepted", "licence_set": "unknown", "trainable": "text", "image_blocks": 2,
    "steps": 7, "batch_size": 33, "chunk_size": 5, "learning_rate": 0.5, "text_learning_rate": 0.25, "warmup_steps": 3,
    "weight_decay": 0.1, "max_grad_norm": 2.0, "temperature": 0.5, "mask_false_negatives": False, "several_positives": False,
    "hardness": 1.0, "precision": "bfloat16", "gradient_checkpointing": True, "compile": "eager", "instruction": "x", "seed": 9,
    "lora": {"rank": 1}, "matrix_learning_rate": 0.5, "matryoshka": (4, 8),
    "tasks": {"composed": 3, "text_to_image": 1}, "task_batches": "mixed",
    "reranker": RerankerSettings(grid=3), "teacher": "strong", "distillation": 0.5, "teacher_temperature": 2.0,
    "texts_at_once": "picture", "batch_neighbours": 8, "mask_margin": 0.1, "negative_margin": 0.5, "agreement": 0.5, "reverse": 0.5,
    "swapped_texts": 0.5,
    "average_from": 0.5, "ema_decay": 0.9, "chunk_tokens": 512, "filters": ("consistency",),
}  # fmt: skip
RUNTIME = {
    "checkpoint_every": 3, "log_every": 3, "evaluate_every": 3, "held_out_queries": 3, "outside": True,
    "parallel": "ddp", "workers": 2, "worker_cpus": 2,
}  # fmt: skip


def values(recipe: Recipe, licences: LicenceSettings | None = None, held_out: float = 0.03) -> Any:
    plain = load_profile("demo")
    evaluate = plain.evaluate.model_copy(update={"held_out": held_out})
    changed = {"recipes": {"r": recipe}, "licences": licences or LicenceSettings(), "evaluate": evaluate}
    return STAGE.fingerprint_settings(plain.model_copy(update=changed), "r")


def test_every_field_of_a_recipe_is_one_that_changes_weights_or_one_that_does_not():
    assert set(OTHER) | RECIPE_RUNTIME_FIELDS == set(Recipe.model_fields) and not set(OTHER) & RECIPE_RUNTIME_FIELDS


@pytest.mark.parametrize("field", OTHER)
def test_a_field_that_changes_weights_is_in_the_fingerprint(field):
    plain = Recipe()
    changed = plain.model_copy(update={field: Recipe.model_fields["lora"].default if field == "lora" else OTHER[field]})
    if field == "lora":
        changed = plain.model_copy(update={"lora": plain.lora.model_copy(update=OTHER["lora"])})
    assert values(changed) != values(plain)


@pytest.mark.parametrize("field", RUNTIME)
def test_a_field_that_changes_no_weight_is_not_in_the_fingerprint(field):
    assert values(Recipe(**{field: RUNTIME[field]})) == values(Recipe())


def test_licences_and_the_state_trained_on_are_in_the_fingerprint_where_they_keep_rows_away():
    plain = values(Recipe())
    assert "licences" not in plain and "as_of" not in plain, "lakes of before licences stay current"
    later = {"matrix_learning_rate", "matryoshka", "tasks", "task_batches", "reranker", "teacher", "distillation"}
    assert not (later | {"teacher_temperature"}) & plain.keys(), "as do those of before these settings"
    found = [values(Recipe(), licences) for licences in (
        LicenceSettings(share_alike="apart"), LicenceSettings(share_alike="exclude"), LicenceSettings(exclude=("CC-BY-NC*",))
    )]  # fmt: skip
    assert all(a != b for at, a in enumerate([plain, *found]) for b in found[at:])
    assert values(Recipe(as_of="demo")) != plain != values(Recipe(as_of="other")) != values(Recipe(as_of="demo"))


@pytest.mark.parametrize("weights", [(6, 2, 2), (3, 1, 1), (0.3, 0.1, 0.1), (6e-7, 2e-7, 2e-7)])
def test_a_mixture_of_the_same_shares_is_the_same_whatever_its_weights_add_up_to_and_in_whatever_order(weights):
    names = ("composed", "text_to_image", "image_to_text")
    written = Recipe(tasks=dict(zip(names, (0.6, 0.2, 0.2), strict=True)))
    same = Recipe(tasks=dict(reversed([*zip(names, weights, strict=True)])))
    one, other = (Inputs("checkpoints", "1", values(recipe), ()).fingerprint for recipe in (written, same))
    assert one == other
    assert same.shares() == written.shares() and values(Recipe(tasks=dict.fromkeys(names, 1))) != values(written)


def test_a_mixture_whose_weights_add_up_to_one_is_as_it_was_written():
    universal = load_profile("demo").recipes["universal"]
    assert values(universal)["tasks"] == universal.tasks, "lakes of before shares were compared stay current"


def test_the_held_out_share_decides_on_naive_pairs_and_on_no_others():
    naive = Recipe(pair_source="naive", negatives="query", pairs=5)
    assert values(naive, held_out=0.1) != values(naive) and values(Recipe(), held_out=0.1) == values(Recipe())


def test_decisions_that_a_recipe_heeds_are_in_its_fingerprint(tmp_path):
    lake, plain = Lake(tmp_path), load_profile("demo")

    def decided(rule: str) -> str | None:
        profile: Profile = plain.model_copy(update={"recipes": {"r": Recipe(decisions=rule), "s": Recipe()}})
        return STAGE.decisions(lake, profile, "r")

    DecisionLog(lake, "ann").add(["a"], "rejected")
    before = decided("without_rejected")
    DecisionLog(lake, "ann").add(["b"], "rejected")
    assert decided("ignore") is None and before is not None and decided("without_rejected") not in (None, before)


def test_tables_that_licences_and_signals_ask_for_are_read(tmp_path):
    plain = load_profile("demo")

    def reads(recipe: Recipe, licences: LicenceSettings) -> set[str]:
        profile = plain.model_copy(update={"recipes": {"r": recipe}, "licences": licences})
        return {read.table for read in STAGE.conditional_reads(profile, "r")}

    apart = LicenceSettings(share_alike="apart")
    assert reads(Recipe(), LicenceSettings()) == set() and reads(Recipe(), apart) == {"images"}
    assert reads(Recipe(signals=("caption",)), LicenceSettings()) == {"neighbours"}
