"""Invariants: what four small passes say of a model holds for passes of other shapes, whatever the family; a step's estimate has
what it adds up; measuring leaves gradients, random numbers and checkpointing as they were."""

from __future__ import annotations

import pytest
import torch

from mmret.retriever.models.clip import ClipRetriever
from mmret.retriever.train.chunk_memory import GRADIENTS, ChunkMemory, _kept, step_memory
from mmret.retriever.train.clip import ClipEmbedder
from mmret.retriever.train.mllm import MllmEmbedder
from tests.retriever.mllm_folders import qwen2_vl
from tests.retriever.runs import small


def taken(model, encode, chunk) -> int:
    kept, largest = _kept(lambda: encode(chunk), {p.untyped_storage().data_ptr() for p in model.parameters()})
    return sum(kept.values()) + GRADIENTS * largest


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_a_pass_of_texts_keeps_is_foreseen_for_any_rows_and_lengths(clip_folder, checkpointing):
    recipe = small("clip", trainable="text", chunk_tokens=64, gradient_checkpointing=checkpointing)
    made = ClipEmbedder(recipe, ClipRetriever.load(clip_folder, "cpu"))
    state = torch.get_rng_state()
    memory = made.text_memory()
    assert torch.equal(torch.get_rng_state(), state) and all(p.grad is None for p in made.model.parameters())
    assert made.model.is_gradient_checkpointing == checkpointing
    made.model.gradient_checkpointing_disable()
    begin, end = made.retriever.tokens([""])[0]
    for rows, longest in ((3, 10), (9, 17), (20, 5), (6, 24), (300, 4), (40, 24)):
        texts = [[begin] * (longest - 1) + [end] for _ in range(rows - 1)] + [[begin, end]]
        found = taken(made.model, made.retriever.token_features, texts)
        assert memory.of(rows * longest, longest) == pytest.approx(found, rel=0.03), (rows, longest)
    assert memory.token > 0 and memory.picture == 0


@pytest.mark.parametrize("pictures", [False, True])
def test_what_a_pass_of_prompts_keeps_is_foreseen_with_pictures_and_without(tmp_path, pictures):
    made = MllmEmbedder.load(small("mllm", chunk_tokens=64), qwen2_vl(tmp_path))
    memory = made.prompt_memory(pictures)
    picture = made.retriever.pictures([torch.zeros(80, 80, 3, dtype=torch.uint8).numpy()])[0]
    for rows, words in ((3, 4), (8, 30), (5, 60)):
        shown = [picture if pictures else None] * rows
        prompts = [made.retriever.prompt.fill(" a" * (words if row else 2), pictures, "find a picture") for row in range(rows)]
        longest = max(map(len, made.shared.ids(prompts, shown)))
        found = taken(made.model, made.features, (prompts, shown))
        assert memory.of(rows * longest, longest, rows * pictures) == pytest.approx(found, rel=0.05), (rows, words)


def test_a_steps_estimate_by_hand():
    memory = ChunkMemory(fixed=100, token=10, pair=0.5, picture=7, row=32)
    assert memory.of(64, 16, pictures=2) == 100 + 640 + 512 + 14 + 4 * 32
    assert memory.tokens_in(memory.of(64, 16), 16) == 64 and memory.tokens_in(50, 16) == 0
    frozen = torch.nn.Parameter(torch.zeros(1000), requires_grad=False)
    trained = [torch.nn.Parameter(torch.zeros(5)), torch.nn.Parameter(torch.zeros(3)), frozen]
    assert step_memory(trained, memory, 64, 16, features=9) == 8 * 4 + 18 + memory.of(64, 16)
    assert step_memory(trained, memory, 64, 80) == 8 * 4 + memory.of(80, 80)  # a row beyond the budget
    many = [torch.nn.Parameter(torch.zeros(10**6))]
    assert step_memory(many, memory, 64, 16) == 2 * 4 * 10**6  # its gradient, and what is added to it
