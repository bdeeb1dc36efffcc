"""Learns what captions mean from what their pictures look like: *disc* and *circle* are the same, *red* and *blue* are not.

A bag of a caption's words and the picture's vectors are mapped into one space, trained so that each caption is nearest to its own
picture. What no picture shows, such as the choice between two words for one thing, does not move a caption there. Cost: at most 200
steps of 512 pictures, 3 s, whatever the size of the corpus; then some 50,000 captions a second.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from mmret.filters.contrast import contrast
from mmret.filters.corpus import Corpus
from mmret.filters.words import BUCKETS

VISITS, FEWEST_STEPS, STEPS, BATCH, WIDTH = 13, 48, 200, 512, 64
"""Times that a picture is seen, within bounds of the steps: seen more often, its own words are learnt by heart."""
_BLOCK = 8192
PICTURES = ("clip_image", "dino_image")
"""Signals whose vectors are of pictures."""


class Meaning(nn.Module):
    """Captions and pictures of ``corpus`` in one space of ``WIDTH`` dimensions."""

    def __init__(self, corpus: Corpus, seed: int = 0):
        super().__init__()
        self.corpus = corpus
        self.signals = [signal for signal in PICTURES if signal in corpus.vectors]
        generator = torch.Generator().manual_seed(seed)
        words = torch.randn(BUCKETS, WIDTH, generator=generator) * 0.02
        self.words = nn.EmbeddingBag.from_pretrained(words, freeze=False, mode="sum", sparse=True)
        first = nn.Linear(sum(corpus.vectors[s].width for s in self.signals), 256)
        second = nn.Linear(256, WIDTH)
        for layer in (first, second):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)
        self.pictures = nn.Sequential(first, nn.ReLU(), second)
        self.scale = nn.Parameter(torch.tensor(2.3))

    def of_captions(self, rows: np.ndarray) -> torch.Tensor:
        return normalize(self.words(*self.corpus.bags.take(rows)), dim=1)

    def of_pictures(self, rows: np.ndarray) -> torch.Tensor:
        return normalize(self.pictures(torch.cat([self.corpus.vectors[s].take(rows) for s in self.signals], dim=1)), dim=1)


def fit_meaning(corpus: Corpus) -> Meaning:
    """What the captions of ``corpus`` mean; it has vectors of pictures."""
    meaning, rng = Meaning(corpus), np.random.default_rng(0)
    words = [meaning.words.weight]
    optimizers = [
        torch.optim.SparseAdam(words, lr=0.01),
        torch.optim.Adam([p for p in meaning.parameters() if p is not words[0]], lr=0.003),
    ]
    captioned = np.flatnonzero([bool(caption) for caption in corpus.captions])
    size = min(BATCH, max(2, len(captioned) // 4))
    order, at = rng.permutation(captioned), 0
    for _ in range(min(STEPS, max(FEWEST_STEPS, VISITS * len(captioned) // size))):
        if at + size > len(order):
            order, at = rng.permutation(captioned), 0
        rows = order[at : at + size]
        at += size
        contrast(meaning.of_captions(rows) @ meaning.of_pictures(rows).T * meaning.scale.exp(), optimizers)
    return meaning.eval()


@torch.inference_mode()
def meanings(meaning: Meaning) -> np.ndarray:
    """Unit vectors (n, WIDTH) float32 of all captions."""
    rows = np.arange(len(meaning.corpus.captions))
    parts = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
    return torch.cat([meaning.of_captions(part) for part in parts]).numpy()
