"""Two towers as two graphs, of the picture and of the text, for serving without torch: what ONNX and OpenVINO share.

Each graph gives un-normalised projections, so a server composes as the paper does: normalise ``image + text``, or either
alone (:class:`GraphRetriever` is that in numpy). Beside the graphs lie the processor's files and a JSON file with names and
shapes. Every export is run by its engine on other batch sizes than it was traced with and compared with torch; it is written
whole or not at all. Cost: seconds for a tiny model, a minute and twice its weights in memory for ViT-L.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmret.atomic import replacing_folder
from mmret.encode.quiet import silence
from mmret.errors import UserError
from mmret.retriever.models.load import Retriever
from mmret.retriever.models.pictures import Picture, to_rgb
from mmret.retriever.models.two_towers import TwoTowerRetriever
from mmret.retriever.models.usable import usable

CLIP_TEXTS = {"lower_case": False, "padded": False, "masked": True}
"""How texts are given to a graph whose JSON file does not say: as CLIP's are."""
TOLERANCE = 1e-4
"""Largest difference allowed between torch's unit vectors and the engine's, in any dimension."""


class GraphRetriever(ABC):
    """An exported folder under an engine: the same ``encode`` as :class:`TwoTowerRetriever`.

    A subclass names the JSON file of its folders in ``info`` and runs a graph in :meth:`features`.
    """

    info: str
    made_by: str

    def __init__(self, folder: str | Path):
        """Raises UserError for a folder that is no export."""
        from transformers import AutoProcessor, CLIPProcessor

        self.folder = Path(folder)
        if not (self.folder / self.info).is_file():
            raise UserError(f"{folder} holds no exported model: `{self.made_by}` makes one")
        info = json.loads((self.folder / self.info).read_text())
        self.dim, self.max_tokens = info["dim"], info["max_tokens"]
        self.texts = {**CLIP_TEXTS, **info.get("texts", {})}
        self.truncated = 0
        with silence():
            self.processor = (AutoProcessor if self.texts["padded"] else CLIPProcessor).from_pretrained(str(folder))

    @abstractmethod
    def features(self, graph: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Un-normalised projections (n, dim) float32 of graph ``image`` or ``text``."""

    def encode(
        self, images: Sequence[Picture] | None = None, texts: Sequence[str] | None = None, batch_size: int = 64
    ) -> np.ndarray:
        """Unit vectors (n, dim) float32; see :meth:`TwoTowerRetriever.encode`."""
        given = [part for part in (images, texts) if part is not None]
        if not given or len({len(part) for part in given}) > 1:
            raise UserError("encode needs images, texts, or as many of one as of the other")
        rows = [np.empty((0, self.dim), np.float32)]
        for start in range(0, len(given[0]), batch_size):
            batch = slice(start, start + batch_size)
            features = [self.features("image", {"pixel_values": self._pixels(images[batch])})] if images is not None else []
            if texts is not None:
                features.append(self.features("text", self._tokens(texts[batch])))
            total = np.sum(features, axis=0)
            with np.errstate(invalid="ignore", divide="ignore"):
                rows.append(total / np.linalg.norm(total, axis=1, keepdims=True))
        return usable(np.concatenate(rows), images, texts)

    def _pixels(self, images: Sequence[Picture]) -> np.ndarray:
        return self.processor.image_processor(images=[to_rgb(i) for i in images], return_tensors="np")["pixel_values"]

    def _tokens(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        tokenizer, limit = self.processor.tokenizer, self.max_tokens
        asked = [text.lower() for text in texts] if self.texts["lower_case"] else list(texts)
        with silence():
            ids = tokenizer(asked)["input_ids"]
            for row, tokens in enumerate(ids):
                if len(tokens) > limit:
                    self.truncated += 1
                    ids[row] = tokenizer(asked[row], truncation=True, max_length=limit)["input_ids"]
            length = {"padding": "max_length", "max_length": limit} if self.texts["padded"] else {"padding": True}
            padded = tokenizer.pad({"input_ids": ids}, return_tensors="np", return_attention_mask=self.texts["masked"], **length)
        return {name: padded[name].astype(np.int64) for name in ("input_ids", "attention_mask") if name in padded}


@dataclass(frozen=True)
class Engine:
    """What an export of one kind is: its name, who writes its two graphs into a folder, who reads them, and facts for the
    JSON file."""

    name: str
    write: Callable[[TwoTowerRetriever, Path], None]
    retriever: type[GraphRetriever]
    facts: dict[str, Any]


def export_graphs(folder: str | Path, out: Path, engine: Engine) -> dict[str, Any]:
    """Write the CLIP checkpoint in ``folder`` to folder ``out``; returns what its JSON file holds.

    Raises UserError for a checkpoint of another kind, where ``out`` exists, and where the engine does not give torch's
    vectors to within :data:`TOLERANCE`.
    """
    if out.exists():
        raise UserError(f"{out} exists already: give --out another folder, or delete it")
    retriever = Retriever.load(folder, "cpu", "float32")
    if not isinstance(retriever, TwoTowerRetriever):
        raise UserError(
            f"{folder} is no CLIP checkpoint: only two towers are exported to {engine.name}; an MLLM is served by vLLM and others "
            "from its own files"
        )
    info = {
        "dim": retriever.dim,
        "image_size": retriever.model.config.vision_config.image_size,
        "max_tokens": retriever.max_tokens,
        **({"texts": {"lower_case": True, "padded": True, "masked": retriever.masks_padding}} if retriever.padded else {}),
        **engine.facts,
        "tolerance": TOLERANCE,
        "embedding": "normalise(image + text) for a composed query, or of either alone",
    }

    def fill(aside: Path) -> None:
        engine.write(retriever, aside)
        retriever.save_processor(aside)
        (aside / engine.retriever.info).write_text(json.dumps(info, indent=2) + "\n")
        info["largest_difference"] = check(retriever, engine.retriever(aside), engine.name)
        (aside / engine.retriever.info).write_text(json.dumps(info, indent=2) + "\n")

    with replacing_folder(out) as aside:
        fill(aside)
    return info


def check(retriever: TwoTowerRetriever, loaded: GraphRetriever, engine: str) -> float:
    """Largest difference of unit vectors, over pictures and texts of several lengths, in batches of 1 and 3. Raises UserError
    where it is above :data:`TOLERANCE`."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (60, 80, 3), dtype=np.uint8) for _ in range(3)]
    texts = ["a", "the same, but at night and from further away", "red " * 100]
    worst, before = 0.0, retriever.truncated
    for images, words in ((pictures, None), (None, texts), (pictures, texts)):
        want = retriever.encode(images, words)
        for batch in (1, 3):
            worst = max(worst, float(np.abs(loaded.encode(images, words, batch) - want).max()))
    retriever.truncated = before
    if not worst <= TOLERANCE:
        raise UserError(f"the model under {engine} differs from torch's by {worst:g} (allowed: {TOLERANCE:g}); nothing was written")
    return worst
