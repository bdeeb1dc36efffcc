"""What the encoders share: one batch after another on one device, unit vectors out, and batches sized by memory.

The rule for ``batch_size``: a power of two whose activations, by the model's own estimate, fill a third of the free
memory. On a GPU 16 to 1,024 rows, and a batch that does not fit after all is halved and tried again; on a CPU, where
every core works on a batch of its own, 1 to 16 rows: larger ones are no faster and leave cores idle at a shard's end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmret import encode
from mmret.devices import device_of, free_memory
from mmret.encode.location import Location
from mmret.encode.pixels import Preprocessing
from mmret.errors import UserError
from mmret.ingest.pictures.decode import Unreadable, open_rgb
from mmret.settings import EncoderSettings, IngestSettings

UNLIMITED = IngestSettings(max_pixels=2**62, max_bytes=2**62)
"""No limits on size, for pictures that are stored already: they passed the limits of their lake at ingest."""
SHARE, GPU_BATCHES, CPU_BATCHES = 1 / 3, (16, 1024), (1, 16)
_READ_TEXTS = "use clip, open_clip, siglip, sentence_transformers or tfidf for captions"


class TorchEncoder(ABC):
    """Base of the encoders. A subclass loads its network, passes it to ``__init__`` and implements the ``features`` methods.

    ``preprocessing``: None where it reads texts only; ``width``: components of a vector; ``activation_bytes``: memory that one row
    needs in a forward pass; ``marks``: what else decides a vector, for the model string.
    """

    has_text: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing | None,
        location: Location,
        settings: EncoderSettings,
        width: int,
        activation_bytes: int,
        marks: Sequence[str] = (),
    ):
        self.device = device_of(settings.device, "encoders.*.device")
        self.network = network.eval().requires_grad_(False).to(self.device)
        self.preprocessing = preprocessing
        marks = [*([preprocessing.name] if preprocessing else []), *marks]
        self.model = "+".join([location.label, *marks, *([f"v{encode.VERSION}"] if encode.VERSION != "1" else [])])
        self.width = width
        self.batch_size = settings.batch_size or batch_size(self.device, activation_bytes)

    @classmethod
    def check(cls, settings: EncoderSettings, signal: str) -> None:
        """Raise UserError where ``signal`` is about texts and this kind of model has no text tower."""
        if signal == "caption" and not cls.has_text:
            raise UserError(f"encoders.caption.kind is '{settings.kind}', which has no text tower: {_READ_TEXTS}")

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"

    def preprocess(self, data: bytes) -> Tensor:
        try:
            image = open_rgb(data)
        except Unreadable as error:
            if error.reason not in ("too_many_pixels", "too_many_bytes"):
                raise
            image = open_rgb(data, UNLIMITED)
        return self.preprocessing.pixels(image)

    def stacked(self, images: Sequence[Image.Image] | Tensor) -> Tensor:
        """RGB pictures, one at least, as (n, 3, h, w) in [0, 255]; what is stacked already as it is."""
        if isinstance(images, Tensor):
            return images
        return torch.stack([self.preprocessing.pixels(image.convert("RGB")) for image in images])

    def encode_images(self, images: Sequence[Image.Image] | Tensor) -> np.ndarray:
        if not len(images):
            return np.empty((0, self.width), np.float32)
        return self._encode(
            self.stacked(images),
            lambda part: self.image_features(self.preprocessing.normalise(part.to(self.device, non_blocking=True))),
        )

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode(list(texts), self._text_features)

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        raise UserError(f"{self.model} has no text tower: {_READ_TEXTS}")

    @abstractmethod
    def image_features(self, pixels: Tensor) -> Tensor:
        """Un-normalised features (n, width) of normalised pixels (n, 3, height, width)."""

    def tokens(self, texts: list[str]) -> dict[str, Any]:
        """What :meth:`text_features` reads: tensors (n, ...) and what is the same for all texts, by name; safe to call from many
        threads. Raises UserError where the model has no text tower."""
        raise UserError(f"{self.model} has no text tower: {_READ_TEXTS}")

    def text_features(self, **tokens: Any) -> Tensor:
        """Un-normalised features (n, width) of ``tokens`` on the device."""
        raise UserError(f"{self.model} has no text tower: {_READ_TEXTS}")

    def _text_features(self, texts: list[str]) -> Tensor:
        tokens = self.tokens(texts)
        return self.text_features(**{k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in tokens.items()})

    @torch.inference_mode()
    def _encode(self, inputs: Any, features: Callable[[Any], Tensor]) -> np.ndarray:
        parts, at, size = [np.empty((0, self.width), np.float32)], 0, self.batch_size
        while at < len(inputs):
            try:
                vectors = normalize(features(inputs[at : at + size]).float())
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                self.batch_size = size = size // 2
                continue
            parts.append(vectors.cpu().numpy())
            at += size
        return np.concatenate(parts)


def batch_size(device: torch.device, activation_bytes: int) -> int:
    """Rows per forward pass for a model that needs ``activation_bytes`` for one row, by the rule in the module's docstring."""
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else free_memory() / torch.get_num_threads()
    least, most = GPU_BATCHES if on_gpu else CPU_BATCHES
    fits = int(free * SHARE / max(1, activation_bytes))
    return min(most, max(least, 2 ** (max(1, fits).bit_length() - 1)))


def transformer_bytes(tokens: int, width: int, pixels: int = 0) -> int:
    """Estimated bytes that one row needs in a transformer's forward pass: one layer's activations (12 x width) and the input."""
    return 4 * (12 * tokens * width + 2 * 3 * pixels)
