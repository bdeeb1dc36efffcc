"""From an RGB picture to the small uint8 tensor a model looks at, exactly as the model's own library would make it.

The library's image processors resize, crop, rescale and normalise one picture at a time in float. Here resize and
crop run on the uint8 picture in worker threads (Pillow releases the interpreter lock), and rescaling and normalising
once per batch, so what waits in the queues is a quarter of the size. Equal to the library's result to float rounding
(tests/encode).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmret.errors import UserError
from mmret.hashing import fingerprint


@dataclass(frozen=True)
class Preprocessing:
    """``geometry``: RGB picture to RGB picture of the model's size; then ``(value * scale - mean) / std`` per channel.

    ``name`` describes all of it in a few characters; it is part of the model string.
    """

    geometry: Callable[[Image.Image], Image.Image]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    name: str

    def pixels(self, image: Image.Image) -> Tensor:
        """(3, h, w) uint8."""
        array = np.asarray(self.geometry(image))
        return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))

    def normalise(self, batch: Tensor) -> Tensor:
        """(n, 3, h, w), uint8 or float in [0, 255], to the float32 the model takes, on the batch's device."""
        mean = torch.tensor(self.mean, device=batch.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=batch.device).view(3, 1, 1)
        return (batch.float() * self.scale).sub_(mean).div_(std)


@dataclass(frozen=True)
class ResizeCrop:
    """Resize to ``shortest`` pixels on the shorter side or to ``exact`` (width, height), then cut out the central ``crop``.

    A picture smaller than the crop (width, height) is set on black, as the library does.
    """

    shortest: int | None
    exact: tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: Image.Resampling

    def __call__(self, image: Image.Image) -> Image.Image:
        size = self.exact or image.size
        if self.shortest:
            width, height = image.size
            longest = int(self.shortest * max(width, height) / min(width, height))
            size = (self.shortest, longest) if width <= height else (longest, self.shortest)
        image = image.resize(size, self.resample)  # of the same size: a copy
        if self.crop is None or self.crop == image.size:
            return image
        left, top = ((have - want) // 2 for have, want in zip(image.size, self.crop, strict=True))
        return image.crop((left, top, left + self.crop[0], top + self.crop[1]))

    def __str__(self) -> str:
        size = f"short{self.shortest}" if self.shortest else "x".join(map(str, self.exact)) if self.exact else "asis"
        crop = "" if self.crop is None else "-crop" + "x".join(map(str, self.crop))
        return f"{size}{crop}-{self.resample.name.lower()}"


def from_image_processor(config: Mapping[str, Any]) -> Preprocessing:
    """Preprocessing by a transformers configuration (``preprocessor_config.json``) of CLIP, DINOv2 or a similar model.

    Raises UserError for a size rule that is neither ``shortest_edge`` nor height and width.
    """
    size = config.get("size") if config.get("do_resize", True) else {}
    size = {"shortest_edge": size} if isinstance(size, int) else dict(size or {})
    if unknown := [key for key, value in size.items() if value and key not in ("shortest_edge", "height", "width")]:
        raise UserError(
            f"an image processor that resizes by {', '.join(unknown)} cannot be used here: "
            "choose a model that resizes by shortest_edge, or by height and width"
        )
    crop = config.get("crop_size") if config.get("do_center_crop", False) else None
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    geometry = ResizeCrop(
        shortest=size.get("shortest_edge"),
        exact=(size["width"], size["height"]) if size.get("height") else None,
        crop=(crop["width"], crop["height"]) if crop else None,
        resample=Image.Resampling(config.get("resample", Image.Resampling.BICUBIC)),
    )
    plain = not config.get("do_normalize", True)
    mean = (0.0, 0.0, 0.0) if plain else tuple(config["image_mean"])
    std = (1.0, 1.0, 1.0) if plain else tuple(config["image_std"])
    scale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    return Preprocessing(geometry, mean, std, scale, f"{geometry}-{fingerprint(mean, std, scale)[:6]}")


def from_open_clip(transform: Any, config: Mapping[str, Any]) -> Preprocessing:
    """Preprocessing as open_clip's evaluation ``transform`` does it; ToTensor and Normalize become one operation per batch.

    ``config`` is the model's ``preprocess_cfg``; the preprocessing's name comes from it.
    """
    from torchvision.transforms import Compose, Normalize

    *steps, normalize = transform.transforms
    if not isinstance(normalize, Normalize):
        raise UserError(f"an open_clip transform that ends in {type(normalize).__name__} cannot be used here")
    geometry = Compose([s for s in steps if type(s).__name__ not in ("MaybeConvertMode", "MaybeToTensor", "ToTensor")])
    mean, std = (tuple(map(float, values)) for values in (normalize.mean, normalize.std))
    size = config["size"]
    size = "x".join(map(str, size)) if isinstance(size, (tuple, list)) else size
    name = f"{config['resize_mode']}{size}-{config['interpolation']}-{fingerprint(mean, std, config['fill_color'])[:6]}"
    return Preprocessing(geometry, mean, std, 1 / 255, name)
