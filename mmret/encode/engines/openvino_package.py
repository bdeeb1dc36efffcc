"""The package openvino, imported without its reporter, and how the project compiles with it. Costs its import, half a second."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

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
