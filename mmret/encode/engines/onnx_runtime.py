"""ONNX Runtime for encoders' graphs, each run on the thread that asks. Costs the import of the package, half a second."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from mmret.encode.engines import LEAVE
from mmret.errors import UserError

NEEDED = "encoders of engine onnxruntime need onnx, onnxscript and onnxruntime: pip install 'mmret[onnx]'"


class OnnxRuntime:
    """See :class:`mmret.encode.engines.Engine`."""

    name = "onnxruntime"
    remedy = LEAVE
    share = 1.0

    def __init__(self):
        try:
            import onnx  # noqa: F401
            import onnxruntime
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise UserError(f"{NEEDED} ({error})") from None
        self.package = onnxruntime

    def version(self) -> str:
        return self.package.__version__

    def write(self, onnx: Path, folder: Path) -> None:
        for path in onnx.parent.glob(f"{onnx.name}*"):  # the weights of a large one lie beside it
            shutil.move(path, folder / path.name)

    def load(self, folder: Path, cores: int) -> OnnxGraph:
        options = self.package.SessionOptions()
        options.log_severity_level = 4  # what it cannot read is made anew, and said if that fails too
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        (path,) = folder.glob("*.onnx")
        return OnnxGraph(self.package.InferenceSession(path, options, providers=["CPUExecutionProvider"]))


class OnnxGraph:
    """See :class:`mmret.encode.engines.Graph`."""

    def __init__(self, session: Any):
        self._session = session

    def features(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._session.run(["features"], inputs)[0]
