"""Scores that need no model: sharpness, brightness, contrast, size and shape. Cost: a decode for the first three, else nothing."""

from __future__ import annotations

import numpy as np
from PIL import Image

PIXELS = ("sharpness", "brightness", "contrast")
"""Those that look at the picture; ``side`` and ``aspect`` are in table ``images``."""
_SIDE = 512  # pictures are compared at one size: a blurred one of many pixels is no sharper for them


def measure_pixels(picture: Image.Image, measure: str) -> float:
    """``sharpness``: variance of the Laplacian of the grey picture in 0 to 255, its longer side at most 512 pixels; below
    some 50 it is blurred. ``brightness``: mean, ``contrast``: standard deviation, both of grey in 0 to 1.

    >>> measure_pixels(Image.new("RGB", (8, 8), "white"), "brightness")
    1.0
    """
    small = picture.convert("L")
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    grey = np.asarray(small, np.float64)
    if measure == "brightness":
        return float(grey.mean() / 255)
    if measure == "contrast":
        return float(grey.std() / 255)
    padded = np.pad(grey, 1, mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return float((around - 4 * grey).var())


def measure_shape(width: int, height: int, measure: str) -> float:
    """``side``: the shorter side in pixels; ``aspect``: longer by shorter side."""
    return float(min(width, height)) if measure == "side" else max(width, height) / min(width, height)
