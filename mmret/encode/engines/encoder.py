"""An encoder whose forward pass another engine computes than torch: the same pictures and texts in, the same vectors out to within
:data:`TOLERANCE`.

Everything but the network stays the encoder's own: decoding, preprocessing, tokens, normalisation. A graph is exported when it is
first asked for, of pictures or of texts, and compared with torch before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from mmret.encode.base import TorchEncoder
from mmret.encode.engines import Engine, Graph
from mmret.encode.engines.cache import Cache
from mmret.encode.engines.export import export_images, export_texts, tensors
from mmret.encode.pixels import probe
from mmret.errors import UserError
from mmret.threads import in_order

TOLERANCE = 1e-3
"""Largest difference allowed between torch's unit vectors and the engine's, in any component; float32 comes to some 1e-6, mixed
precision to some 4e-4."""
_PICTURES = ((61, 47), (90, 40), (40, 90))
_TEXTS = ("a", "the same, but at night and from further away", "")


class EngineEncoder:
    """See :class:`mmret.encode.protocol.Encoder`.

    ``encoder``: the model under torch, on the CPU; ``engine``: what computes in its place; ``scratch``: a folder of this machine
    for exports. Encoding raises UserError where the network cannot be exported, or comes out otherwise.
    """

    on_cpu = True

    def __init__(self, encoder: TorchEncoder, engine: Engine, scratch: Path):
        self.encoder, self.engine, self.scratch = encoder, engine, scratch
        self.model = f"{encoder.model}+{engine.name}"
        self.width, self.batch_size = encoder.width, encoder.batch_size
        self._cores = torch.get_num_threads()
        self._graphs: dict[str, Graph] = {}
        self._lock = Lock()

    def preprocess(self, data: bytes) -> Tensor:
        return self.encoder.preprocess(data)

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        return self.encoder.truncated(texts)

    def encode_images(self, images: Sequence[Image.Image] | Tensor) -> np.ndarray:
        if self.encoder.preprocessing is None or not len(images):
            return self.encoder.encode_images(images)  # which says that it sees none
        return self._encode("image", self.encoder.stacked(images))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        if not self.encoder.has_text or not len(texts):
            return self.encoder.encode_texts(texts)
        return self._encode("text", list(texts))

    def _encode(self, part: str, rows: Any) -> np.ndarray:
        graph, size, vectors = self._graph(part), self.batch_size, getattr(self, f"_{part}_vectors")
        batches = [rows[at : at + size] for at in range(0, len(rows), size)]
        if len(batches) == 1:  # as a stage asks, which has threads of its own
            return vectors(graph, rows)
        made = in_order(lambda batch: vectors(graph, batch), batches, self._cores, 2 * self._cores)
        return np.concatenate([values for _, values in made])

    def _image_vectors(self, graph: Graph, pixels: Tensor) -> np.ndarray:
        return _unit(graph.features({"pixel_values": self.encoder.preprocessing.normalise(pixels).numpy()}))

    def _text_vectors(self, graph: Graph, texts: list[str]) -> np.ndarray:
        return _unit(graph.features({name: value.numpy() for name, value in tensors(self.encoder.tokens(texts)).items()}))

    def _graph(self, part: str) -> Graph:
        with self._lock:
            if part not in self._graphs:
                cache = Cache(self.scratch, self.engine, self.encoder.model, part)
                self._graphs[part] = cache.graph(self._cores, *getattr(self, f"_{part}_export")())
            return self._graphs[part]

    def _image_export(self) -> tuple[Callable[[Path], None], Callable[[Graph], float]]:
        pictures = self.encoder.stacked([probe(size) for size in _PICTURES])
        return (
            lambda path: export_images(self.encoder, pictures, path),
            lambda graph: self._check(self.encoder.encode_images(pictures), lambda at: self._image_vectors(graph, pictures[at])),
        )

    def _text_export(self) -> tuple[Callable[[Path], None], Callable[[Graph], float]]:
        texts = list(_TEXTS)
        return (
            lambda path: export_texts(self.encoder, texts, path),
            lambda graph: self._check(self.encoder.encode_texts(texts), lambda at: self._text_vectors(graph, texts[at])),
        )

    def _check(self, wanted: np.ndarray, vectors: Callable[[slice], np.ndarray]) -> float:
        """The largest difference of rows one by one and together; raises UserError where it is above the engine's share of
        :data:`TOLERANCE`."""
        allowed = TOLERANCE * self.engine.share
        cuts = [slice(None), *(slice(at, at + 1) for at in range(len(wanted)))]
        worst = float(np.max([np.abs(vectors(cut) - wanted[cut]).max() for cut in cuts]))  # a NaN stays one
        if not worst <= allowed:
            raise UserError(
                f"vectors of {self.encoder.model} under {self.engine.name} differ from torch's by {worst:g}, allowed are "
                f"{allowed:g}: {self.engine.remedy}"
            )
        return worst


def _unit(features: np.ndarray) -> np.ndarray:
    return normalize(torch.from_numpy(features)).numpy()
