"""The methods that the pipeline needs of a similarity model, and the function that loads one from its settings.

An encoder is a name that changes whenever its vectors would, a width, and two methods from pictures or texts to unit
vectors. Adding a kind means one module with one class and one line in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mmret.encode.location import locate
from mmret.settings import EncoderSettings
from mmret.storage import Storage, open_storage

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


class Encoder(Protocol):
    """A loaded similarity model."""

    model: str
    """``name@revision+preprocessing``: equal strings mean equal vectors."""
    width: int
    batch_size: int
    """Pictures or texts per forward pass."""
    on_cpu: bool

    def preprocess(self, data: bytes) -> Tensor:
        """An encoded picture to the (3, h, w) tensor in [0, 255] the model looks at, uint8 or, where the model's library resizes in
        float, float32; safe to call from many threads.

        Raises :class:`mmret.ingest.pictures.decode.Unreadable`, and UserError where the model reads texts only.
        """

    def encode_images(self, images: Sequence[Image.Image] | Tensor) -> np.ndarray:
        """RGB pictures, or what ``preprocess`` made of them stacked, to (n, width) float32 unit vectors.

        Raises UserError where the model reads texts only.
        """

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(n, width) float32 unit vectors; a text beyond the tower's limit is cut there.

        Raises UserError where the model has no text tower.
        """

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Which of ``texts`` :meth:`encode_texts` would cut."""


KINDS = {
    "clip": "mmret.encode.clip:ClipEncoder",
    "open_clip": "mmret.encode.open_clip:OpenClipEncoder",
    "siglip": "mmret.encode.siglip:SiglipEncoder",
    "dinov2": "mmret.encode.dinov2:Dinov2Encoder",
    "dinov3": "mmret.encode.vision:Dinov3Encoder",
    "vision": "mmret.encode.vision:VisionEncoder",
    "sentence_transformers": "mmret.encode.sentence_transformers:SentenceTransformersEncoder",
    "tfidf": "mmret.encode.tfidf:TfidfEncoder",
}
"""Where the implementation of ``EncoderSettings.kind`` lies; imported when it is first asked for."""


def load_encoder(settings: EncoderSettings, signal: str, lake: Storage | str | Path) -> Encoder:
    """Load the model of ``settings`` for ``signal``: from inside ``lake`` (``towers/<name>``), a local folder, or the hub.

    Raises UserError where the model cannot be found, where the signal needs a text tower and the model has none, and where
    packages of the engine, or the processor's means for its precision, are missing.

    >>> load_encoder(profile.encoders["caption"], "caption", lake.storage).encode_texts(["a red circle"]).shape
    """
    module, _, name = KINDS[settings.kind].partition(":")
    kind, location = getattr(import_module(module), name), locate(settings, lake)
    if settings.engine == "torch":
        return kind.load(settings, signal, location)
    from mmret.encode.engines import engine_of
    from mmret.encode.engines.encoder import EngineEncoder

    engine = engine_of(settings.engine, settings.precision)
    storage = open_storage(lake) if isinstance(lake, str | Path) else lake
    encoder = kind.load(settings.model_copy(update={"device": "cpu"}), signal, location)
    return EngineEncoder(encoder, engine, storage.scratch)
