"""Invariants: SigLIP gives the vectors of its stock classes, before and after a checkpoint is saved, here and in
sentence-transformers; what is no such model is refused by name."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, SiglipModel

import mmret
from mmret.errors import UserError
from mmret.retriever.models.load import embedding_digest, query_options
from mmret.retriever.models.onnx import OnnxRetriever, export_onnx
from mmret.retriever.models.siglip import SiglipRetriever
from mmret.retriever.train.kinds import EMBEDDERS
from mmret.retriever.train.loop import train
from tests.docs import engines
from tests.retriever.mixtures import ALL, mixture
from tests.retriever.runs import small
from tests.retriever.siglip_folders import FOLDERS, LIMIT, siglip2
from tests.retriever.test_train import Killed, dying

TEXTS = ["make it green", "A Red Square left of a BLUE circle", "no hat", "", "the same " * 40]
SAME = {"rtol": 0, "atol": 1e-5}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request, tmp_path_factory):
    if request.param == "siglip":
        pytest.importorskip("sentencepiece")
    return FOLDERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def shown():
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 255, (40, width, 3), dtype=np.uint8)) for width in (30, 40, 64, 33, 32)]


def published(folder, images, texts):
    """The published usage, by transformers alone: texts in lower case, padded to the limit, pooled by the model."""
    model, processor = SiglipModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        rows = []
        if images is not None:
            rows.append(model.get_image_features(**processor(images=images, return_tensors="pt")).pooler_output)
        if texts is not None:
            read = processor(
                text=[t.lower() for t in texts], padding="max_length", max_length=LIMIT, truncation=True, return_tensors="pt"
            )
            rows.append(model.get_text_features(**read).pooler_output)
        total = sum(rows)
        return (total / total.norm(dim=1, keepdim=True)).numpy()


@pytest.mark.parametrize("parts", ["image", "text", "both"])
def test_vectors_are_those_of_the_published_usage(folder, shown, parts):
    images, texts = shown if parts != "text" else None, TEXTS if parts != "image" else None
    ours = mmret.Retriever.load(folder, "cpu")
    np.testing.assert_allclose(ours.encode(images, texts), published(folder, images, texts), **SAME)
    assert (ours.truncated > 0) == (texts is not None) and ours.dim == 32
    assert query_options(folder) == {}


def test_a_saved_checkpoint_gives_the_same_vectors_here_and_in_sentence_transformers(folder, shown, tmp_path):
    theirs = pytest.importorskip("sentence_transformers")
    ours = mmret.Retriever.load(folder, "cpu")
    ours.save(tmp_path / "saved")
    again = mmret.Retriever.load(tmp_path / "saved", "cpu")
    np.testing.assert_allclose(again.encode(shown, TEXTS), ours.encode(shown, TEXTS), **SAME)
    model = theirs.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(model.encode(shown), ours.encode(shown), **SAME)
    np.testing.assert_allclose(model.encode(TEXTS), ours.encode(texts=TEXTS), **SAME)


def test_the_lines_of_the_page_compose_a_query(folder, tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(tmp_path)
    engines.save_picture(tmp_path)
    ours = mmret.Retriever.load(folder, "cpu")
    ours.save(tmp_path / "mmret-clip")
    made = engines.run("What is asked", "CLIP in sentence-transformers")
    assert engines.cosine(made["vector"], ours.encode([engines.PICTURE], [made["text"]])) > 0.999999


@pytest.mark.parametrize("trainable", ["all", "text+blocks", "text+projection", "text"])
def test_it_is_trained_and_saved_in_the_same_layout(triplets, load, tmp_path, trainable):
    base = siglip2(tmp_path / "base")
    facts = train(small("clip", trainable=trainable, matrix_learning_rate=1e-3), triplets, load, base, tmp_path / "out")
    assert facts["step"] == 6
    before, after = (SiglipModel.from_pretrained(path).state_dict() for path in (base, tmp_path / "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("text_model.head") for name in changed)
    assert any(name.startswith("vision_model.head") for name in changed) == (trainable != "text")
    assert any(".layers.1." in name and "vision" in name for name in changed) == (trainable in ("all", "text+blocks"))
    assert any("patch_embedding" in name for name in changed) == (trainable == "all")
    assert not {"logit_scale", "logit_bias"} & changed
    assert (tmp_path / "out" / "modules.json").is_file() and embedding_digest(tmp_path / "out") != embedding_digest(base)


@pytest.mark.parametrize("batches", ["one", "mixed"])
def test_it_is_trained_on_every_kind_of_query(triplets, load, tmp_path, batches):
    base = siglip2(tmp_path / "base")
    recipe = small("clip", tasks=ALL, task_batches=batches, batch_size=12)
    facts = train(recipe, mixture(triplets), load, base, tmp_path / "out")
    assert facts["step"] == 6 and np.isfinite(facts["loss"])
    before, after = (mmret.Retriever.load(path, "cpu").encode(texts=TEXTS) for path in (base, tmp_path / "out"))
    assert np.abs(before - after).max() > 1e-3


def test_a_run_that_died_continues_to_bit_equal_weights(triplets, load, tmp_path):
    base, recipe = siglip2(tmp_path / "base"), small("clip", trainable="text+blocks")
    train(recipe, triplets, load, base, tmp_path / "whole")
    with pytest.raises(Killed, match="killed here"), dying(3):
        train(recipe, triplets, load, base, tmp_path / "broken")
    train(recipe, triplets, load, base, tmp_path / "broken")
    whole, broken = (SiglipModel.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


@pytest.mark.slow
def test_exported_graphs_give_the_same_vectors(shown, tmp_path):
    folder = siglip2(tmp_path / "base")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra 'onnx'")
    info = export_onnx(folder, tmp_path / "onnx")
    assert info["texts"] == {"lower_case": True, "padded": True, "masked": False}
    ours, graphs = mmret.Retriever.load(folder, "cpu"), OnnxRetriever(tmp_path / "onnx")
    for images, texts in ((shown, None), (None, TEXTS), (shown, TEXTS)):
        np.testing.assert_allclose(graphs.encode(images, texts, 2), ours.encode(images, texts), **SAME)
    assert graphs.truncated == ours.truncated > 0


def test_half_a_folder_and_other_models_are_refused_in_one_sentence(tmp_path, clip_folder):
    base = siglip2(tmp_path / "base")
    lacking = shutil.copytree(base, tmp_path / "lacking")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (lacking / name).unlink()
    with pytest.raises(UserError, match="processor of .*lacking.*tokenizer files"):
        mmret.Retriever.load(lacking)
    (lacking / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot load a SiglipModel from .*lacking.*safetensors"):
        mmret.Retriever.load(lacking)
    config = json.loads((base / "config.json").read_text())
    (lacking / "config.json").write_text(json.dumps(config | {"model_type": "siglip2"}))
    with pytest.raises(UserError, match="free resolution.*siglip2-base-patch16-224"):
        mmret.Retriever.load(lacking)
    with pytest.raises(UserError, match="start from clip or siglip: it is SigLIP 2 of free resolution"):
        EMBEDDERS["clip"].load(small("clip"), lacking)
    with pytest.raises(UserError, match="type 'clip'; this retriever needs a SiglipModel"):
        SiglipRetriever.load(clip_folder)
    with pytest.raises(UserError, match="type 'siglip', and recipes of kind mllm .*set the recipe's kind to clip"):
        EMBEDDERS["mllm"].load(small("mllm"), base)
    config["vision_config"]["vision_use_head"] = False
    headless = shutil.copytree(base, tmp_path / "headless")
    (headless / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no pooling head"):
        mmret.Retriever.load(headless)
