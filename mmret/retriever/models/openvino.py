"""Two towers, CLIP's or SigLIP's, as two OpenVINO graphs: ``image.xml`` and ``text.xml`` with ``.bin``s, and ``openvino.json``.

:mod:`mmret.retriever.models.graphs` has what an export is. The graphs are read from the ONNX ones, which are written for it
and not kept. Cost: a second more than ONNX for a tiny model.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mmret.encode.engines.open_vino import NEEDED, PRECISION, convert, load_openvino
from mmret.errors import UserError
from mmret.retriever.models.graphs import Engine, GraphRetriever, export_graphs
from mmret.retriever.models.onnx import write_onnx_graphs
from mmret.retriever.models.two_towers import TwoTowerRetriever


class OpenvinoRetriever(GraphRetriever):
    """An exported folder under OpenVINO: the same ``encode`` as :class:`TwoTowerRetriever`."""

    info = "openvino.json"
    made_by = "mmret export-onnx --format openvino"

    def __init__(self, folder: str | Path, device: str = "CPU"):
        """Raises UserError without OpenVINO, and for a folder that is no export."""
        core = load_openvino().Core()
        super().__init__(folder)
        self._compiled = {name: core.compile_model(self.folder / f"{name}.xml", device, PRECISION) for name in ("image", "text")}

    def features(self, graph: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._compiled[graph](inputs)["features"].copy()  # the engine's own memory, written again by the next call


def export_openvino(folder: str | Path, out: Path) -> dict[str, Any]:
    """Write the checkpoint of two towers in ``folder`` to folder ``out``; returns what ``openvino.json`` holds.

    Raises UserError as :func:`mmret.retriever.models.onnx.export_onnx` does.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{NEEDED} ({error})") from None
    version = load_openvino().__version__.partition("-")[0]
    return export_graphs(folder, out, Engine("OpenVINO", _write, OpenvinoRetriever, {"openvino": version}))


def _write(retriever: TwoTowerRetriever, folder: Path) -> None:
    openvino = load_openvino()
    with TemporaryDirectory(dir=folder) as between:
        write_onnx_graphs(retriever, Path(between))
        for name in ("image", "text"):
            convert(openvino, Path(between) / f"{name}.onnx", folder / f"{name}.xml")
