"""Invariants: folders in which CLIP models are published load with the vectors of the stock class, without the code beside them;
those whose weights are another model's are refused rather than filled with random numbers."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

import mmret
from mmret.errors import UserError
from mmret.retriever.train.kinds import EMBEDDERS
from tests.retriever.conftest import make_clip
from tests.retriever.runs import small

TEXTS = ["make it green", "no hat"]


@pytest.fixture
def copy(clip_folder, tmp_path):
    return shutil.copytree(clip_folder, tmp_path / "copy")


def test_code_beside_a_stock_model_is_not_needed_and_not_run(copy, clip_folder, pictures):
    """As BGE-VL-base is published."""
    config = json.loads((copy / "config.json").read_text())
    auto = {"auto_map": {"AutoModel": "modeling_MMRet_CLIP.CLIPModel"}, "architectures": ["CLIPModel"]}
    (copy / "config.json").write_text(json.dumps(config | auto))
    (copy / "modeling_MMRet_CLIP.py").write_text("raise SystemExit('executed')")
    files = list(pictures.values())[:2]
    expected = mmret.Retriever.load(clip_folder, "cpu").encode(files, TEXTS)
    np.testing.assert_array_equal(mmret.Retriever.load(copy, "cpu").encode(files, TEXTS), expected)


def test_weights_in_torchs_own_format_beside_open_clips_are_taken(copy, clip_folder):
    """As LAION's repositories hold both."""
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    (copy / "open_clip_config.json").write_text("{}")
    (copy / "open_clip_pytorch_model.bin").write_bytes(b"open_clip's")
    expected = mmret.Retriever.load(clip_folder, "cpu").encode(texts=TEXTS)
    np.testing.assert_array_equal(mmret.Retriever.load(copy, "cpu").encode(texts=TEXTS), expected)
    for name in ("config.json", "pytorch_model.bin"):
        (copy / name).unlink()
    with pytest.raises(UserError, match="of open_clip alone: fetch the same model in transformers' format"):
        mmret.Retriever.load(copy)


def test_weights_of_another_model_are_not_filled_with_random_numbers(copy, triplets):
    """EVA-CLIP says that it is of type clip and names its weights otherwise."""
    weights = load_file(copy / "model.safetensors")
    other = {name.replace("self_attn.k_proj", "self_attn.key"): weight for name, weight in weights.items()}
    save_file(other, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"not those of a stock CLIPModel: 8 are missing, the first text_model.*k_proj.*EVA-CLIP"):
        mmret.Retriever.load(copy)
    with pytest.raises(UserError, match="not those of a stock CLIPModel"):
        EMBEDDERS["clip"].load(small("clip"), copy)


def test_a_longer_text_tower_and_other_widths_are_read_from_the_configuration(tmp_path):
    """Long-CLIP has 248 positions."""
    folder = make_clip(tmp_path / "long", width=48, projection=24)
    model = CLIPModel.from_pretrained(folder)
    model.config.text_config.max_position_embeddings = 248
    CLIPModel(model.config).save_pretrained(folder)
    retriever = mmret.Retriever.load(folder, "cpu")
    assert retriever.max_tokens == 248 and retriever.dim == 24
    longer = "make it green " * 15, "make it green " * 15 + "no hat"
    a, b = retriever.encode(texts=longer)
    assert np.abs(a - b).max() > 1e-4 and retriever.truncated == 0
    retriever.save(tmp_path / "saved")
    np.testing.assert_array_equal(mmret.Retriever.load(tmp_path / "saved", "cpu").encode(texts=longer), [a, b])


def test_a_missing_file_is_named(copy):
    for name, said in (("tokenizer.json", "tokenizer files"), ("model.safetensors", "model.safetensors")):
        (copy / name).unlink()
        with pytest.raises(UserError, match=said):
            mmret.Retriever.load(copy)
