"""How much memory a pass of so many tokens takes, measured on the model itself: what ``chunk_tokens`` may be on a machine.

What a layer keeps for its backward pass depends on its activation function, on how attention is computed, on what of it is trained
and on checkpointing; a formula for one kind of layer is wrong by half for another. But for any of them it is a constant, so much
for each token, and so much for each pair of tokens of a row (masks, and where attention is not fused its matrix). Four small passes
say how much. Cost: those four passes, some tenths of a second on a tiny model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmret.retriever.train.gradcache import rng_state, set_rng_state

SHAPES = ((2, 6), (2, 12), (2, 20), (4, 6))
"""Rows and words of the passes that are measured."""
GRADIENTS = 2
"""A backward pass holds so many gradients of the largest kept tensor at a time, beside what is kept."""


@dataclass(frozen=True)
class ChunkMemory:
    """Bytes of a pass with its backward pass: ``fixed``, for each token, padding counted, for each token of a row times the longest
    row's tokens, for each picture that it shows, and for each row (of its last block, computed for one token alone)."""

    fixed: float
    token: float
    pair: float
    picture: float = 0.0
    row: float = 0.0

    def of(self, tokens: int, longest: int, pictures: int = 0) -> int:
        """Bytes of a pass of ``tokens``, padding counted, of which the longest row has ``longest``.

        >>> ChunkMemory(fixed=100, token=10, pair=0.5).of(64, 16)
        1252
        """
        return round(self.fixed + self._a_token(longest) * tokens + self.picture * pictures)

    def tokens_in(self, room: int, longest: int, pictures: int = 0) -> int:
        """The most tokens of a pass that takes ``room`` bytes, none where it has not even the rest.

        >>> ChunkMemory(fixed=100, token=10, pair=0.5).tokens_in(1252, 16)
        64
        """
        return max(0, int((room - self.fixed - self.picture * pictures) / self._a_token(longest)))

    def _a_token(self, longest: int) -> float:
        return self.token + self.pair * longest + self.row / longest


def measured(
    encode: Callable[[Any], torch.Tensor],
    sample: Callable[[int, int], tuple[Any, int]],
    model: Any,
    pictures: bool = False,
) -> ChunkMemory:
    """Of passes ``encode(chunk)`` of ``model``, in its own dtype; where it checkpoints gradients of passes that do not, which take
    more. ``sample(rows, words)`` gives a chunk of so many rows, the last of them shorter, and the tokens of its longest; with
    ``pictures`` each shows one. The state of random numbers stays as it is."""
    held = {p.untyped_storage().data_ptr() for p in model.parameters()}
    state, sizes, bytes_of, again = rng_state(), [], [], model.is_gradient_checkpointing
    if again:
        model.gradient_checkpointing_disable()
    for rows, words in SHAPES:
        chunk, longest = sample(rows, words)
        sizes.append([1, rows * longest, rows * longest**2, rows])
        bytes_of.append(_taken(lambda chunk=chunk: encode(chunk), held))
    if again:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    set_rng_state(state)
    found, *_ = np.linalg.lstsq(np.array(sizes, float), np.array(bytes_of, float), rcond=None)
    *others, a_row = np.maximum(found, 0.0).tolist()
    return ChunkMemory(*others, **{"picture" if pictures else "row": a_row})


def kept_bytes(call: Callable[[], torch.Tensor], parameters: Iterable[torch.nn.Parameter] = ()) -> int:
    """What the graph of ``call()`` keeps for its backward pass, each storage once, ``parameters`` left out."""
    return sum(_kept(call, {p.untyped_storage().data_ptr() for p in parameters})[0].values())


def _taken(call: Callable[[], torch.Tensor], held: set[int]) -> int:
    kept, largest = _kept(call, held)
    return sum(kept.values()) + GRADIENTS * largest


def _kept(call: Callable[[], torch.Tensor], held: set[int]) -> tuple[dict[int, int], int]:
    """Bytes of each storage that is kept, and of the largest tensor that has a gradient."""
    kept: dict[int, int] = {}
    largest = [0]

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
            if tensor.requires_grad:
                largest[0] = max(largest[0], tensor.numel() * tensor.element_size())
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = call()
    del made
    return kept, largest[0]


def step_memory(
    parameters: Sequence[torch.nn.Parameter], memory: ChunkMemory, tokens: int, longest: int, features: int = 0, pictures: int = 0
) -> int:
    """Bytes that a step takes beside weights and optimiser state: the gradients of the trained ``parameters`` (the largest of them
    once more while it is added to), ``features`` with their gradients, and a pass of ``tokens``, or of its longest row where that
    alone is beyond a budget."""
    sizes = [p.numel() * p.element_size() for p in parameters if p.requires_grad]
    return sum(sizes) + 2 * features + max(memory.of(max(tokens, longest), longest, pictures), max(sizes, default=0))
