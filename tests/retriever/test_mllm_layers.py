"""Invariants: a chunk that is chosen to fit has room for what a pass keeps, of the vision tower and of the LLM, for every
family of models, in retrievers and rerankers."""

from __future__ import annotations

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
from tests.retriever.mllm_folders import language, llava_next, qwen2_5_vl, qwen2_vl, qwen2_vl_of, qwen3_vl, with_answers
from tests.retriever.runs import small

FREE = 2**28


def a_large_tower(folder: Path) -> Path:
    """A vision tower that keeps several times what the LLM does, as published ones do of large pictures."""
    return qwen2_vl_of(folder, language(16), {"depth": 16, "embed_dim": 256, "num_heads": 4, "mlp_ratio": 4}, side=112)


FAMILIES = [llava_next, qwen2_vl, qwen2_5_vl, qwen3_vl]


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
    config = MllmEmbedder.load(small("mllm", chunk_size=2), qwen3_vl(tmp_path)).model.config
    of_a_patch = 3 * 2 * config.vision_config.patch_size**2
    two_pictures = torch.zeros(2 * 64, of_a_patch)
    for attention, heads in (("sdpa", 0), ("eager", 2)):
        config.vision_config._attn_implementation = attention
        llm, tower = (50, 32, 2), (64, 16, heads)
        assert mllm_layers(config, 50, two_pictures, 2, checkpointed=False) == [llm] * 2 + [tower] * 4
        assert mllm_layers(config, 50, two_pictures, 2, checkpointed=True) == [llm, tower, tower]


def test_larger_pictures_make_a_rerankers_chunk_smaller(tmp_path):
    recipe = small("reranker", chunk_size=None)
    made = MllmRerankerUnderTraining.begin(recipe, with_answers(a_large_tower(tmp_path)), SINGLE_PROCESS)
    config, blank = made.model.config, made.retriever.blank(True, True)
    assert patches(config.vision_config, blank["pixel_values"], 2) == [64, 64]
    llm_alone = config.get_text_config().num_hidden_layers * [(blank["input_ids"].shape[1] + 64, 32, 2)]
    assert made.chunks[0] < gradcache.fitting_chunk(made.model.device, made.model.dtype.itemsize, llm_alone) / 3
