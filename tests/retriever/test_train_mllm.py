"""Invariants: LoRA trains adapters on language and vision parts and nothing else; the checkpoint is an adapter that loads,
merges and then loads as stock transformers; what training embeds is what inference embeds; a killed run continues to
bit-equal weights."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize
from transformers import AutoModelForImageTextToText, AutoProcessor

import mmret
from mmret import progress
from mmret.errors import UserError
from mmret.retriever.models.load import query_options
from mmret.retriever.models.merge import export_merged
from mmret.retriever.train.log import read_log
from mmret.retriever.train.loop import train
from tests.retriever.mllm_folders import FOLDERS, publish_names
from tests.retriever.runs import a_trainer, small

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: make(tmp_path_factory.mktemp(kind)) for kind, make in FOLDERS.items()}


@pytest.fixture(scope="module")
def trained(folders, triplets, pictures, tmp_path_factory):
    """An adapter after six steps on the tiny Qwen2-VL, and the facts of the run."""
    out = tmp_path_factory.mktemp("trained") / "adapter"
    recipe = small("mllm", steps=12, learning_rate=5e-3, evaluate_every=6)
    facts = train(recipe, triplets, lambda ids: {i: pictures[i] for i in ids}, folders["qwen2_vl"], out)
    return out, facts


@pytest.mark.parametrize("family", FOLDERS)
def test_adapters_sit_on_vision_and_language_and_only_they_are_trained(folders, triplets, load, tmp_path, family):
    trainer = a_trainer(small("mllm"), folders[family], triplets, load, tmp_path)
    trained = [n for n, p in trainer.embedder.model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    language = [n for n in trained if "language_model" in n]
    vision = [n for n in trained if n not in language]
    assert {n.split(".lora_")[0].rsplit(".", 1)[1] for n in language} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert vision and not any("projector" in n or "merger" in n or "lm_head" in n for n in trained)
    batch = trainer.data.batch(0)
    trainer.backward(batch, trainer.embedder.read(batch))
    moved = {n for n, p in trainer.embedder.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved & set(language) and moved & set(vision)


def test_the_target_modules_are_a_setting(folders, triplets, load, tmp_path):
    recipe = small("mllm", lora={"rank": 2, "target_modules": ["q_proj", "v_proj"], "exclude_modules": None})
    trainer = a_trainer(recipe, folders["qwen2_vl"], triplets, load, tmp_path)
    names = {n.split(".lora_")[0].rsplit(".", 1)[1] for n, p in trainer.embedder.model.named_parameters() if p.requires_grad}
    assert names == {"q_proj", "v_proj"}
    with pytest.raises(UserError, match="target_modules"):
        a_trainer(small("mllm", lora={"target_modules": ["no_such_layer"]}), folders["qwen2_vl"], triplets, load, tmp_path)


@pytest.mark.parametrize("family", FOLDERS)
def test_what_training_embeds_is_what_inference_embeds(folders, triplets, pictures, load, tmp_path, family):
    trainer = a_trainer(small("mllm"), folders[family], triplets, load, tmp_path, double=False)
    batch, embedder = trainer.data.batch(0), trainer.embedder
    parts, gather = embedder.parts(batch, embedder.read(batch))
    with torch.no_grad():
        queries, candidates = gather(*(torch.cat([part.encode(chunk) for chunk in part.chunks]) for part in parts))
    stock = mmret.Retriever.load(folders[family], "cpu")  # adapters begin as nothing
    files = [pictures[i] for i in trainer.data.images.to_pylist()]
    expected = stock.encode([files[i] for i in batch.queries], batch.texts, instruction="find a picture")
    np.testing.assert_allclose(queries.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(candidates.numpy(), stock.encode([files[i] for i in batch.candidates]), atol=1e-5)


def test_training_lowers_the_loss_and_writes_an_adapter(trained, folders):
    out, facts = trained
    log = read_log(out)
    assert facts["step"] == 12 and log["loss"][-1].as_py() < log["loss"][0].as_py()
    assert log["recall_10"].drop_null().to_pylist() and 0 <= facts["recall_1"] <= facts["recall_10"] <= 100
    settings = json.loads((out / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(folders["qwen2_vl"]) and settings["r"] == 4
    weights = load_file(out / "adapter_model.safetensors")
    assert any(w.abs().sum() > 0 for n, w in weights.items() if "lora_B" in n)
    assert not (out / "model.safetensors").exists()


def test_the_adapter_loads_and_the_merged_folder_is_stock_transformers(trained, folders, pictures, tmp_path):
    out, _ = trained
    images, texts = list(pictures.values())[:3], ["make it green", "no hat", "a"]
    adapter = mmret.Retriever.load(out, "cpu")
    rows = adapter.encode(images, texts, instruction="find a picture")
    assert (
        np.abs(rows - mmret.Retriever.load(folders["qwen2_vl"], "cpu").encode(images, texts, instruction="find a picture")).max()
        > 1e-3
    )  # it has learnt something
    export_merged(out, tmp_path / "merged")
    np.testing.assert_allclose(
        mmret.Retriever.load(tmp_path / "merged", "cpu").encode(images, texts, instruction="find a picture"), rows, atol=1e-5
    )
    for folder in (out, tmp_path / "merged"):  # by which stock engines embed, with the instruction of the recipe
        assert json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]["query"] == "find a picture"
        assert query_options(folder) == {"instruction": "find a picture"}
        assert (folder / "modules.json").is_file() and "<instruct>" in (folder / "chat_template.jinja").read_text()
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "merged")
    prompt = adapter.prompt.fill(texts[0], True, "find a picture")
    with torch.no_grad():
        state = model(
            **processor(text=[prompt], images=adapter.pictures(images[:1]), return_tensors="pt"), output_hidden_states=True
        ).hidden_states[-1][:, -1]
    np.testing.assert_allclose(normalize(state, dim=-1).numpy(), rows[:1], atol=1e-5)
    assert not any("lora" in name for name in model.state_dict())
    with pytest.raises(UserError, match="already"):
        export_merged(out, tmp_path / "merged")
    with pytest.raises(UserError, match="no LoRA adapter"):
        export_merged(folders["qwen2_vl"], tmp_path / "other")


def test_an_adapter_is_trained_further_from_its_own_base(trained, folders, triplets, load, tmp_path):
    out, _ = trained
    train(small("mllm", steps=1, learning_rate=1e-9), triplets, load, out, tmp_path / "second")
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (out, tmp_path / "second"))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(second[name], first[name], atol=1e-6, rtol=0)
    assert json.loads((tmp_path / "second" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        folders["qwen2_vl"]
    )


def test_a_merged_llava_keeps_the_published_names_of_its_weights_by_which_vllm_loads_it(folders, tmp_path):
    peft = pytest.importorskip("peft")
    published = publish_names(shutil.copytree(folders["llava_next"], tmp_path / "published"))
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    peft.get_peft_model(AutoModelForImageTextToText.from_pretrained(published), settings).save_pretrained(tmp_path / "adapter")
    export_merged(tmp_path / "adapter", tmp_path / "merged")
    merged, base = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", published))
    assert merged.keys() == base.keys() and any(name.startswith("vision_tower.vision_model.") for name in merged)


class Killed(Exception):
    pass


def test_a_run_that_died_continues_to_bit_equal_adapters(folders, triplets, load, tmp_path):
    recipe = small("mllm", lora={"rank": 4, "dropout": 0.2}, chunk_size=4)
    train(recipe, triplets, load, folders["qwen3_vl"], tmp_path / "whole")

    def dying(task, done, total, note=""):
        if done >= 5:
            raise Killed("killed here")

    with pytest.raises(Killed, match="killed here"), progress.reporting(dying):
        train(recipe, triplets, load, folders["qwen3_vl"], tmp_path / "broken")
    assert [p.name for p in (tmp_path / "broken.work").glob("state-*")]
    train(recipe, triplets, load, folders["qwen3_vl"], tmp_path / "broken")
    whole, broken = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "broken"))
    assert whole.keys() == broken.keys() and all(torch.equal(whole[n], broken[n]) for n in whole)


def test_a_base_of_another_kind_is_refused(clip_folder, triplets, load, tmp_path):
    with pytest.raises(UserError, match="recipes of kind mllm start from llava_next, .*; set the recipe's kind to clip"):
        train(small("mllm"), triplets, load, clip_folder, tmp_path / "out")
