"""Contrastive gradients for batches that do not fit into memory (GradCache, arXiv 2101.06983).

The loss couples all samples, the towers do not. So: (1) embed every chunk without a graph, remembering the RNG state
it started from; (2) take the loss over all features and its gradient with respect to them; (3) embed each chunk
again, with its RNG state restored so that dropout falls the same way, and push the features' gradient through. The
gradient is the full batch's. Memory: one chunk's activations and all features. Cost: a second forward pass; where no
part has more than one chunk there is none. With several processes each embeds its own chunks, and features and their
gradients are exchanged at (2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmret.devices import free_memory
from mmret.retriever.train.parallel import SINGLE_PROCESS, Group

SHARE_OF_FREE_MEMORY = 1 / 3
"""That a chunk's activations may take: the rest is for gradients, features and the next step's pictures."""


@dataclass(frozen=True)
class Part:
    """Features to compute: ``encode(chunk)`` gives (rows of the chunk, dim); the features are those of all chunks in
    order. With several processes ``chunks`` are this one's share of ``total`` rows, and ``empty`` (0, dim) stands for
    the features of a process that has none."""

    encode: Callable[[Any], torch.Tensor]
    chunks: Sequence[Any]
    total: int = 0
    empty: torch.Tensor | None = None


def cached_backward(parts: Sequence[Part], loss_of: Callable[..., torch.Tensor], group: Group = SINGLE_PROCESS) -> torch.Tensor:
    """Accumulate the gradient of ``loss_of(features of part 0, features of part 1, ...)``; returns the detached loss,
    a scalar.

    With several processes ``loss_of`` is this process's addend, as is what is returned, and so is the gradient: the
    parameters' have yet to be added up (:meth:`Group.sum_gradients`).
    """
    at_once = all(len(part.chunks) <= 1 for part in parts)
    states, made = [], []
    with torch.set_grad_enabled(at_once):
        for part in parts:
            rows = []
            for chunk in part.chunks:
                states.append(rng_state())
                rows.append(part.encode(chunk))
            made.append(torch.cat(rows) if rows else part.empty)
    if at_once and group.size == 1:
        loss = loss_of(*made)
        loss.backward()
        return loss.detach()
    after = rng_state()
    features = [group.gather_rows(rows.detach(), part.total).requires_grad_() for part, rows in zip(parts, made, strict=True)]
    loss = loss_of(*features)
    gradients = [
        torch.zeros_like(rows) if gradient is None else gradient
        for rows, gradient in zip(features, torch.autograd.grad(loss, features, allow_unused=True), strict=True)
    ]
    group.sum(gradients)
    replay = iter(states)
    for part, rows, gradient in zip(parts, made, gradients, strict=True):
        own = gradient[group.share(len(gradient))] if group.size > 1 else gradient
        start = 0
        for chunk in part.chunks:
            if not at_once:
                set_rng_state(next(replay))
                rows = part.encode(chunk)
            if rows.requires_grad:
                rows.backward(own[start : start + len(rows)])
            start += len(rows)
    set_rng_state(after)
    return loss.detach()


def rng_state() -> list[torch.Tensor]:
    """State of torch's CPU generator, and of this process's CUDA device where there is one."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]


def set_rng_state(state: list[torch.Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state(state[1])


def fitting_chunk(device: torch.device, itemsize: int, layers: Iterable[tuple[int, int, int]]) -> int:
    """Rows whose activations take a third of the memory that is free on ``device``, a power of two.

    ``layers``: (tokens, width, heads) of every layer that keeps its activations, of ``itemsize`` bytes a number. A
    transformer layer keeps about 34 * width + 5 * heads * tokens numbers per token for its backward pass (arXiv
    2205.05198).
    """
    numbers = sum(tokens * (34 * width + 5 * heads * tokens) for tokens, width, heads in layers)
    return 2 ** int(math.log2(max(1.0, SHARE_OF_FREE_MEMORY * free_memory(device) / max(1, numbers * itemsize))))
