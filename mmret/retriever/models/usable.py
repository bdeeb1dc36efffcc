"""The last step of every retriever's ``encode``: vectors that are no unit vectors never leave it. Costs one pass over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmret.unit_vectors import require_unit


def usable(vectors: np.ndarray, images: Sequence[Any] | None, texts: Sequence[str] | None) -> np.ndarray:
    """``vectors`` (n, dim) float32 themselves. Raises UnusableVectors naming the first input whose vector is zero or not finite."""

    def words(row: int, kind: str) -> str:
        return f"the model gave {_named(row, images, texts)} {kind}: {DAMAGED}"

    return require_unit(vectors, words)


DAMAGED = "its weights are damaged (a training run that diverged?); train or download it anew"


def _named(row: int, images: Sequence[Any] | None, texts: Sequence[str] | None) -> str:
    parts = []
    if images is not None:
        image = images[row]
        parts.append(f"the picture {image}" if isinstance(image, str | Path) else f"picture {row + 1} of {len(images)}")
    if texts is not None:
        parts.append(f"the text {texts[row][:60]!r}")
    return " and ".join(parts)
