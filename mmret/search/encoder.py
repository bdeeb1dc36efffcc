"""What search and benchmarks ask of a model: one method, so that a retriever of any kind, or a mock of a test, will do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Encoder(Protocol):
    """Anything that embeds images, texts, or image-text pairs: a CLIP retriever, an MLLM retriever, a mock of a test.

    One that tells queries from candidates and takes a task instruction has a further keyword ``instruction: str |
    None``.
    """

    dim: int

    def encode(self, images: Sequence[Any] | None = None, texts: Sequence[str] | None = None, batch_size: int = 64) -> np.ndarray:
        """Unit vectors (n, dim) float32."""
