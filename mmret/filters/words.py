"""Captions and texts as bags of hashed words and pairs of neighbouring words, which the filters learn from.

No vocabulary: a word is its hash, so that any language and any size of corpus take the same memory. Cost: some 30 microseconds a
caption or text, and 60 a pair of captions.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from mmret.encode.tfidf import words_of

BUCKETS = 1 << 15
"""Hashes that a word may have."""


def grams(text: str) -> list[int]:
    """Hashes below :data:`BUCKETS` of the distinct words and neighbouring pairs of words of ``text``, ascending."""
    words = words_of(text or "")
    both = [*words, *(f"{one} {other}" for one, other in zip(words, words[1:], strict=False))]
    return sorted({zlib.crc32(word.encode()) % BUCKETS for word in both})


class Bags:
    """Bags of numbers, one after another: ``values`` and the ``starts`` (n + 1,) of each."""

    def __init__(self, bags: Iterable[Sequence[int]]):
        found = [np.asarray(bag, np.int64) for bag in bags]
        self.starts = np.concatenate([[0], np.cumsum([len(bag) for bag in found], dtype=np.int64)]).astype(np.int64)
        self.values = np.concatenate(found) if found else np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.starts[row] : self.starts[row + 1]]

    def take(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of ``rows`` as :class:`torch.nn.EmbeddingBag` takes them: all numbers, and where each bag begins."""
        starts, lengths = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        begin = np.cumsum(lengths) - lengths
        values = self.values[np.repeat(starts - begin, lengths) + np.arange(lengths.sum())]
        return torch.from_numpy(values), torch.from_numpy(begin)


def change(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """What the words of a target (ascending) say beside those of its source: numbers below ``3 * BUCKETS``, for words that came,
    words that went, and all words of the target."""
    came = np.setdiff1d(target, source, assume_unique=True)
    went = np.setdiff1d(source, target, assume_unique=True)
    return np.concatenate([came, went + BUCKETS, target + 2 * BUCKETS])


def weights(bags: Bags) -> np.ndarray:
    """ln(1 + n / (1 + count)) of each hash: (BUCKETS,) float32, of n bags of which ``count`` have it."""
    counts = np.bincount(bags.values, minlength=BUCKETS)
    return np.log(1 + len(bags) / (1 + counts)).astype(np.float32)
