"""Learns how texts go with pairs of pictures, by each signal alone, and scores every text by what the other half has taught.

A scorer is two small maps into one space, trained so that a text is nearer to its own pair than to the others of the batch, among
them other targets of the same picture: texts by their words; pairs by the words that came and went between the captions, or by
the vectors of target and change. Triplets are halved by query picture. Every word begins with a direction of its own on both
sides, so that a word that was never seen still meets itself in a caption. Cost: at most 160 steps of 512 pairs and half, whatever
the size of the corpus, 2 to 4 s a signal; then a pass over the texts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from mmret.filters.contrast import contrast
from mmret.filters.corpus import Corpus, Triplets
from mmret.filters.words import BUCKETS, Bags, change, grams, weights

WORDS = "words"
"""The signal of the captions' words."""
VISITS, FEWEST_STEPS, STEPS, BATCH, WIDTH = 8, 48, 160, 512, 64
"""Times that a triplet is seen, within bounds of the steps."""
_RATE, _SMOOTHING, _BLOCK = 0.01, 0.1, 4096


class Scorer(nn.Module):
    """Scores of texts for pairs, of one signal. ``first`` (BUCKETS, WIDTH): what every word begins with."""

    def __init__(self, signal: str, corpus: Corpus, first: torch.Tensor, seed: int):
        super().__init__()
        self.signal, self.corpus = signal, corpus
        generator = torch.Generator().manual_seed(seed)
        self.texts = nn.EmbeddingBag.from_pretrained(_near(first, generator), freeze=False, mode="sum", sparse=True)
        if signal == WORDS:
            began = torch.cat([first, first / 2, torch.zeros_like(first)])
            self.pairs = nn.EmbeddingBag.from_pretrained(_near(began, generator), freeze=False, mode="sum", sparse=True)
        else:
            self.pairs = nn.Linear(2 * corpus.vectors[signal].width, WIDTH)
            nn.init.normal_(self.pairs.weight, std=self.pairs.in_features**-0.5, generator=generator)
            nn.init.zeros_(self.pairs.bias)
        self.scale = nn.Parameter(torch.tensor(2.3))

    def of_texts(self, bags: Bags, rows: np.ndarray) -> torch.Tensor:
        """(n, WIDTH), of length one times the scale."""
        return normalize(self.texts(*bags.take(rows)), dim=1) * self.scale.exp()

    def of_pairs(self, query: np.ndarray, target: np.ndarray) -> torch.Tensor:
        """(n, WIDTH) unit vectors of pairs of pictures."""
        if self.signal == WORDS:
            bags = self.corpus.bags
            changes = Bags(change(bags[q], bags[t]) for q, t in zip(query, target, strict=True))
            return normalize(self.pairs(*changes.take(np.arange(len(changes)))), dim=1)
        vectors = self.corpus.vectors[self.signal]
        sources, targets = vectors.take(query), vectors.take(target)
        return normalize(self.pairs(torch.cat([targets, targets - sources], dim=1)), dim=1)


def _near(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return values + torch.randn(values.shape, generator=generator) * 0.02


def first_words(corpus: Corpus) -> torch.Tensor:
    """A random direction for each word, the longer the rarer it is: (BUCKETS, WIDTH)."""
    directions = torch.randn(BUCKETS, WIDTH, generator=torch.Generator().manual_seed(5)) / WIDTH**0.5
    return directions * torch.from_numpy(weights(corpus.bags))[:, None] * 0.3


def fit(scorer: Scorer, triplets: Triplets, bags: Bags, rows: np.ndarray, seed: int) -> Scorer:
    """Train ``scorer`` on the triplets ``rows``, each with one text drawn a visit. ``bags``: words of the texts."""
    words = [p for p in scorer.parameters() if p.dim() and len(p) >= BUCKETS]
    dense = [p for p in scorer.parameters() if all(p is not w for w in words)]
    optimizers = [torch.optim.SparseAdam(words, lr=_RATE), torch.optim.Adam(dense, lr=_RATE)]
    rng = np.random.default_rng(seed)
    size = int(min(BATCH, max(2, len(rows) // 4)))
    order, at = _shuffled(triplets, rows, rng), 0
    for _ in range(min(STEPS, max(FEWEST_STEPS, VISITS * len(rows) // size))):
        if at + size > len(order):
            order, at = _shuffled(triplets, rows, rng), 0
        own = order[at : at + size]
        at += size
        drawn = triplets.starts[own] + rng.integers(0, np.diff(triplets.starts)[own])
        found = scorer.of_texts(bags, drawn) @ scorer.of_pairs(triplets.query[own], triplets.target[own]).T
        contrast(found, optimizers, _SMOOTHING)
    return scorer.eval()


def _shuffled(triplets: Triplets, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``rows`` in an order that keeps those of one query picture beside each other."""
    pictures = np.unique(triplets.query[rows])
    place = dict(zip(rng.permutation(pictures).tolist(), range(len(pictures)), strict=True))
    return rows[np.argsort([place[q] for q in triplets.query[rows].tolist()], kind="stable")]


Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class CrossFitted:
    """The scorers of one signal, each fitted on one half of the triplets and used for the other."""

    def __init__(self, signal: str, corpus: Corpus, triplets: Triplets, bags: Bags, half: np.ndarray):
        first = first_words(corpus)
        usable = np.diff(triplets.starts) > 0
        self.half, self.bags = half, bags
        self.scorers = [
            fit(Scorer(signal, corpus, first, seed), triplets, bags, np.flatnonzero(usable & (half != seed)), seed)
            for seed in (0, 1)
        ]

    @torch.inference_mode()
    def scores(self, texts: np.ndarray, query: np.ndarray, target: np.ndarray, half: np.ndarray) -> np.ndarray:
        """How well each of ``texts`` goes with the pair beside it, by what the other half has taught: (n,) float32."""
        found = np.empty(len(texts), np.float32)
        for seed, scorer in enumerate(self.scorers):
            own = np.flatnonzero(half == seed)
            for start in range(0, len(own), _BLOCK):
                rows = own[start : start + _BLOCK]
                said = scorer.of_texts(self.bags, texts[rows])
                found[rows] = (said * scorer.of_pairs(query[rows], target[rows])).sum(dim=1).numpy()
        return found


def text_bags(triplets: Triplets) -> Bags:
    return Bags(map(grams, triplets.texts))
