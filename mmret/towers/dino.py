"""The demo's visual-pattern tower: a stock ``transformers.Dinov2Model`` trained on pictures alone, without captions.

DINOv2's own recipe (self-distillation over many crops with a slow teacher) needs far more steps than a corpus of this
size is worth; two views of a picture against the rest of the batch (NT-Xent, Chen et al. 2020) gives a usable space
in some hundred. Measured: 0.45 s for a step of 256 pictures in two views on two cores.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from mmret.encode.augment import PATTERN_VIEWS, seeded_generator, views
from mmret.encode.last_block import dino_token
from mmret.encode.pixels import Preprocessing
from mmret.settings import TowerSettings
from mmret.towers.corpus import TowerCorpus
from mmret.towers.pretrain import batch_rows

TEMPERATURE = 0.1


def new_dino(settings: TowerSettings) -> Dinov2Model:
    """An untrained tower of the size in ``settings``, initialised by its seed."""
    config = Dinov2Config(
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        patch_size=settings.patch_size,
        num_attention_heads=settings.heads,
        image_size=settings.image_size,
    )
    torch.manual_seed(settings.seed + 1)
    return Dinov2Model(config)


def image_processor(settings: TowerSettings) -> BitImageProcessor:
    """DINOv2's own preprocessing at the tower's size; the whole picture is seen, not its centre."""
    side = settings.image_size
    return BitImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )


def save_dino(model: Dinov2Model, settings: TowerSettings, folder: Path) -> None:
    """Write a folder that ``Dinov2Model.from_pretrained`` and ``AutoImageProcessor.from_pretrained`` load."""
    model.save_pretrained(folder)
    image_processor(settings).save_pretrained(folder)


def pattern_loss(
    model: Dinov2Model, corpus: TowerCorpus, preprocessing: Preprocessing, settings: TowerSettings
) -> Callable[[int], Tensor]:
    """The loss of a step, for :func:`mmret.towers.pretrain.fit`."""

    def loss(step: int) -> Tensor:
        rows = corpus.train[batch_rows(len(corpus.train), settings.batch_size, step, settings.seed, "dino")]
        generator = seeded_generator(settings.seed, "dino", step)
        pair = torch.cat([views(corpus.pixels[rows], PATTERN_VIEWS, generator) for _ in range(2)])
        return nt_xent(normalize(dino_token(model, preprocessing.normalise(pair))))

    return loss


def nt_xent(vectors: Tensor) -> Tensor:
    """NT-Xent loss of unit vectors (2n, d), where rows i and i + n are two views of one picture; a scalar.

    Each view has to find the other one among all the rest.
    """
    n = len(vectors) // 2
    logits = (vectors @ vectors.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return cross_entropy(logits, torch.arange(2 * n).roll(n))
