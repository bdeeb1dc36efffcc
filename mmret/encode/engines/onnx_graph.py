"""A torch module as an ONNX file, by torch's exporter: for published retrievers, and for the engines that run encoders.

Every engine reads what is written here; OpenVINO turns it into files of its own. Cost: seconds for a tiny model, 20 s for ViT-B/32.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmret.encode.quiet import silence

OPSET = 18
BATCH = torch.export.Dim("batch", min=1, max=4096)


def write_onnx_graph(
    module: nn.Module, example: Sequence[Tensor], inputs: Sequence[str], shapes: Mapping[str, Any], path: Path
) -> None:
    """Write ``module`` to ``path``, called with ``example``; its output is named ``features``.

    ``inputs``: the graph's names of what ``forward`` is given; ``shapes``: by argument of ``forward``, which dimensions may vary.
    Raises what torch's exporter raises.
    """
    with torch.no_grad(), silence(), _quiet_loggers(), warnings.catch_warnings():
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


@contextmanager
def _quiet_loggers() -> Iterator[None]:
    """Inside the block the exporter does not tell of its attempts: what fails is raised."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _large(module: nn.Module) -> bool:
    """Whether the weights go into a file of their own: a protobuf holds 2 GB at most."""
    return sum(p.numel() * p.element_size() for p in module.parameters()) > 1.5 * 2**30
