"""The optimisers that models are trained with here: AdamW, or Muon for the matrices inside a transformer's blocks.

Muon (Jordan et al. 2024) makes each update of a matrix orthogonal, so that no direction of it is left behind. Towers trained from
scratch learn more from the same number of steps by it; by how much is in docs/lab.md. It is for hidden matrices only: embeddings,
projections into the shared space, gains and biases stay with AdamW. ``torch.optim.Muon`` is not used because its products are
bfloat16, which processors without such instructions emulate at tens of times the cost; here they are float32, and matrices of one
shape go through them together. Cost: 0.3 ms a matrix of width 96 and step, on two
cores.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS, _ITERATIONS, _MOMENTUM = (3.4445, -4.7750, 2.0315), 5, 0.95


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum 0.95 over ``matrices``, each 2-D.

    Updates have the size that AdamW's have at the same rate, 0.2 a number (Moonlight, arXiv 2502.16982), so that rates of the two
    are of one kind. ``weight_decay`` is decoupled, as in AdamW. Raises ValueError for a parameter that is no matrix.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], lr: float, weight_decay: float = 0.0):
        if any(matrix.ndim != 2 for matrix in matrices):
            raise ValueError("Muon trains matrices only")
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            for shape, matrices in by_shape.items():
                updates = orthogonal(torch.stack([self._with_momentum(matrix) for matrix in matrices]))
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.to(matrix.dtype), alpha=-rate)

    def _with_momentum(self, matrix: nn.Parameter) -> Tensor:
        state, gradient = self.state[matrix], matrix.grad.float()  # type: ignore[union-attr]
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        return gradient.lerp(state["momentum"].lerp_(gradient, 1 - _MOMENTUM), _MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices to ``matrices`` (n, rows, columns) float32 whose singular values are all about 1 (0.7 to 1.2), by five
    Newton-Schulz iterations; a matrix of zeros stays one."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


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
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, state: Sequence[dict[str, Any]] | dict[str, Any]) -> None:
        """``state`` of :meth:`state_dict`, or of a single optimiser. Raises ValueError where it is of another number of parts."""
        states = [state] if isinstance(state, dict) else state
        for part, own in zip(self.parts, states, strict=True):
            part.load_state_dict(own)


def hidden_matrices(blocks: Iterable[nn.Module]) -> Iterator[nn.Parameter]:
    """The weights of the linear layers inside ``blocks``, those that Muon may train."""
    for block in blocks:
        for module in block.modules():
            if isinstance(module, nn.Linear):
                yield module.weight
