"""From an RGB picture to the small tensor a model looks at, exactly as the model's own library would make it.

The library's image processors resize, crop, rescale and normalise one picture at a time in float. Here resize and
crop run on the uint8 picture in worker threads (Pillow releases the interpreter lock), and rescaling and normalising
once per batch, so what waits in the queues is a quarter of the size. Equal to the library's result to float rounding
(tests/encode). A processor that does it in a way of its own is called itself (:func:`from_processor`), some 0.1 ms a picture more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmret.errors import UserError
from mmret.hashing import fingerprint


@dataclass(frozen=True)
class Preprocessing:
    """``geometry``: RGB picture to the model's size, as a picture or as a tensor (3, h, w) in [0, 255]; then
    ``(value * scale - mean) / std`` per channel.

    ``name`` describes all of it in a few characters; it is part of the model string.
    """

    geometry: Callable[[Image.Image], Image.Image | Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    name: str

    def pixels(self, image: Image.Image) -> Tensor:
        """(3, h, w) uint8, or float32 in [0, 255] where the model's library resizes in float."""
        shaped = self.geometry(image)
        if isinstance(shaped, Tensor):
            return shaped
        array = np.asarray(shaped)
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
    size = _size(config)
    if unknown := _unknown_sizes(config):
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


def _size(config: Mapping[str, Any]) -> dict[str, int]:
    size = config.get("size") if config.get("do_resize", True) else {}
    return {"shortest_edge": size} if isinstance(size, int) else dict(size or {})


def _unknown_sizes(config: Mapping[str, Any]) -> list[str]:
    """Rules of size that :class:`ResizeCrop` does not know."""
    return [key for key, value in _size(config).items() if value and key not in ("shortest_edge", "height", "width")]


@dataclass(frozen=True)
class ProcessorGeometry:
    """The resizing and cropping of a transformers image processor, by itself. ``in_float``: on floats, as DINOv3's does."""

    processor: Any
    in_float: bool

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
        asked = {"do_rescale": False, "do_normalize": False, "input_data_format": "channels_first", "return_tensors": "pt"}
        return self.processor(pixels.float() if self.in_float else pixels, **asked)["pixel_values"][0]


@dataclass(frozen=True)
class Undone:
    """What a processor makes of a picture, taken back into [0, 255]: whatever its way of resizing is."""

    processor: Any
    values: Preprocessing

    def __call__(self, image: Image.Image) -> Tensor:
        made = self.processor(image, return_tensors="pt")["pixel_values"][0].float()
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (self.values.mean, self.values.std))
        return (made * std + mean) / self.values.scale


def from_processor(processor: Any) -> Preprocessing:
    """Preprocessing equal to that of a transformers image ``processor``, which is proved on two pictures.

    Raises UserError where it does more than resize, crop, rescale and normalise, or where pictures keep their own shapes.
    """
    kind = type(processor).__name__
    pictures = [probe(size) for size in ((61, 47), (40, 90))]
    expected = [processor(picture, return_tensors="pt")["pixel_values"][0] for picture in pictures]
    if expected[0].shape != expected[1].shape or expected[0].dim() != 3:
        raise UserError(f"its image processor, {kind}, leaves pictures their own shapes, and pictures of one size are needed here")
    for candidate in _candidates(processor, kind):
        if all(_equal(candidate, picture, wanted) for picture, wanted in zip(pictures, expected, strict=True)):
            return candidate
    raise UserError(f"its image processor, {kind}, does more than resize, crop, rescale and normalise, and cannot be used here")


def _candidates(processor: Any, kind: str) -> Iterator[Preprocessing]:
    """From the cheapest on."""
    config = processor.to_dict()
    of_timm = getattr(processor, "data_config", {})
    config |= {f"image_{name}": of_timm[name] for name in ("mean", "std") if name in of_timm}
    if config.get("do_normalize", True) and not (config.get("image_mean") and config.get("image_std")):
        return
    if not _unknown_sizes(config):
        yield from_image_processor(config)
    values = from_image_processor({**config, "do_resize": False, "do_center_crop": False})
    name = f"{kind}-{fingerprint({k: v for k, v in config.items() if k not in _NO_MATTER})[:6]}"
    for geometry in (ProcessorGeometry(processor, False), ProcessorGeometry(processor, True), Undone(processor, values)):
        yield replace(values, geometry=geometry, name=name)


_OVERSHOOT = 64  # bicubic resizing in float leaves [0, 255] at edges
_NO_MATTER = ("image_processor_type", "processor_class", "backend", "data_format", "return_tensors", "device", "disable_grouping")


def probe(size: tuple[int, int] = (61, 47)) -> Image.Image:
    """A picture of noise, width by height."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))


def _equal(candidate: Preprocessing, picture: Image.Image, wanted: Tensor) -> bool:
    try:
        pixels = candidate.pixels(picture)
    except (TypeError, ValueError, KeyError):  # a processor that takes no tensors, or not these arguments
        return False
    made = candidate.normalise(pixels[None])[0]
    in_range = float(pixels.min()) > -_OVERSHOOT and float(pixels.max()) < 255 + _OVERSHOOT
    return in_range and made.shape == wanted.shape and torch.allclose(made, wanted.float(), atol=1e-4)


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
