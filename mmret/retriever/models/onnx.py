"""MMRet-CLIP as two ONNX graphs, for serving without torch: ``image.onnx`` and ``text.onnx``.

Each gives un-normalised projections, so a server composes as the paper does: normalise ``image + text``, or either alone
(:class:`OnnxRetriever` is that in numpy). Beside the graphs lie the processor's files and ``onnx.json``, the names and
shapes. Every export is run with onnxruntime on other batch sizes than it was traced with and compared with torch; it is
written whole or not at all. Cost: seconds for a tiny model, a minute and twice its weights in memory for ViT-L.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmret.atomic import replacing_folder
from mmret.encode.quiet import silence
from mmret.errors import UserError
from mmret.retriever.models.clip import ClipRetriever, Picture, feature_tensor, to_rgb
from mmret.retriever.models.load import Retriever
from mmret.retriever.models.usable import usable

TOLERANCE = 1e-4
"""Largest difference allowed between torch's unit vectors and onnxruntime's, in any dimension."""
INFO = "onnx.json"
OPSET = 18
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

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return feature_tensor(self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask))


def export_onnx(folder: str | Path, out: Path) -> dict[str, Any]:
    """Write the CLIP checkpoint in ``folder`` to folder ``out``; returns what ``onnx.json`` holds.

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
    if out.exists():
        raise UserError(f"{out} exists already: give --out another folder, or delete it")
    retriever = Retriever.load(folder, "cpu", "float32")
    if not isinstance(retriever, ClipRetriever):
        raise UserError(
            f"{folder} is no CLIP checkpoint: only that kind is exported to ONNX; an MLLM is served by vLLM and others "
            "from its own files"
        )
    side = retriever.model.config.vision_config.image_size
    limit = retriever.model.config.text_config.max_position_embeddings
    info = {
        "dim": retriever.dim,
        "image_size": side,
        "max_tokens": limit,
        "opset": OPSET,
        "tolerance": TOLERANCE,
        "embedding": "normalise(image + text) for a composed query, or of either alone",
    }

    def fill(aside: Path) -> None:
        retriever.model.set_attn_implementation("eager")  # plain matrix products: every runtime has them
        batch = torch.export.Dim("batch", min=1, max=4096)
        length = torch.export.Dim("length", min=3, max=limit)
        ids = torch.full((2, min(8, limit)), retriever.processor.tokenizer.eos_token_id)
        ids[:, 1:-1] = 1
        graphs = {
            "image": (_Image(retriever.model), (torch.zeros(2, 3, side, side),), ["pixel_values"], {"pixel_values": {0: batch}}),
            "text": (
                _Text(retriever.model),
                (ids, torch.ones_like(ids)),
                ["input_ids", "attention_mask"],
                {name: {0: batch, 1: length} for name in ("input_ids", "attention_mask")},
            ),
        }
        for name, (module, example, inputs, shapes) in graphs.items():
            with torch.no_grad(), silence(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the exporter about its own parts
                torch.onnx.export(
                    module.eval(),
                    example,
                    str(aside / f"{name}.onnx"),
                    dynamo=True,
                    opset_version=OPSET,
                    input_names=inputs,
                    output_names=["features"],
                    dynamic_shapes=shapes,
                    external_data=_large(module),
                    verbose=False,
                )
        with silence():
            retriever.processor.save_pretrained(aside)
            retriever.processor.image_processor.save_pretrained(aside)
        (aside / INFO).write_text(json.dumps(info, indent=2) + "\n")
        info["largest_difference"] = _check(retriever, aside)
        (aside / INFO).write_text(json.dumps(info, indent=2) + "\n")

    with replacing_folder(out) as aside:
        fill(aside)
    return info


def _large(module: nn.Module) -> bool:
    """Whether the weights go into a file of their own: a protobuf holds 2 GB at most."""
    return sum(p.numel() * p.element_size() for p in module.parameters()) > 1.5 * 2**30


def _check(retriever: ClipRetriever, folder: Path) -> float:
    """Largest difference of unit vectors, over pictures and texts of several lengths, in batches of 1 and 3."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (60, 80, 3), dtype=np.uint8) for _ in range(3)]
    texts = ["a", "the same, but at night and from further away", "red " * 100]
    loaded, worst = OnnxRetriever(folder), 0.0
    before = retriever.truncated
    for images, words in ((pictures, None), (None, texts), (pictures, texts)):
        want = retriever.encode(images, words)
        for batch in (1, 3):
            worst = max(worst, float(np.abs(loaded.encode(images, words, batch) - want).max()))
    retriever.truncated = before
    if not worst <= TOLERANCE:
        raise UserError(f"the exported model differs from torch's by {worst:g} (allowed: {TOLERANCE:g}); nothing was written")
    return worst


class OnnxRetriever:
    """An exported folder under onnxruntime: the same ``encode`` as :class:`ClipRetriever`."""

    def __init__(self, folder: str | Path, providers: Sequence[str] = ("CPUExecutionProvider",)):
        """Raises UserError without onnxruntime, and for a folder that is no export."""
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"{_NEEDED} ({error})") from None
        from transformers import CLIPProcessor

        folder = Path(folder)
        if not (folder / INFO).is_file():
            raise UserError(f"{folder} holds no exported model: `mmret export-onnx` makes one")
        info = json.loads((folder / INFO).read_text())
        self.dim, self.max_tokens = info["dim"], info["max_tokens"]
        self.truncated = 0
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._sessions = {
            name: onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=list(providers))
            for name in ("image", "text")
        }
        with silence():
            self.processor = CLIPProcessor.from_pretrained(str(folder))

    def encode(
        self, images: Sequence[Picture] | None = None, texts: Sequence[str] | None = None, batch_size: int = 64
    ) -> np.ndarray:
        """Unit vectors (n, dim) float32; see :meth:`ClipRetriever.encode`."""
        given = [part for part in (images, texts) if part is not None]
        if not given or len({len(part) for part in given}) > 1:
            raise UserError("encode needs images, texts, or as many of one as of the other")
        rows = [np.empty((0, self.dim), np.float32)]
        for start in range(0, len(given[0]), batch_size):
            batch = slice(start, start + batch_size)
            features = [self._of("image", {"pixel_values": self._pixels(images[batch])})] if images is not None else []
            if texts is not None:
                features.append(self._of("text", self._tokens(texts[batch])))
            total = np.sum(features, axis=0)
            with np.errstate(invalid="ignore", divide="ignore"):
                rows.append(total / np.linalg.norm(total, axis=1, keepdims=True))
        return usable(np.concatenate(rows), images, texts)

    def _of(self, name: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._sessions[name].run(["features"], inputs)[0]

    def _pixels(self, images: Sequence[Picture]) -> np.ndarray:
        return self.processor.image_processor(images=[to_rgb(i) for i in images], return_tensors="np")["pixel_values"]

    def _tokens(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        tokenizer = self.processor.tokenizer
        with silence():
            ids = tokenizer(list(texts))["input_ids"]
        self.truncated += sum(len(row) > self.max_tokens for row in ids)
        ids = [row if len(row) <= self.max_tokens else [*row[: self.max_tokens - 1], tokenizer.eos_token_id] for row in ids]
        with silence():
            padded = tokenizer.pad({"input_ids": ids}, return_tensors="np")
        return {name: padded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
