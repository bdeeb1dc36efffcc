"""A torch module as an ONNX file, by torch's exporter: for published retrievers, and for the engines that run encoders.

Every engine reads what is written here; OpenVINO turns it into files of its own. Cost: seconds for a tiny model, 20 s for ViT-B/32.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmret.encode.quiet import silence

OPSET = 18
BATCH = torch.export.Dim("batch", min=1, max=4096)


def write_onnx_graph(
    module: nn.Module, example: Sequence[Tensor], inputs: Sequence[str], shapes: Mapping[str, Mapping[int, Any]], path: Path
) -> None:
    """Write ``module`` to ``path``, called with ``example``; its output is named ``features``.

    ``inputs``: names of the arguments of ``forward`` and of the graph; ``shapes``: by name, which of its dimensions may vary.
    Raises what torch's exporter raises.
    """
    with torch.no_grad(), silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own parts
        torch.onnx.export(
            module.eval(),
            tuple(example),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["features"],
            dynamic_shapes=shapes,
            external_data=_large(module),
            verbose=False,
        )


def _large(module: nn.Module) -> bool:
    """Whether the weights go into a file of their own: a protobuf holds 2 GB at most."""
    return sum(p.numel() * p.element_size() for p in module.parameters()) > 1.5 * 2**30
