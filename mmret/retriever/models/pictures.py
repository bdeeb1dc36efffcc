"""Pictures as every retriever's ``encode`` takes them: files, bytes, PIL images or arrays, to upright RGB.

Cost: decoding, on the CPU, in threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmret.errors import UserError
from mmret.ingest.pictures.decode import Unreadable, open_rgb

Picture = str | Path | bytes | Image.Image | np.ndarray

MOST_ASPECT = 200
"""How many times as long as the other one side of a picture may be: Qwen's image processors take no narrower one."""


def decode_images(images: Sequence[Picture]) -> list[Image.Image]:
    """:func:`to_rgb` of each, in threads."""
    with ThreadPoolExecutor(min(8, max(1, torch.get_num_threads()))) as pool:
        return list(pool.map(to_rgb, images))


def to_rgb(picture: Picture) -> Image.Image:
    """PIL RGB of a path, file content, PIL image or uint8 array; raises UserError where it is none of those."""
    try:
        if isinstance(picture, bytes | bytearray | memoryview):
            return open_rgb(bytes(picture))
        if isinstance(picture, Image.Image):
            return flatten_transparency(picture)
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8:
                raise UserError(f"an image array must be uint8, (h, w) or (h, w, channels); got {picture.dtype} {picture.shape}")
            return flatten_transparency(Image.fromarray(picture))
        if isinstance(picture, str | Path):
            return open_rgb(Path(picture).read_bytes())
    except (OSError, Unreadable) as error:
        raise UserError(f"cannot read the image {str(picture)[:200]}: {error}") from None
    raise UserError(f"an image is a path, bytes, a PIL image or a uint8 array, not {type(picture).__name__}")


def flatten_transparency(picture: Image.Image) -> Image.Image:
    """RGB with transparency on white, as :func:`mmret.ingest.pictures.decode.open_rgb` gives it."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")


def widened(width: int, height: int) -> tuple[int, int]:
    """The size with the shorter side made longer where :data:`MOST_ASPECT` asks for it."""
    return max(width, -(-height // MOST_ASPECT)), max(height, -(-width // MOST_ASPECT))


def shortened(width: int, height: int) -> tuple[int, int]:
    """The size with the longer side made shorter where :data:`MOST_ASPECT` asks for it; multiples stay multiples."""
    return min(width, MOST_ASPECT * height), min(height, MOST_ASPECT * width)


def require_list(values: Sequence[Any], name: str) -> Sequence[Any]:
    if isinstance(values, str | bytes | Path | Image.Image):
        raise UserError(f"encode takes lists: write {name}=[...], also for one")
    return values
