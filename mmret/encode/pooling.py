"""How the tokens of a vision tower become one vector: which ways a model offers, and which of them is the only sensible one.

``class_token``  the first token after the last norm, where the model has a class token
``mean``         the mean of the picture's tokens; class, distillation and register tokens are left out
``pooler``       the model's own pooled output, where its weights have it trained
``projection``   the image features of a model of two towers, in the space it shares with texts

Many checkpoints have no weights for the pooler of their class, which the library then fills with random numbers: it is not offered.
Costs two forward passes of one picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmret.errors import UserError
from mmret.settings.similarity import Pooling

PREFIX = ("cls_token", "class_token", "class_embedding", "distillation_token", "dist_token", "register_tokens", "reg_token")
"""Last names of the parameters that stand before a picture's tokens in the models of transformers and timm."""
CLASS = PREFIX[:3]

Pool = Callable[[Any], Tensor]
"""From a model's output to (n, width)."""


@dataclass(frozen=True)
class Poolings:
    """What a model offers; ``sensible``: the one to take where nobody says, None where there are several."""

    offered: dict[Pooling, Pool]
    sensible: Pooling | None

    def choose(self, wanted: Pooling | None) -> Pooling:
        """Raises UserError, which lists the choices, where ``wanted`` is none of them, or is None and several are sensible."""
        names = ", ".join(self.offered)
        if wanted is not None and wanted not in self.offered:
            raise UserError(f"it has no pooling '{wanted}', only {names}: correct encoders.*.pooling")
        if wanted is None and self.sensible is None:
            raise UserError(f"set encoders.*.pooling to one of {names}: the model does not say which")
        return wanted or self.sensible


@torch.inference_mode()
def poolings(network: nn.Module, pixels: Tensor, missing: Iterable[str]) -> Poolings:
    """What ``network`` offers, tried on ``pixels`` (1, 3, h, w) as it takes them.

    ``missing``: names of parameters that its weights lacked. Raises UserError for a model that gives one picture two vectors, as
    those that hide patches at random do, or that has no output of which a vector could be made.
    """
    if hasattr(network, "get_image_features"):
        return Poolings({"projection": lambda output: output.pooler_output.flatten(1)}, "projection")
    first, second = network(pixel_values=pixels), network(pixel_values=pixels)
    hidden = getattr(first, "last_hidden_state", None)
    if hidden is None or hidden.dim() not in (3, 4):
        raise UserError(f"{type(network).__name__} gives no tokens of a picture (last_hidden_state): it is no vision tower")
    if hidden.shape != second.last_hidden_state.shape or not torch.equal(hidden, second.last_hidden_state):
        raise UserError(f"{type(network).__name__} hides parts of a picture at random and gives it another vector each time")
    pooled = None if any("pooler" in name for name in missing) else getattr(first, "pooler_output", None)
    return _of_map(hidden, pooled) if hidden.dim() == 4 else _of_tokens(network, hidden, pooled)


def _of_map(hidden: Tensor, pooled: Tensor | None) -> Poolings:
    """Of a convolutional network, whose last output is (n, channels, h, w)."""
    offered: dict[Pooling, Pool] = {}
    if pooled is None or pooled.numel() == hidden.shape[1]:  # else the channels may come last
        offered["mean"] = lambda output: output.last_hidden_state.mean((2, 3))
    if pooled is not None:
        offered["pooler"] = lambda output: output.pooler_output.flatten(1)
    return Poolings(offered, "mean" if pooled is None else "pooler")


def _of_tokens(network: nn.Module, hidden: Tensor, pooled: Tensor | None) -> Poolings:
    """Of a transformer, whose last output is (n, tokens, width)."""
    special = {name.rpartition(".")[2]: value.numel() // hidden.shape[2] for name, value in network.named_parameters()}
    pools_first = pooled is not None and torch.equal(pooled, hidden[:, 0])
    before = max(int(pools_first), sum(count for name, count in special.items() if name in PREFIX))
    offered: dict[Pooling, Pool] = {}
    if pools_first or any(name in CLASS for name in special):
        offered["class_token"] = lambda output: output.last_hidden_state[:, 0]
    offered["mean"] = lambda output: output.last_hidden_state[:, before:].mean(1)
    if pooled is not None and not pools_first:
        offered["pooler"] = lambda output: output.pooler_output.flatten(1)
    if pools_first:
        return Poolings(offered, "class_token")
    if "class_token" in offered:
        return Poolings(offered, None)
    return Poolings(offered, "pooler" if "pooler" in offered else "mean")
