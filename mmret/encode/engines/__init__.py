"""What runs the forward pass of an encoder on a CPU in torch's place: ONNX Runtime and OpenVINO, each from the same export.

A graph is computed by the thread that calls it, or by one that the engine keeps for it, never by more: whole batches go to the
cores, as with torch (:mod:`mmret.encode.stream`).
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

LEAVE = "leave encoders.*.engine at torch"


class Graph(Protocol):
    """A compiled forward pass."""

    def features(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Un-normalised features (n, width) float32 of the graph's inputs by name; safe to call from many threads."""


class Engine(Protocol):
    """A library that runs graphs."""

    name: ClassVar[str]
    remedy: ClassVar[str]
    """What to do where its vectors come out otherwise than torch's."""
    share: ClassVar[float]
    """Of the difference allowed, how much the few rows compared may take: 1 in float32, less where other rows differ by more."""

    def __init__(self):
        """Raises UserError that names the extra where a package is missing."""

    def version(self) -> str: ...

    def write(self, onnx: Path, folder: Path) -> None:
        """Put into ``folder`` what :meth:`load` reads, made of the graph in file ``onnx``."""

    def load(self, folder: Path, cores: int) -> Graph:
        """The graph in ``folder``, for ``cores`` threads at the same time. Raises what the library raises for files that it cannot
        read."""


ENGINES = {
    "onnxruntime": "mmret.encode.engines.onnx_runtime:OnnxRuntime",
    "openvino": "mmret.encode.engines.open_vino:OpenVino",
    "openvino-mixed": "mmret.encode.engines.bfloat16:MixedOpenVino",
}
"""Where the implementation of ``EncoderSettings.engine`` lies, with a precision other than float32 behind it; torch needs none."""


def engine_of(name: str, precision: str = "float32") -> Engine:
    """Raises UserError that names the extra where a package is missing, and where the processor lacks the precision."""
    module, _, kind = ENGINES[name if precision == "float32" else f"{name}-{precision}"].partition(":")
    return getattr(import_module(module), kind)()
