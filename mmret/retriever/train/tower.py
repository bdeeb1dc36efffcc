"""The image tower cut in two: what a recipe leaves frozen, computed once per image, and what it trains, run every step.

On two cores the image tower makes a composed step some twenty times dearer than the text tower. Below the cut nothing
changes during a run, so its output for every distinct image is an array on disk, and a step starts from there. The
gradient is that of plain training with the same weights frozen.

| trainable | kept per image | run every step |
|---|---|---|
| ``text`` | projected features (dim) | nothing |
| ``text+projection`` | pooled features (width) | the visual projection |
| ``text+blocks`` | hidden states (1 + patches, width) | the last ``image_blocks`` blocks and the projection |
| ``all`` | nothing | everything, from decoded pictures |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import CLIPModel

from mmret.atomic import replacing
from mmret.errors import UserError
from mmret.retriever.models.clip import ClipRetriever, feature_tensor
from mmret.settings import Recipe

LoadImages = Callable[[Sequence[str]], dict[str, bytes]]


class ImageTower:
    """``lower_layers(pixels)`` is the part below the cut, ``features(x)`` the part above: together ``get_image_features``."""

    def __init__(self, model: CLIPModel, recipe: Recipe):
        self.model = model
        self.trainable = recipe.trainable
        layers = model.vision_model.encoder.layers
        self.blocks = list(layers)[max(0, len(layers) - recipe.image_blocks) :]

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """The parameters above the cut, which are trained."""
        if self.trainable == "all":
            yield from self.model.vision_model.parameters()
        if self.trainable == "text+blocks":
            for block in self.blocks:
                yield from block.parameters()
            yield from self.model.vision_model.post_layernorm.parameters()
        if self.trainable != "text":
            yield from self.model.visual_projection.parameters()

    @torch.no_grad()
    def lower_layers(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) to (n, ...): see the table above."""
        if self.trainable == "all":
            return pixels
        pixels = pixels.to(self.model.device, self.model.dtype)
        if self.trainable == "text":
            return feature_tensor(self.model.get_image_features(pixel_values=pixels))
        vision = self.model.vision_model
        if self.trainable == "text+projection":
            return vision(pixel_values=pixels).pooler_output
        hidden = vision.pre_layrnorm(vision.embeddings(pixels))
        for block in list(vision.encoder.layers)[: -len(self.blocks)]:
            hidden = block(hidden, None)
        return hidden

    def features(self, frozen: torch.Tensor) -> torch.Tensor:
        """(n, ...) of :meth:`lower_layers` to un-normalised projections (n, dim)."""
        frozen = frozen.to(self.model.device, self.model.dtype)
        if self.trainable == "all":
            return feature_tensor(self.model.get_image_features(pixel_values=frozen))
        if self.trainable == "text":
            return frozen
        if self.trainable == "text+projection":
            return self.model.visual_projection(frozen)
        for block in self.blocks[:-1]:
            frozen = block(frozen, None)
        first = _first_token(self.blocks[-1], frozen)
        return self.model.visual_projection(self.model.vision_model.post_layernorm(first))


def _first_token(block: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """The class token's output (n, width) of an encoder block: all that pooling reads, a sixth of the block's work."""
    attention = block.self_attn
    normed = block.layer_norm1(hidden)

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], x.shape[1], -1, attention.head_dim).transpose(1, 2)

    query, key, value = attention.q_proj(normed[:, :1]), attention.k_proj(normed), attention.v_proj(normed)
    mixed = scaled_dot_product_attention(
        heads(query), heads(key), heads(value), scale=attention.scale, dropout_p=attention.dropout * block.training
    )
    first = hidden[:, 0] + attention.out_proj(mixed.transpose(1, 2).flatten(2)[:, 0])
    return first + block.mlp(block.layer_norm2(first))


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
    tower: ImageTower, retriever: ClipRetriever, pictures: Pictures, path: Path, report: Callable[[int], None], chunk: int = 256
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
