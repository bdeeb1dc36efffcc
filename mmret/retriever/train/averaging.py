"""The mean of a run's weights in the place of its last ones: after a share of the steps, or decaying with every step.

An average of the weights along one run is often the better model (stochastic weight averaging, arXiv 1803.05407). It is kept
beside the weights, in float32 at least, and changes nothing of how they are trained. The learning rate falls linearly to zero here,
so the last weights are near each other anyway: to first order, a mean from some share of the steps on is a run whose rate falls
with the square from there. Of adapters each of the two factors is averaged. Cost: one copy of the trained weights, in states too,
and a pass over it in every step that counts; while something is measured, one copy more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mmret.retriever.train.exchange import Exchange
from mmret.settings import Recipe


class Average:
    """The average of the parameters of ``model`` under training by a recipe's ``average_from`` or ``ema_decay``; without either
    nothing is kept and every method does nothing.

    ``count``: after how many steps weights were taken up. Where the model is divided each process averages its share.
    """

    def __init__(self, recipe: Recipe, model: torch.nn.Module, exchange: Exchange):
        self.begins = None if recipe.average_from is None else recipe.average_from * recipe.steps
        self.decay, self.exchange = recipe.ema_decay, exchange
        on = self.begins is not None or self.decay is not None
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad} if on else {}
        self.weights: dict[str, torch.Tensor] = {}
        self.count = 0

    @torch.no_grad()
    def take(self, step: int) -> None:
        """Take up the weights as they are after ``step`` steps.

        With ``ema_decay`` d the weights of n steps ago count d^n, and all together 1: those that training began from do not count.
        """
        if not self.parameters or (self.begins is not None and step <= self.begins):
            return
        self.count += 1
        rate = 1 / self.count if self.decay is None else (1 - self.decay) / (1 - self.decay**self.count)
        for name, parameter in self.parameters.items():
            now = parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))
            if self.count == 1:
                self.weights[name] = now.clone()
            else:
                self.weights[name].lerp_(now, rate)

    @torch.no_grad()
    def install(self) -> None:
        """Put the average in the place of the weights: training is over. Where no step counted yet they stay."""
        for name, average in self.weights.items():
            self.parameters[name].copy_(average)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within it the model has the average, behind it its weights again, bit for bit."""
        before = {name: self.parameters[name].detach().clone() for name in self.weights}
        self.install()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weights in before.items():
                    self.parameters[name].copy_(weights)

    def state(self) -> dict[str, Any]:
        """What a resumed run takes up, whole in the first process; empty where nothing is kept. All processes take part."""
        return {"average": {"count": self.count, "weights": self.exchange.whole(self.weights)}} if self.weights else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave, of whatever number of processes."""
        kept = state.get("average", {"count": 0, "weights": {}})
        self.count, self.weights = kept["count"], {}
        for name, value in kept["weights"].items():
            parameter = self.parameters[name].detach()
            like = parameter.to(torch.promote_types(parameter.dtype, torch.float32))
            self.weights[name] = self.exchange.divided(value, like).to(like.device)

    def facts(self) -> dict[str, Any]:
        """``averaged_steps``, and a note for readers; empty where nothing is averaged."""
        return {"averaged_steps": self.count} if self.parameters else {}

    def notes(self) -> list[str]:
        """What a reader of the checkpoint should know."""
        if not self.parameters:
            return []
        how = f", decaying by {self.decay:g} a step" if self.decay is not None else ""
        return [f"the weights are the mean of those after each of the last {self.count} steps{how}"]
