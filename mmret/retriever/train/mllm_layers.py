"""The layers of a multimodal LLM that keep activations under training, for :func:`mmret.retriever.train.gradcache.fitting_chunk`.

Its vision tower reads several patches for every token that the LLM sees of a picture, so with large pictures it keeps more than the
LLM does. Counted from the configuration and one picture's pixels, because a pass of a model of billions of weights, which
:mod:`mmret.retriever.train.chunk_memory` measures, is not to be had before the model is on its devices. Costs nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from mmret.retriever.train.gradcache import NUMBERS_A_WIDTH

Layer = tuple[int, int, int]
"""Tokens, width and heads."""


def mllm_layers(model: Any, tokens: int, pixels: torch.Tensor, pictures: int, checkpointed: bool) -> list[Layer]:
    """What a row of ``tokens`` with so many ``pictures``, whose ``pixels`` are as the processor made them, keeps in ``model``.

    Every layer of the LLM, and of its vision tower if anything outside the LLM is trained; a tower whose attention keeps no matrix
    has no heads here. Of a model that checkpoints gradients one layer of either, as they are computed again one at a time, and
    every layer's input.
    """
    text, vision = model.config.get_text_config(), model.config.vision_config
    stacks = [([(tokens, text.hidden_size, text.num_attention_heads)], text.num_hidden_layers)]
    of_llm = {id(weight) for weight in model.get_decoder().parameters()}
    if any(weight.requires_grad and id(weight) not in of_llm for weight in model.parameters()):
        # transformers' families spell these in two ways; where there is an embed_dim, hidden_size is the LLM's
        width, heads = _first(vision, "embed_dim", "hidden_size"), _first(vision, "num_heads", "num_attention_heads")
        # of thousands of patches an attention matrix would be most of it, and only plain attention keeps one
        heads = heads if vision._attn_implementation == "eager" else 0
        tower = [(read, width, heads) for read in patches(vision, pixels, pictures)]
        stacks.append((tower, _first(vision, "depth", "num_hidden_layers")))
    if not checkpointed:
        return [layer for stack, depth in stacks for layer in stack * depth]
    inputs = [(read, math.ceil(depth * width / NUMBERS_A_WIDTH), 0) for stack, depth in stacks for read, width, _ in stack]
    return [layer for stack, _ in stacks for layer in stack] + inputs


def patches(vision: Any, pixels: torch.Tensor, pictures: int) -> list[int]:
    """Patches of each sequence that the vision tower attends within: of a crop, where ``pixels`` are crops (..., channels, height,
    width), else of a picture, where they are a row a patch.

    >>> from types import SimpleNamespace
    >>> patches(SimpleNamespace(patch_size=14, num_channels=3), torch.zeros(1, 5, 3, 28, 28), 1)
    [4, 4, 4, 4, 4]
    """
    channels, frames = _first(vision, "in_channels", "in_chans", "num_channels"), getattr(vision, "temporal_patch_size", 1)
    sequences = math.prod(pixels.shape[:-3]) if pixels.ndim > 3 else pictures
    return [math.ceil(pixels.numel() / (channels * vision.patch_size**2 * frames * sequences))] * sequences


def _first(config: Any, *names: str) -> int:
    return next(value for name in names if (value := getattr(config, name, None)) is not None)
