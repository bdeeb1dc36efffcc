"""OpenVINO: its package, imported without its reporter, and encoders' graphs run by it.

It keeps a thread a core and computes each request on one of them, in float32. Costs its import, half a second.
"""

from __future__ import annotations

import sys
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

import numpy as np

from mmret.encode.engines import LEAVE
from mmret.errors import UserError

NEEDED = "OpenVINO export needs openvino, onnx and onnxscript: pip install 'mmret[openvino]'"
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
"""Without it OpenVINO takes bfloat16 where the processor has it."""


def load_openvino() -> ModuleType:
    """The package openvino, which would tell its makers of each import, asked or not: its reporter is kept out of this process.

    Raises UserError where it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # imports of it fail, for which openvino has a stand-in
    try:
        import openvino
    except ImportError as error:
        raise UserError(f"{NEEDED} ({error})") from None
    return openvino


def convert(openvino: ModuleType, onnx: Path, out: Path) -> None:
    """Write the graph in file ``onnx`` as OpenVINO's ``out`` (.xml) with a .bin beside it, its weights in float32 as they are."""
    openvino.save_model(openvino.Core().read_model(onnx), out, compress_to_fp16=False)


class OpenVino:
    """See :class:`mmret.encode.engines.Engine`."""

    name = "openvino"
    remedy = LEAVE
    share = 1.0

    def __init__(self):
        try:
            import onnx  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise UserError(f"{NEEDED} ({error})") from None
        self.package = load_openvino()

    def version(self) -> str:
        return self.package.__version__.partition("-")[0]

    def write(self, onnx: Path, folder: Path) -> None:
        convert(self.package, onnx, folder / "graph.xml")

    def load(self, folder: Path, cores: int) -> OpenVinoGraph:
        placed = {"NUM_STREAMS": cores, "INFERENCE_NUM_THREADS": cores, "ENABLE_CPU_PINNING": False}
        return OpenVinoGraph(self.package.Core().compile_model(folder / "graph.xml", "CPU", {**PRECISION, **placed}), cores)


class OpenVinoGraph:
    """See :class:`mmret.encode.engines.Graph`. A request holds the memory of one batch and serves one caller at a time."""

    def __init__(self, compiled: Any, cores: int):
        self._free: SimpleQueue = SimpleQueue()
        for _ in range(cores):
            self._free.put(compiled.create_infer_request())

    def features(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        request = self._free.get()
        try:
            return request.infer(inputs, share_inputs=True)["features"].copy()  # its own memory, which the next call writes to
        finally:
            self._free.put(request)
