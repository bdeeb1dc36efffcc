"""The image tower cut in two: what a recipe leaves frozen, computed once per image, and what it trains, run every step.

On two cores the image tower makes a composed step some twenty times dearer than the text tower. Below the cut nothing
changes during a run, so its output for every distinct image is an array on disk, and a step starts from there. The
gradient is that of plain training with the same weights frozen.

| trainable | kept per image | run every step |
|---|---|---|
| ``text`` | features (dim) | nothing |
| ``text+projection`` | CLIP's pooled features (width), SigLIP's hidden states (patches, width) | the projection |
| ``text+blocks`` | hidden states (patches, with CLIP's class token, width) | the last ``image_blocks`` blocks and the projection |
| ``all`` | nothing | everything, from decoded pictures |

The projection is what maps the image tower into the common space: of CLIP the visual projection, of SigLIP, which has none, the
head that pools by attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mmret.atomic import replacing
from mmret.encode.last_block import one_token, picture_token
from mmret.errors import UserError
from mmret.retriever.models.two_towers import TwoTowerRetriever, feature_tensor
from mmret.settings import Recipe

LoadImages = Callable[[Sequence[str]], dict[str, bytes]]


class ImageTower:
    """``lower_layers(pixels)`` is the part below the cut, ``features(x)`` the part above: together ``get_image_features``.

    Of a ``CLIPModel``; a subclass says what differs in another family.
    """

    def __init__(self, model: Any, recipe: Recipe):
        self.model = model
        self.trainable = recipe.trainable
        self.compiled = bool(recipe.compile)
        layers = model.vision_model.encoder.layers
        self.blocks = list(layers)[max(0, len(layers) - recipe.image_blocks) :]

    @property
    def projection(self) -> torch.nn.Module:
        """Maps what :meth:`unprojected` gives to features (n, dim)."""
        return self.model.visual_projection

    def embedded(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) to the first block's hidden states."""
        return self.model.vision_model.pre_layrnorm(self.model.vision_model.embeddings(pixels))

    def unprojected(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) to what the projection maps."""
        if self.compiled:
            return self.model.vision_model(pixel_values=pixels).pooler_output
        return picture_token(self.model.vision_model, pixels)

    def all_layers(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) to un-normalised features (n, dim)."""
        return self.projection(self.unprojected(pixels))

    def last_block(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states before the last block to what the projection maps."""
        return self.model.vision_model.post_layernorm(one_token(self.blocks[-1], hidden))

    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters above the cut, which are trained, each once."""
        trained: list[torch.nn.Parameter] = []
        if self.trainable == "all":
            trained += self.model.vision_model.parameters()
        if self.trainable == "text+blocks":
            for block in self.blocks:
                trained += block.parameters()
            trained += self.model.vision_model.post_layernorm.parameters()
        if self.trainable != "text":
            trained += self.projection.parameters()
        return list(dict.fromkeys(trained))

    @torch.no_grad()
    def lower_layers(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) to (n, ...): see the table above."""
        if self.trainable == "all":
            return pixels
        pixels = pixels.to(self.model.device, self.model.dtype)
        if self.trainable == "text":
            return self.all_layers(pixels)
        if self.trainable == "text+projection":
            return self.unprojected(pixels)
        hidden = self.embedded(pixels)
        for block in list(self.model.vision_model.encoder.layers)[: -len(self.blocks)]:
            hidden = block(hidden, None)
        return hidden

    def features(self, frozen: torch.Tensor) -> torch.Tensor:
        """(n, ...) of :meth:`lower_layers` to un-normalised features (n, dim)."""
        frozen = frozen.to(self.model.device, self.model.dtype)
        if self.trainable == "all":
            return self.all_layers(frozen)
        if self.trainable == "text":
            return frozen
        if self.trainable == "text+projection":
            return self.projection(frozen)
        for block in self.blocks[:-1]:
            frozen = block(frozen, None)
        return self.projection(self.last_block(frozen))


class SiglipImageTower(ImageTower):
    """Of a ``SiglipModel``, which has no class token and pools the hidden states of all patches by a head."""

    @property
    def projection(self) -> torch.nn.Module:
        return self.model.vision_model.head

    def embedded(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.vision_model.embeddings(pixels)

    def unprojected(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.vision_model(pixel_values=pixels).last_hidden_state

    def all_layers(self, pixels: torch.Tensor) -> torch.Tensor:
        return feature_tensor(self.model.get_image_features(pixel_values=pixels))

    def last_block(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.vision_model.post_layernorm(self.blocks[-1](hidden, None))


class Pictures:
    """The lake's pictures by their numbers in ``images``. Raises UserError for one that the lake does not hold."""

    def __init__(self, images: pa.Array, load_images: LoadImages):
        self.images, self.load_images = images, load_images

    def __len__(self) -> int:
        return len(self.images)

    def __call__(self, numbers: np.ndarray) -> list[bytes]:
        """Their files, in the order asked for."""
        ids = self.images.take(pa.array(numbers, pa.int64())).to_pylist()
        loaded = self.load_images(ids) if ids else {}
        if missing := [i for i in ids if i not in loaded]:
            raise UserError(
                f"{len(missing)} images of the triplets are not in the lake (the first: {missing[0]}); "
                "run `mmret run` so that triplets and images agree again"
            )
        return [loaded[i] for i in ids]


def frozen_features(
    tower: ImageTower, retriever: TwoTowerRetriever, pictures: Pictures, path: Path, report: Callable[[int], None], chunk: int = 256
) -> np.ndarray:
    """Output of ``tower.lower_layers`` for every picture as a memory-mapped .npy file at ``path``, computed where it is
    missing.

    (n, ...) float32 in the order of the images' numbers. Written beside and renamed. ``report`` is called with how
    many are done.
    """
    if not path.exists():
        rows = None
        with replacing(path) as aside:
            for start in range(0, len(pictures), chunk):
                numbers = np.arange(start, min(start + chunk, len(pictures)))
                part = tower.lower_layers(retriever.pixels(pictures(numbers))).float().cpu().numpy()
                if rows is None:
                    shape = (len(pictures), *part.shape[1:])
                    rows = np.lib.format.open_memmap(aside, mode="w+", dtype=np.float32, shape=shape)
                rows[numbers] = part
                report(int(numbers[-1]) + 1)
            rows.flush()
            del rows
    return np.load(path, mmap_mode="r")
