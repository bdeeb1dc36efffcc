"""Invariants of a reranker's training: the gradient in chunks is that of all pairs at once, for both bases and whatever of the
towers is trained; a killed run continues to bit-equal weights; only what the recipe says is trained; the checkpoint loads and is
recorded as a reranker; training teaches it to tell targets from hard negatives."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mmret
from mmret.errors import UserError
from mmret.retriever.models.kinds import is_reranker
from mmret.retriever.models.merge import export_merged
from mmret.retriever.train.log import read_log
from mmret.retriever.train.loop import train
from mmret.retriever.train.pairs import Pairs
from mmret.settings import Recipe
from tests.retriever.mllm_folders import FOLDERS, with_answers
from tests.retriever.runs import a_trainer, small

pytestmark = pytest.mark.usefixtures("one_thread")
TRAINABLE = ("all", "text+blocks", "text", "above")


@pytest.fixture(scope="module")
def mllm(tmp_path_factory):
    pytest.importorskip("peft")
    return with_answers(FOLDERS["qwen2_vl"](tmp_path_factory.mktemp("qwen2_vl")))


def gradients(recipe, base, triplets, load, tmp_path):
    made = a_trainer(recipe, base, triplets, load, tmp_path / str(recipe.chunk_size))
    for name, parameter in made.embedder.model.named_parameters():  # these begin as zero, where most gradients vanish
        if "lora_B" in name or name == "head.weight":
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    made.embedder.model.train()
    batch = made.data.batch(0)
    torch.manual_seed(3)
    loss = made.backward(batch, made.embedder.read(batch))
    found = {n: p.grad for n, p in made.embedder.model.named_parameters() if p.grad is not None}
    return float(loss), found, len(Pairs.of(batch, recipe))


def same(a, b) -> bool:
    assert a[1].keys() == b[1].keys() and a[1]
    scale = max(float(g.abs().max()) for g in a[1].values())
    return abs(a[0] - b[0]) <= 1e-6 * abs(a[0]) and all(
        torch.allclose(b[1][n], g, rtol=1e-5, atol=1e-7 * scale) for n, g in a[1].items()
    )


@pytest.mark.parametrize("trainable", TRAINABLE)
def test_the_gradient_in_chunks_is_that_of_all_pairs_at_once(trainable, clip_folder, triplets, load, tmp_path):
    recipe = small("reranker", batch_size=7, mined_negatives=3, trainable=trainable, chunk_size=1000)
    whole = gradients(recipe, clip_folder, triplets, load, tmp_path)
    for chunk in (4, 9):
        assert chunk < whole[2] and same(
            whole, gradients(recipe.model_copy(update={"chunk_size": chunk}), clip_folder, triplets, load, tmp_path)
        )
    names = set(whole[1])
    assert any(n.startswith("blocks.") for n in names)
    assert any(n.startswith("clip.text_model") for n in names) == (trainable != "above")
    vision = {n for n in names if n.startswith("clip.vision_model")}
    assert bool(vision) == (trainable not in ("text", "above")) and ("clip.vision_model.embeddings.class_embedding" in vision) == (
        trainable == "all"
    )
    with_projection = trainable not in ("text", "above")
    assert ("clip.visual_projection.weight" in names) == with_projection
    assert ("clip.vision_model.post_layernorm.weight" in names) == with_projection


def test_so_it_is_of_an_mllm(mllm, triplets, load, tmp_path):
    recipe = small("reranker", batch_size=3, mined_negatives=1, chunk_size=1000, lora={"rank": 4, "alpha": 8})
    whole = gradients(recipe, mllm, triplets, load, tmp_path)
    assert same(whole, gradients(recipe.model_copy(update={"chunk_size": 2}), mllm, triplets, load, tmp_path))
    assert all("lora_" in name for name in whole[1])


def test_what_training_scores_is_what_inference_scores(clip_folder, triplets, pictures, load, tmp_path):
    made = a_trainer(small("reranker", trainable="text+blocks"), clip_folder, triplets, load, tmp_path, double=False)
    torch.nn.init.normal_(made.embedder.model.head.weight, std=0.3)
    batch = made.data.batch(0)
    pairs = Pairs.of(batch, made.recipe)
    part = made.embedder.score_part(batch, pairs, made.embedder.read(batch))
    with torch.no_grad():
        trained = torch.cat([part.encode(chunk) for chunk in part.chunks]).squeeze(-1).numpy()
    ids = made.data.images.to_pylist()
    files = [pictures[ids[n]] for n in pairs.candidates]
    queries = [(pictures[ids[batch.queries[row]]], batch.texts[row]) for row in pairs.rows]
    np.testing.assert_allclose(trained, made.embedder.retriever.score(queries, files), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("trainable", TRAINABLE)
def test_held_out_pairs_are_scored_by_the_weights_of_the_step(trainable, clip_folder, triplets, pictures, load, tmp_path):
    recipe = small("reranker", trainable=trainable, learning_rate=1e-2)
    made, shown = a_trainer(recipe, clip_folder, triplets, load, tmp_path / "work", double=False), list(pictures.values())
    pairs = [(shown[0], "make it green")] * 6, shown[1:7]
    before, batch = made.embedder.score(*pairs), made.data.batch(0)
    made.backward(batch, made.embedder.read(batch))
    with torch.no_grad():
        for group, _ in made.embedder.parameter_groups():
            for parameter in group:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    (tmp_path / "now").mkdir()
    made.embedder.save(tmp_path / "now")
    now = made.embedder.score(*pairs)
    np.testing.assert_allclose(now, mmret.Reranker.load(tmp_path / "now", "cpu").score(*pairs), rtol=1e-4, atol=1e-4)
    assert not np.allclose(now, before, atol=1e-2)


def test_a_run_that_died_continues_to_bit_equal_weights(clip_folder, triplets, load, tmp_path):
    recipe = small("reranker", matrix_learning_rate=1e-3, evaluate_every=3, chunk_size=5)
    facts = train(recipe, triplets, load, clip_folder, tmp_path / "whole")

    class Died(Exception):
        pass

    def die(row):
        if row["step"] >= 4:
            raise Died

    with pytest.raises(Died):
        train(recipe, triplets, load, clip_folder, tmp_path / "broken", die)
    train(recipe, triplets, load, clip_folder, tmp_path / "broken")
    whole, broken = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert whole.keys() == broken.keys() and all(torch.equal(whole[name], broken[name]) for name in whole)
    assert facts["kind"] == "reranker" and 0 <= facts["recall_1"] <= facts["recall_10"] <= 100
    log = read_log(tmp_path / "whole").to_pylist()
    assert [row["step"] for row in log] == [2, 3, 4, 6] and is_reranker(tmp_path / "whole")


def test_the_adapter_of_an_mllm_scores_and_merges_and_is_told_from_a_retriever(mllm, triplets, pictures, load, tmp_path):
    recipe = small("reranker", steps=3, batch_size=3, mined_negatives=1, lora={"rank": 4, "alpha": 8}, learning_rate=5e-2)
    train(recipe.model_copy(update={"instruction": "find it"}), triplets, load, mllm, tmp_path / "adapter")
    shown = list(pictures.values())
    pairs = [(shown[0], "make it green")] * 2, shown[1:3]
    trained = mmret.Reranker.load(tmp_path / "adapter", "cpu")
    assert trained.instruction == "find it" and is_reranker(tmp_path / "adapter")
    assert not np.allclose(trained.score(*pairs), mmret.Reranker.load(mllm, "cpu").score(*pairs), atol=1e-4)
    export_merged(tmp_path / "adapter", tmp_path / "merged")
    np.testing.assert_allclose(mmret.Reranker.load(tmp_path / "merged", "cpu").score(*pairs), trained.score(*pairs), rtol=1e-3)
    assert is_reranker(tmp_path / "merged") and not (tmp_path / "merged" / "modules.json").exists()
    with pytest.raises(UserError, match="embeds nothing"):
        mmret.Retriever.load(tmp_path / "adapter")


def test_training_tells_targets_from_hard_negatives(clip_folder, triplets, pictures, load, tmp_path):
    recipe = small("reranker", steps=60, batch_size=12, learning_rate=3e-3, mined_negatives=3, trainable="text+blocks")
    train(recipe, triplets, load, clip_folder, tmp_path / "trained")
    log = read_log(tmp_path / "trained")["loss"].to_pylist()
    assert log[-1] < 0.8 * log[0]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"temperature": 0.1}, "temperature is of retrievers"),
        ({"hardness": 9}, "hardness is of retrievers"),
        ({"compile": "eager"}, "compile is of retrievers"),
        ({"distillation": 2}, "distillation is of retrievers"),
        ({"trainable": "text+projection"}, "reads tokens"),
        ({"negatives": "none", "reranker": {"in_batch": 0}}, "nothing to tell a target from"),
    ],
)
def test_settings_that_a_reranker_has_no_use_for_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        Recipe.model_validate({"kind": "reranker", **changes})


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"reranker": {"first_hits": 40}}, "settings `reranker` are of kind reranker"),
        ({"kind": "mllm", "reranker": {"grid": 3}}, "this recipe is of kind mllm"),
        ({"retriever": "demo"}, "`retriever` is of kind reranker"),
        ({"teacher": "judge", "tasks": {"text_to_image": 1}}, "add composed to tasks"),
        ({"distillation": 2}, "distillation says how a teacher is learnt from"),
        ({"teacher_temperature": 2}, "teacher_temperature says how a teacher is learnt from"),
    ],
)
def test_settings_that_a_retriever_has_no_use_for_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        Recipe.model_validate(changes)


@pytest.mark.parametrize("changes", [{"trainable": "text"}, {"matrix_learning_rate": 1e-3}], ids=lambda value: next(iter(value)))
def test_what_is_trained_of_an_mllm_is_not_said_by_settings_of_a_clip(changes, mllm, triplets, load, tmp_path):
    with pytest.raises(UserError, match=f"{next(iter(changes))} is of a reranker over a clip"):
        a_trainer(small("reranker", **changes), mllm, triplets, load, tmp_path)


def test_heads_that_do_not_divide_the_width_and_a_base_of_another_kind_are_said(clip_folder, triplets, load, tmp_path):
    with pytest.raises(UserError, match="heads 5 do not divide the width of 32"):
        a_trainer(small("reranker", reranker={"heads": 5}), clip_folder, triplets, load, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="a reranker is trained from one of type clip"):
        a_trainer(small("reranker"), tmp_path, triplets, load, tmp_path)
