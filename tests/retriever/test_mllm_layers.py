"""Invariants: a chunk that is chosen to fit has room for what a pass keeps, of the vision tower and of the LLM, for every
family of models, in retrievers and rerankers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mmret.retriever.train import gradcache
from mmret.retriever.train.chunk_memory import kept_bytes
from mmret.retriever.train.mllm import MllmEmbedder
from mmret.retriever.train.mllm_layers import mllm_layers, patches
from mmret.retriever.train.parallel import SINGLE_PROCESS
from mmret.retriever.train.reranker import MllmRerankerUnderTraining
from tests.retriever.mllm_folders import (
    language,
    llava_next,
    qwen2_5_vl,
    qwen2_vl,
    qwen2_vl_of,
    qwen3_vl,
    qwen3_vl_moe,
    with_answers,
)
from tests.retriever.runs import small

FREE = 2**29


def a_large_tower(folder: Path) -> Path:
    """A vision tower that keeps several times what the LLM does, as published ones do of large pictures."""
    return qwen2_vl_of(folder, language(16), {"depth": 16, "embed_dim": 256, "num_heads": 4, "mlp_ratio": 4}, side=112)


FAMILIES = [llava_next, qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_vl_moe]


@pytest.fixture(autouse=True)
def free_memory(monkeypatch):
    monkeypatch.setattr(gradcache, "free_memory", lambda device: FREE)


@pytest.mark.parametrize("family", [*FAMILIES, a_large_tower])
def test_a_chosen_chunk_has_room_for_what_its_pass_keeps(tmp_path, family):
    made = MllmEmbedder.load(small("mllm"), family(tmp_path))
    rows, _ = made.chunks
    picture = made.retriever.pictures([np.zeros((600, 600, 3), np.uint8)])[0]
    prompts = [made.retriever.prompt.fill(" a" * 64, True, made.composed_instruction)] * rows
    kept = kept_bytes(lambda: made.features((prompts, [picture] * rows)), made.model.parameters())
    assert FREE / 40 < kept < FREE * gradcache.SHARE_OF_FREE_MEMORY


@pytest.mark.parametrize("family", FAMILIES)
def test_patches_are_those_that_the_vision_tower_reads(tmp_path, family):
    made = MllmEmbedder.load(small("mllm", chunk_size=2), family(tmp_path))
    vision, read = made.model.config.vision_config, []
    tower = made.model.get_submodule("model.vision_tower" if family is llava_next else "model.visual")
    attention = next(module for name, module in tower.named_modules() if name.endswith(("attn", "self_attn")))
    attention.register_forward_pre_hook(
        lambda module, args, kwargs: read.append((args or (kwargs["hidden_states"],))[0]), with_kwargs=True
    )
    prompts, shown = made.filled(None, shows=True)
    inputs = made.retriever.inputs(prompts, shown)
    made.retriever.hidden(inputs)
    sequences = read[0].shape[0] if read[0].ndim == 3 else 1
    of_class = 1 if family is llava_next else 0  # CLIP's class token
    assert patches(vision, inputs["pixel_values"], 1) == [read[0].shape[-2] - of_class] * sequences


def test_layers_by_hand(tmp_path):
    model = MllmEmbedder.load(small("mllm", chunk_size=2), qwen3_vl(tmp_path)).model
    two_pictures = torch.zeros(2 * 64, 3 * 2 * model.config.vision_config.patch_size**2)
    for attention, heads in (("sdpa", 0), ("eager", 2)):
        model.config.vision_config._attn_implementation = attention
        llm, tower = (50, 32, 2), (64, 16, heads)
        assert mllm_layers(model, 50, two_pictures, 2, checkpointed=False) == [llm] * 2 + [tower] * 4
        inputs = [(50, 2, 0), (64, 1, 0), (64, 1, 0)]  # of 2 layers, 64 and 32 numbers a token: 2 / 34 and 1 / 34, rounded up
        assert mllm_layers(model, 50, two_pictures, 2, checkpointed=True) == [llm, tower, tower, *inputs]


def test_a_vision_tower_without_adapters_keeps_nothing_and_is_not_counted(tmp_path):
    of_llm = small("mllm", chunk_size=2, lora={"target_modules": ["q_proj", "v_proj"]})
    made = MllmEmbedder.load(of_llm, qwen3_vl(tmp_path))
    assert not any(weight.requires_grad for name, weight in made.model.named_parameters() if "visual" in name)
    pixels = made.retriever.inputs(*made.filled(None, shows=True))["pixel_values"]
    assert mllm_layers(made.model, 50, pixels, 1, checkpointed=False) == [(50, 32, 2)] * 2


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("kind", ["mllm", "reranker"])
def test_the_chunk_is_that_of_the_longest_row_with_all_its_pictures(tmp_path, kind, checkpointed):
    recipe = small(kind, chunk_size=None, gradient_checkpointing=checkpointed)
    if kind == "mllm":
        made = MllmEmbedder.load(recipe, a_large_tower(tmp_path))
        bare = made.retriever.overhead(True, made.composed_instruction)
    else:
        made = MllmRerankerUnderTraining.begin(recipe, with_answers(a_large_tower(tmp_path)), SINGLE_PROCESS)
        bare = made.retriever.blank(True, True)["input_ids"].shape[1]
        assert bare > made.retriever.blank(True, False)["input_ids"].shape[1] + 8
    llm, tower = (bare + 64, 32, 2), (64, 256, 0)
    towers = [tower] * (1 if kind == "mllm" else 2)
    layers = [llm] * 2 + towers * 16
    if checkpointed:
        layers = [llm, *towers, (bare + 64, 2, 0), *[(64, 121, 0) for _ in towers]]  # 2 * 32 / 34 and 16 * 256 / 34
    numbers = sum(tokens * (34 * width + 5 * heads * tokens) for tokens, width, heads in layers)
    assert made.chunks[0] == 2 ** math.floor(math.log2(FREE / 3 / 4 / numbers)) > 1
