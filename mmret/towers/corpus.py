"""The pictures that the lake's own towers are trained on: a fixed sample, decoded once into one small uint8 array.

Cost: decoding, about 2,000 small PNG files a second on two cores; memory 7 kB a picture of 48 px.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mmret.encode.pixels import Preprocessing
from mmret.errors import UserError
from mmret.hashing import fingerprint, uniform
from mmret.ingest.pictures.decode import open_rgb
from mmret.ingest.pictures.images import read_images
from mmret.lake import Lake
from mmret.threads import in_order

CaptionedImage = tuple[str, bytes, str]
"""image_id, encoded picture, caption."""


@dataclass(frozen=True)
class TowerCorpus:
    """Pictures in the order of their ids. ``train`` and ``held_out`` are row numbers, int64; a tiny corpus holds none out."""

    ids: list[str]
    pixels: Tensor  # (n, 3, size, size) uint8
    captions: list[str]
    train: Tensor
    held_out: Tensor

    @property
    def key(self) -> str:
        """A fingerprint that changes with any picture or caption."""
        return fingerprint(self.ids, self.captions)


def distinct_words(captions: Iterable[str]) -> int:
    """How many different words at least two captions use: a measure of how much the towers have to tell apart."""
    counts = Counter(word for caption in captions for word in set(re.findall(r"\w+", caption.lower())))
    return sum(count > 1 for count in counts.values())


def sample_images(lake: Lake, max_images: int, batch_rows: int = 256) -> Iterator[CaptionedImage]:
    """The ``max_images`` images of the lake with the lowest ids, shard by shard."""
    index = lake.read("images", columns=["image_id", "shard"])
    chosen = sorted(index["image_id"].to_pylist())[:max_images]
    wanted = set(chosen)
    for shard in lake.partitions("images"):
        for batch in read_images(lake, shard, batch_rows, wanted):
            yield from zip(batch["image_id"].to_pylist(), batch["data"].to_pylist(), batch["caption"].to_pylist(), strict=True)


def decode_images(images: Iterable[CaptionedImage], preprocessing: Preprocessing, max_images: int, seed: int) -> TowerCorpus:
    """Decode ``images`` in threads, sort them by id and use the ``max_images`` lowest ids.

    About 4 % of them, at most 400, are held out, chosen by a hash of (seed, id). Raises UserError for fewer than two pictures.
    """

    def small(image: CaptionedImage) -> tuple[str, Tensor, str]:
        return image[0], preprocessing.pixels(open_rgb(image[1])), image[2] or ""

    workers = max(1, min(4, torch.get_num_threads()))
    rows = sorted((row for _, row in in_order(small, images, workers, 64)), key=lambda row: row[0])[:max_images]
    if len(rows) < 2:
        raise UserError(
            f"towers are trained on the corpus itself, which has {len(rows)} usable images: add images, "
            "or use a profile with ready-made encoders (--profile local)"
        )
    ids, pixels, captions = zip(*rows, strict=True)
    share = min(0.04, 400 / len(ids)) if len(ids) >= 100 else 0.0
    out = torch.tensor([uniform(seed, "held_out", image_id) < share for image_id in ids])
    return TowerCorpus(list(ids), torch.stack(pixels), list(captions), torch.nonzero(~out).flatten(), torch.nonzero(out).flatten())
