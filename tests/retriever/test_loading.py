"""Invariants: vectors are kept by all that decides them, an MLLM's prompt and an adapter's base included; search and evaluation
work with any kind of checkpoint, and ask an MLLM with the instruction it was trained with."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

import mmret
from mmret.benchmarks.composed import evaluate_composed
from mmret.retriever.models import kinds
from mmret.retriever.models.checkpoint import weights_digest
from mmret.retriever.models.load import TEXT_INSTRUCTION, embedding_digest, query_options
from mmret.settings import Recipe
from mmret.tasks import COMPOSED, TASKS
from tests.retriever import mllm_folders


@pytest.fixture(scope="module")
def mllm_folder(tmp_path_factory):
    return mllm_folders.qwen2_vl(tmp_path_factory.mktemp("qwen2"))


def test_a_clip_checkpoint_is_its_files(clip_folder):
    assert embedding_digest(clip_folder) == weights_digest(clip_folder)
    assert query_options(clip_folder) == query_options(clip_folder, composed=False) == {}


def test_another_prompt_is_another_model(mllm_folder, monkeypatch):
    before = embedding_digest(mllm_folder)
    assert before == embedding_digest(mllm_folder) != weights_digest(mllm_folder)
    real = kinds.prompt_of
    monkeypatch.setattr(kinds, "prompt_of", lambda kind: dataclasses.replace(real(kind), candidate="You see: "))
    assert embedding_digest(mllm_folder) != before


def test_another_base_is_another_model(mllm_folder, tmp_path):
    shutil.copytree(mllm_folder, tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "base")}))
    before = embedding_digest(tmp_path / "adapter")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | {"another": 1}))
    assert embedding_digest(tmp_path / "adapter") != before


def test_a_query_carries_the_instruction_the_checkpoint_was_trained_with(mllm_folder, tmp_path):
    assert query_options(mllm_folder) == {"instruction": Recipe.model_fields["instruction"].default}
    assert query_options(mllm_folder, composed=False) == {"instruction": TEXT_INSTRUCTION}
    shutil.copytree(mllm_folder, tmp_path / "trained")
    (tmp_path / "trained" / "recipe.json").write_text(json.dumps({"recipe": {"instruction": "Find it: "}}))
    assert query_options(tmp_path / "trained") == {"instruction": "Find it: "}


def test_a_query_of_any_task_is_told_what_training_told_it_and_search_asks_by_text_as_training_did(mllm_folder, tmp_path):
    for name, task in TASKS.items():
        if name not in (COMPOSED, "text_to_image", "image_to_image"):
            assert kinds.task_options(mllm_folder, task) == {"instruction": task.instruction}
    by_text = TASKS["text_to_image"]
    assert kinds.task_options(mllm_folder, TASKS[COMPOSED]) == query_options(mllm_folder)
    assert (
        kinds.task_options(mllm_folder, by_text) == query_options(mllm_folder, composed=False) == {"instruction": TEXT_INSTRUCTION}
    )
    shutil.copytree(mllm_folder, tmp_path / "trained")
    by_image = TASKS["image_to_image"]
    assert kinds.task_options(mllm_folder, by_image) == kinds.picture_options(mllm_folder) == {}, (
        "not trained with it: as a candidate"
    )
    recipe = {"instruction": "Find it: ", "tasks": {"composed": 0.5, "text_to_image": 0.25, "image_to_image": 0.25}}
    (tmp_path / "trained" / "recipe.json").write_text(json.dumps({"recipe": recipe}))
    assert query_options(tmp_path / "trained", composed=False) == {"instruction": by_text.instruction}
    assert kinds.task_options(tmp_path / "trained", by_text) == {"instruction": by_text.instruction}
    told = {"instruction": by_image.instruction}
    assert kinds.task_options(tmp_path / "trained", by_image) == kinds.picture_options(tmp_path / "trained") == told


def test_an_mllm_is_evaluated_with_queries_that_bear_their_instruction(mllm_folder, pictures, load):
    retriever = mmret.Retriever.load(mllm_folder, device="cpu")
    ids = sorted(pictures)[:4]
    vectors = retriever.encode([pictures[i] for i in ids])
    queries = [(ids[0], "make it green", {ids[1]}), (ids[2], "no hat", {ids[3]})]
    asked = []
    real = retriever.encode

    def encode(images=None, texts=None, batch_size=64, instruction=None):
        asked.append((images is not None, instruction))
        return real(images, texts, batch_size, instruction)

    retriever.encode = encode
    found = evaluate_composed(retriever, ids, vectors, queries, load, (1, 3), **query_options(mllm_folder))
    instruction = query_options(mllm_folder)["instruction"]
    assert sorted(asked) == [(False, instruction), (True, instruction)]
    assert found["R@3"] == 100.0
    composed = real([pictures[ids[0]]], ["make it green"], 64, instruction)
    assert np.abs(composed - real([pictures[ids[0]]], ["make it green"])).max() > 1e-4  # the instruction does reach the model
