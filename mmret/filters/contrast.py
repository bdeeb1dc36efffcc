"""How the small models of filters learn: a batch at a time, each row nearer to its own counterpart than to the others'.

Costs a backward pass over the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy


def contrast(scores: torch.Tensor, optimizers: Sequence[torch.optim.Optimizer], smoothing: float = 0.0) -> None:
    """One step: ``scores`` (n, n) of rows against counterparts, the right ones on the diagonal, in both directions.

    ``smoothing``: of the labels, where some of the counterparts may be wrong.
    """
    right = torch.arange(len(scores))
    loss = sum(cross_entropy(side, right, label_smoothing=smoothing) for side in (scores, scores.T))
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
