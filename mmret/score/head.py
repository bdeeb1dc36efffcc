"""A head on stored vectors: linear layers in one safetensors file, as LAION's aesthetic predictors are; no picture is decoded.

Layers are the file's two-dimensional tensors in the order of the numbers in their names, each with the bias of its name. Cost: the
vectors of a shard, and a product.
"""

from __future__ import annotations

import re

import numpy as np

from mmret.encode.revision import folder_revision
from mmret.errors import UserError
from mmret.paths import local_path
from mmret.settings import ScorerSettings


class Head:
    """A linear map or an MLP from unit vectors to one number; ``model`` names it with the digest of its weights.

    >>> Head("aesthetic", settings)(vectors)
    """

    def __init__(self, name: str, settings: ScorerSettings):
        from safetensors import SafetensorError
        from safetensors.torch import load_file  # NumPy has no bfloat16

        path = local_path(settings.model or "", f"scores.{name}.model")
        if not path.is_file():
            raise UserError(f"scores.{name}.model: no file {path}; a head is a .safetensors file of linear layers")
        try:
            tensors = {key: tensor.float().numpy() for key, tensor in load_file(path).items()}
        except (SafetensorError, ValueError) as error:
            raise UserError(
                f"scores.{name}.model: {path} is no safetensors file ({error}); weights of other formats (.pt, .pth) can run code: "
                "convert them once with safetensors.torch.save_file"
            ) from None
        weights = sorted((k for k, v in tensors.items() if v.ndim == 2), key=_order)
        if not weights:
            raise UserError(f"scores.{name}.model: {path} has no linear layer: found {', '.join(tensors) or 'nothing'}")
        self.layers = [(tensors[k], tensors.get(_bias(k), np.zeros(len(tensors[k]), np.float32))) for k in weights]
        for key, (weight, bias) in zip(weights, self.layers, strict=True):
            if bias.shape != weight.shape[:1]:
                raise UserError(f"scores.{name}.model: {_bias(key)} of {path} has shape {bias.shape}, and {key} {weight.shape}")
        for (one, _), (other, _) in zip(self.layers[:-1], self.layers[1:], strict=True):
            if one.shape[0] != other.shape[1]:
                raise UserError(f"scores.{name}.model: the layers of {path} do not fit: {one.shape} before {other.shape}")
        if settings.column >= len(self.layers[-1][0]):
            raise UserError(f"scores.{name}.column: the head has {len(self.layers[-1][0])} outputs, counted from 0")
        self.name, self.settings, self.width = name, settings, self.layers[0][0].shape[1]
        self.model = f"{path.name}@{folder_revision(path)}+{settings.activation}+{settings.output}[{settings.column}]"

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """(n, width) unit vectors to (n,) float32. Raises UserError where the head was made for vectors of another width."""
        if vectors.shape[1] != self.width:
            raise UserError(
                f"scores.{self.name}: the head reads vectors of {self.width} numbers, and those of clip_image have "
                f"{vectors.shape[1]}: take the head that was made for the model in encoders.clip_image"
            )
        found = vectors.astype(np.float32)
        for at, (weight, bias) in enumerate(self.layers):
            found = found @ weight.T + bias
            if at + 1 < len(self.layers) and self.settings.activation == "relu":
                found = np.maximum(found, 0)
        if self.settings.output == "softmax":
            found = np.exp(found - found.max(axis=1, keepdims=True))
            found /= found.sum(axis=1, keepdims=True)
        value = found[:, self.settings.column]
        return 1 / (1 + np.exp(-value)) if self.settings.output == "sigmoid" else value


def _bias(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"


def _order(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]
