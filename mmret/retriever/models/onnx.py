"""Two towers, CLIP's or SigLIP's, as two ONNX graphs: ``image.onnx`` and ``text.onnx``, with ``onnx.json`` beside them.

:mod:`mmret.retriever.models.graphs` has what an export is, and its cost; here are what is exported and onnxruntime.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmret.encode.engines.onnx_graph import BATCH, OPSET, write_onnx_graph
from mmret.errors import UserError
from mmret.retriever.models.graphs import TOLERANCE, Engine, GraphRetriever, export_graphs
from mmret.retriever.models.two_towers import TwoTowerRetriever, feature_tensor

__all__ = ["OPSET", "TOLERANCE", "OnnxRetriever", "export_onnx", "write_onnx_graphs"]

_NEEDED = "ONNX export needs onnx, onnxscript and onnxruntime: pip install 'mmret[onnx]'"


class _Image(nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return feature_tensor(self.model.get_image_features(pixel_values=pixel_values))


class _Text(nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return feature_tensor(self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask))


class OnnxRetriever(GraphRetriever):
    """An exported folder under onnxruntime: the same ``encode`` as :class:`TwoTowerRetriever`."""

    info = "onnx.json"
    made_by = "mmret export-onnx"

    def __init__(self, folder: str | Path, providers: Sequence[str] = ("CPUExecutionProvider",)):
        """Raises UserError without onnxruntime, and for a folder that is no export."""
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"{_NEEDED} ({error})") from None
        super().__init__(folder)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._sessions = {
            name: onnxruntime.InferenceSession(self.folder / f"{name}.onnx", options, providers=list(providers))
            for name in ("image", "text")
        }

    def features(self, graph: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._sessions[graph].run(["features"], inputs)[0]


def export_onnx(folder: str | Path, out: Path) -> dict[str, Any]:
    """Write the checkpoint of two towers in ``folder`` to folder ``out``; returns what ``onnx.json`` holds.

    Example: ``export_onnx("lakes/demo/checkpoints/demo", Path("onnx"))``.

    Raises UserError for a checkpoint of another kind, without the packages, where ``out`` exists, and where onnxruntime
    does not give torch's vectors to within :data:`TOLERANCE`.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{_NEEDED} ({error})") from None
    return export_graphs(folder, out, Engine("ONNX", write_onnx_graphs, OnnxRetriever, {"opset": OPSET}))


def write_onnx_graphs(retriever: TwoTowerRetriever, folder: Path) -> None:
    """``image.onnx`` and ``text.onnx`` in ``folder``; the retriever's attention is plain products from then on."""
    model, limit = retriever.model, retriever.max_tokens
    model.set_attn_implementation("eager")  # every runtime has them
    side = model.config.vision_config.image_size
    shape = {0: BATCH} if retriever.padded else {0: BATCH, 1: torch.export.Dim("length", min=3, max=limit)}
    ids = torch.full((2, limit if retriever.padded else min(8, limit)), retriever.processor.tokenizer.eos_token_id)
    ids[:, 1:-1] = 1
    given = {"input_ids": ids, **({"attention_mask": torch.ones_like(ids)} if retriever.masks_padding else {})}
    graphs = {
        "image": (_Image(model), (torch.zeros(2, 3, side, side),), ["pixel_values"], {"pixel_values": {0: BATCH}}),
        "text": (_Text(model), tuple(given.values()), list(given), dict.fromkeys(given, shape)),
    }
    for name, (module, example, inputs, shapes) in graphs.items():
        write_onnx_graph(module, example, inputs, shapes, folder / f"{name}.onnx")
