"""The optimisers that models are trained with here: AdamW, or Muon for the matrices inside a transformer's blocks.

Muon (Jordan et al. 2024; ``torch.optim.Muon``) makes each update of a matrix orthogonal, so that no direction of it is left
behind. In the short runs of a tower trained from scratch it needs a third of the steps of AdamW for the same recall
(docs/lab.md). It is for hidden matrices only: embeddings, projections into the shared space, gains and biases stay with AdamW.
Cost: 0.4 ms a matrix of width 96 and step, on one core.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

SMALL = 2**18
"""Numbers in a matrix up to which Muon's products are worth one thread only: 256 x 1,024."""


class Optimizers:
    """Several optimisers that take their steps together and are saved and restored as one."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]):
        self.parts = list(parts)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts, in order; a change of one counts."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        for part in self.parts:
            if isinstance(part, torch.optim.Muon):
                with _threads_for(part):
                    part.step()
            else:
                part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, state: Sequence[dict[str, Any]] | dict[str, Any]) -> None:
        """``state`` of :meth:`state_dict`, or of a single optimiser. Raises ValueError where it is of another number of parts."""
        states = [state] if isinstance(state, dict) else state
        for part, own in zip(self.parts, states, strict=True):
            part.load_state_dict(own)


@contextmanager
def _threads_for(part: torch.optim.Muon) -> Iterator[None]:
    """One thread where all matrices are small: a second one makes the products no faster and doubles what they cost."""
    before = torch.get_num_threads()
    if max(p.numel() for group in part.param_groups for p in group["params"]) <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def hidden_matrices(blocks: Iterable[nn.Module]) -> Iterator[nn.Parameter]:
    """The weights of the linear layers inside ``blocks``, those that Muon may train."""
    for block in blocks:
        for module in block.modules():
            if isinstance(module, nn.Linear):
                yield module.weight


def muon(matrices: Sequence[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.Muon:
    """Muon over ``matrices`` (each 2-D), its updates scaled to the size that AdamW's have at the same rate (Moonlight, arXiv
    2502.16982), so that rates of the two are of one kind."""
    return torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
