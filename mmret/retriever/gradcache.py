"""Contrastive gradients for batches that do not fit into memory (GradCache, arXiv 2101.06983).

The loss couples all samples, the towers do not. So: (1) embed every chunk without a graph, remembering the RNG state
it started from; (2) take the loss over all features and its gradient with respect to them; (3) embed each chunk
again, with its RNG state restored so that dropout falls the same way, and push the features' gradient through. The
gradient is the full batch's. Memory: one chunk's activations and all features. Cost: a second forward pass; with one
chunk in all there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from transformers import CLIPModel

from mmret.settings import Recipe


@dataclass(frozen=True)
class Part:
    """Features to be made: ``encode(chunk)`` gives (rows of the chunk, dim); the features are those of all chunks in
    order."""

    encode: Callable[[Any], torch.Tensor]
    chunks: Sequence[Any]


def cached_backward(parts: Sequence[Part], loss_of: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Accumulate the gradient of ``loss_of(features of part 0, features of part 1, ...)``; returns the detached loss,
    a scalar."""
    if all(len(part.chunks) == 1 for part in parts):
        loss = loss_of(*(part.encode(part.chunks[0]) for part in parts))
        loss.backward()
        return loss.detach()
    states, features = [], []
    with torch.no_grad():
        for part in parts:
            rows = []
            for chunk in part.chunks:
                states.append(rng_state())
                rows.append(part.encode(chunk))
            features.append(torch.cat(rows).requires_grad_())
    after = rng_state()
    loss = loss_of(*features)
    gradients = torch.autograd.grad(loss, features, allow_unused=True)
    replay = iter(states)
    for part, gradient in zip(parts, gradients, strict=True):
        start = 0
        for chunk in part.chunks:
            set_rng_state(next(replay))
            rows = part.encode(chunk)
            if gradient is not None and rows.requires_grad:
                rows.backward(gradient[start:start + len(rows)])
            start += len(rows)
    set_rng_state(after)
    return loss.detach()


def rng_state() -> list[torch.Tensor]:
    """State of torch's CPU generator and of every CUDA device's."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def set_rng_state(state: list[torch.Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])


def fitting_chunk(model: CLIPModel, recipe: Recipe) -> tuple[int, int]:
    """Images and texts in one chunk: the recipe's ``chunk_size``, or as many as a third of the free memory takes (a
    power of two).

    A transformer layer keeps about 34 * width + 5 * heads * tokens numbers per token for its backward pass (arXiv
    2205.05198).
    """
    if recipe.chunk_size is not None:
        return recipe.chunk_size, recipe.chunk_size
    free = torch.cuda.mem_get_info()[0] if model.device.type == "cuda" else psutil.virtual_memory().available
    vision, text = model.config.vision_config, model.config.text_config
    patches = (vision.image_size // vision.patch_size) ** 2
    blocks = {"all": vision.num_hidden_layers, "text+blocks": min(recipe.image_blocks, vision.num_hidden_layers)}
    sizes = []
    for config, tokens, layers in ((vision, patches + 1, blocks.get(recipe.trainable, 1)),
                                   (text, text.max_position_embeddings, text.num_hidden_layers)):
        numbers = layers * tokens * (34 * config.hidden_size + 5 * config.num_attention_heads * tokens)
        fitting = free / 3 / (numbers * model.dtype.itemsize)
        sizes.append(2 ** int(math.log2(max(1.0, fitting))))
    return sizes[0], sizes[1]
