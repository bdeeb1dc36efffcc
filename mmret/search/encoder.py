"""The one method that search and benchmarks need of a model, so that a retriever of any kind will do, or a stand-in in a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Encoder(Protocol):
    """Anything that embeds images, texts, or image-text pairs: a CLIP retriever, an MLLM retriever, a stand-in in a test.

    ``encode`` of a model that treats queries and candidates differently has a further keyword, ``instruction: str | None``.
    """

    dim: int

    def encode(self, images: Sequence[Any] | None = None, texts: Sequence[str] | None = None, batch_size: int = 64) -> np.ndarray:
        """Unit vectors (n, dim) float32."""
