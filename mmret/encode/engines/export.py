"""The network of an encoder as an ONNX file, of pictures or of texts.

Torch's exporter follows one call and writes down what it computes, for any number of rows, and of texts for any length. Cost:
seconds for a tiny network, 20 s for ViT-B/32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmret.encode.base import TorchEncoder
from mmret.encode.engines.onnx_graph import BATCH, write_onnx_graph
from mmret.errors import UserError


def export_images(encoder: TorchEncoder, pictures: Tensor, path: Path) -> None:
    """Write what ``encoder`` makes of pictures like ``pictures`` (n, 3, h, w), two at least, to ``path``; its input is
    ``pixel_values``, normalised. Raises UserError where torch cannot export the network."""
    pixels = encoder.preprocessing.normalise(pictures)
    _export(encoder, encoder.image_features, {"pixel_values": pixels}, {}, path)


def export_texts(encoder: TorchEncoder, texts: Sequence[str], path: Path) -> None:
    """The same of ``texts``, two at least and of different lengths; its inputs are the tensors of :meth:`TorchEncoder.tokens`."""
    read = encoder.tokens(list(texts))
    given = tensors(read)
    same = {name: value for name, value in read.items() if name not in given}  # of the prompt, not of the text
    lengths = {value.shape[1:] for text in texts for value in tensors(encoder.tokens([text])).values()}
    varies = {1: torch.export.Dim.DYNAMIC} if len(lengths) > 1 else {}

    def features(*values: Tensor) -> Tensor:
        return encoder.text_features(**dict(zip(given, values, strict=True)), **same)

    _export(encoder, features, given, varies, path)


def tensors(tokens: Mapping[str, Any]) -> dict[str, Tensor]:
    """Those of ``tokens`` that a graph is given."""
    return {name: value for name, value in tokens.items() if isinstance(value, Tensor)}


def _export(
    encoder: TorchEncoder, features: Callable[..., Tensor], example: Mapping[str, Tensor], varies: Mapping[int, Any], path: Path
) -> None:
    tower, shapes = _Tower(encoder.network, features), {"inputs": tuple({0: BATCH, **varies} for _ in example)}
    try:
        with _plain_attention(tower):
            write_onnx_graph(tower, list(example.values()), list(example), shapes, path)
    except OSError:  # a full disk has its own words
        raise
    except Exception as error:  # torch's exporter raises almost anything
        cause = error.__cause__ or error
        reason = str(cause).strip().partition("\n")[0][:200]
        raise UserError(
            f"the network of {encoder.model} cannot be exported ({type(cause).__name__}: {reason}): "
            "leave encoders.*.engine at torch"
        ) from error


class _Tower(nn.Module):
    """``features`` as a module that has the weights of ``network``, from which they come."""

    def __init__(self, network: nn.Module, features: Callable[..., Tensor]):
        super().__init__()
        self.network = network
        self._features = features

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._features(*inputs)


@contextmanager
def _plain_attention(tower: nn.Module) -> Iterator[None]:
    """Inside the block transformers' attention is plain products, which every engine has."""
    models = [module for module in tower.modules() if isinstance(module, PreTrainedModel)]
    before = [model.config._attn_implementation for model in models]
    try:
        for model in models:
            model.set_attn_implementation("eager")
        yield
    finally:
        for model, attention in zip(models, before, strict=True):
            model.set_attn_implementation(attention)
