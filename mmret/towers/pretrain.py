"""A training loop that a ``kill -9`` does not disturb: the run continues from its last checkpoint to the same weights.

Everything random in a step is drawn from (seed, step), and model, optimiser and losses are written together to a new file
that then replaces the old one. So the interrupted run and the uninterrupted one do the same arithmetic (bit for bit on the
same machine with the same number of threads). Cost: a checkpoint of the demo's towers is 10 MB, written in some 20 ms about
every 20 s.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmret.atomic import replacing
from mmret.encode.augment import seeded_generator
from mmret.errors import UserError
from mmret.optimizer import Muon, Optimizers, hidden_matrices

CHECKPOINT_SECONDS = 20.0


@dataclass(frozen=True)
class Plan:
    """One training run. ``key`` is a fingerprint of all that it depends on; a checkpoint with another key is ignored."""

    key: str
    steps: int
    learning_rate: float
    matrix_learning_rate: float | None = None
    """Peak rate of Muon, which trains the matrices that :func:`fit` is given; None: AdamW trains all."""
    warmup: float = 0.1
    weight_decay: float = 0.05
    clip_norm: float = 1.0

    def rate(self, step: int) -> float:
        """Learning rate at ``step`` as a share of its peak: a linear warm-up, then a cosine down to a hundredth."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def batch_rows(n: int, batch: int, step: int, seed: int, task: str) -> Tensor:
    """Row numbers of the batch at ``step``: every epoch has its own permutation of ``n`` rows, cut into whole batches.

    A batch has ``batch`` rows, or ``n`` where that is less.
    """
    batch = min(batch, n)
    epoch, at = divmod(step, n // batch)
    order = torch.randperm(n, generator=seeded_generator(seed, task, "epoch", epoch))
    return order[at * batch : (at + 1) * batch]


def fit(
    model: nn.Module,
    loss: Callable[[int], Tensor],
    plan: Plan,
    checkpoint: Path,
    report: Callable[[int], None] = lambda step: None,
    blocks: Iterable[nn.Module] = (),
) -> list[float]:
    """Minimise ``loss(step)``, a scalar tensor, over ``plan.steps`` steps; returns the loss of every step.

    ``checkpoint`` is the file that progress is saved to. A run continues from it if it has the key of ``plan``; the file
    is left in place at the end. ``blocks``: the transformer's blocks, whose matrices Muon trains where the plan has a rate for it.
    """
    optimizer = _optimizer(model, blocks, plan)
    peaks = [group["lr"] for group in optimizer.param_groups]
    losses = _resume(model, optimizer, plan, checkpoint)
    saved = time.monotonic()
    model.train()
    for step in range(len(losses), plan.steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * plan.rate(step)
        value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), plan.clip_norm))
        losses.append(value.item())
        if not (math.isfinite(losses[-1]) and math.isfinite(norm)):
            raise UserError(
                f"training of the towers stopped at step {step + 1} of {plan.steps}: the loss is {losses[-1]} and the gradient's "
                f"norm {norm}; lower towers.learning_rate (now {plan.learning_rate:g})"
                + (f" and towers.matrix_learning_rate (now {plan.matrix_learning_rate:g})" if plan.matrix_learning_rate else "")
            )
        optimizer.step()
        report(step + 1)
        if step + 1 == plan.steps or time.monotonic() - saved >= CHECKPOINT_SECONDS:
            _save(model, optimizer, plan, checkpoint, losses)
            saved = time.monotonic()
    model.eval()
    return losses


def _optimizer(model: nn.Module, blocks: Iterable[nn.Module], plan: Plan) -> Optimizers:
    hidden = list(hidden_matrices(blocks)) if plan.matrix_learning_rate else []
    inside = {id(parameter) for parameter in hidden}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in inside]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98), fused=True)]
    if hidden:
        parts.append(Muon(hidden, plan.matrix_learning_rate or plan.learning_rate, plan.weight_decay))
    return Optimizers(parts)


def _resume(model: nn.Module, optimizer: Optimizers, plan: Plan, checkpoint: Path) -> list[float]:
    if not checkpoint.is_file():
        return []
    state = torch.load(checkpoint, weights_only=True)
    if state["key"] != plan.key:
        return []
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["losses"]


def _save(model: nn.Module, optimizer: Optimizers, plan: Plan, checkpoint: Path, losses: list[float]) -> None:
    state = {"key": plan.key, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
    with replacing(checkpoint) as aside:
        torch.save(state, aside)
