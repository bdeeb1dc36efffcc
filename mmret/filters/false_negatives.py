"""Finds hard negatives that a text asks for: filter ``false_negatives``.

A picture that an instruction asks for keeps what the instruction does not name, so it is one that nothing tells from the target:
its caption means the same (:mod:`.meaning`), and the image encoders, asked one by one, do not object. How near is near enough is
read from the corpus: where it has pictures of one meaning, their angles are a hill of their own before all other pairs, and the
valley behind it is the margin. A corpus without such a hill has no twins to learn that from; then only a caption of the very same
words counts.
Cost: 3 s to learn the meanings, 2,000 pictures compared with up to 100,000, then one product a negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmret.encode.tfidf import words_of
from mmret.filters.corpus import Corpus, Triplets
from mmret.filters.meaning import PICTURES, fit_meaning, meanings

LEAST = 200
"""Captioned pictures below which no meaning is learnt."""
_ASKED, _GALLERY, _BLOCK = 2000, 100_000, 65_536
_FARTHEST, _BIN, _DEPTH, _FEWEST = 45.0, 1.0, 0.8, 50
_OBJECTS = 0.02  # a picture encoder objects where it finds two less alike than this share of twins


@dataclass(frozen=True)
class FalseNegatives:
    """``scores`` (n,) of the negatives: the cosine of what their caption and the target's mean; ``threshold``: those at or above
    are dropped, but where ``against`` (n, signals), an image encoder of ``signals``, objects. ``same_words`` (n,): the captions
    are equal. ``note``: what was not judged, or None."""

    scores: np.ndarray
    threshold: float
    signals: tuple[str, ...]
    against: np.ndarray
    same_words: np.ndarray
    note: str | None = None

    @property
    def dropped(self) -> np.ndarray:
        return ((self.scores >= self.threshold) | self.same_words) & ~self.against.any(axis=1)


def false_negatives(corpus: Corpus, triplets: Triplets) -> FalseNegatives:
    """What is said of each of ``triplets.negatives``."""
    negative, target = triplets.negatives, triplets.target[triplets.negative_row]
    said = [tuple(words_of(caption)) for caption in corpus.captions]
    same = np.array([bool(said[n]) and said[n] == said[t] for n, t in zip(negative, target, strict=True)], bool)
    pictures = tuple(signal for signal in PICTURES if signal in corpus.vectors)
    captioned = sum(map(bool, corpus.captions))
    nothing = np.zeros((len(negative), len(pictures)), bool)
    if captioned < LEAST or not pictures:
        note = f"{captioned} captioned pictures are too few to learn what captions mean" if pictures else "no vectors of pictures"
        return FalseNegatives(same.astype(np.float32), np.inf, pictures, nothing, same, f"{note}: only equal captions count")
    captions = meanings(fit_meaning(corpus))
    captions[[not caption for caption in corpus.captions]] = 0
    angle = valley(captions)
    scores = _cosines(captions, negative, target)
    if angle is None:
        note = "no two pictures of the corpus mean the same by their captions: only equal captions count"
        return FalseNegatives(scores, np.inf, pictures, nothing, same, note)
    threshold = float(np.cos(np.radians(angle)))
    one, other = _twins(captions, float(np.cos(np.radians(angle / 2))))
    against = nothing
    for column, signal in enumerate(pictures):
        alike = _alike(corpus, signal, negative, target)
        least = np.quantile(_alike(corpus, signal, one, other), _OBJECTS) if len(one) >= _FEWEST else -1
        against[:, column] = alike < least
    return FalseNegatives(scores, threshold, pictures, against, same)


def valley(captions: np.ndarray) -> float | None:
    """The angle in degrees that parts captions (n, width) of one meaning from others; None where they are no hill of their own.

    Pairs of a drawn part of the captions are counted by their angle, per degree. Pairs that mean different things only grow more
    numerous with the angle, far from each other as most are; a hill before them is of those that mean the same.
    """
    edges = np.arange(0, _FARTHEST + _BIN, _BIN)
    counts = np.zeros(len(edges) - 1)
    asked, gallery = _drawn(captions)
    for start in range(0, len(asked), 256):
        own = asked[start : start + 256]
        cosines = captions[own] @ captions[gallery].T
        cosines[own[:, None] == gallery[None, :]] = 0
        near = cosines[cosines > np.cos(np.radians(_FARTHEST))]
        counts += np.histogram(np.degrees(np.arccos(np.clip(near, -1, 1))), edges)[0]
    smooth = np.convolve(np.pad(counts, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    for top in range(1, len(smooth) - 2):
        if smooth[top] < smooth[top - 1] or smooth[top] < smooth[top + 1] or counts[: top + 1].sum() < _FEWEST:
            continue
        after = smooth[top:]
        risen = np.flatnonzero(after > smooth[top])
        end = int(risen[0]) if len(risen) else len(after)
        lowest = int(np.argmin(after[:end]))
        if len(risen) and after[lowest] <= _DEPTH * smooth[top]:
            return float(edges[top + lowest] + _BIN / 2)
    return None


def _drawn(captions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = np.flatnonzero(captions.any(axis=1))
    order = np.random.default_rng(0).permutation(known)
    return order[:_ASKED], order[:_GALLERY]


def _twins(captions: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of pictures whose captions certainly mean the same."""
    asked, gallery = _drawn(captions)
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, len(asked), 256):
        own = asked[start : start + 256]
        at, to = np.nonzero(captions[own] @ captions[gallery].T >= least)
        pairs.append(np.stack([own[at], gallery[to]], axis=1)[own[at] != gallery[to]])
    found = np.concatenate(pairs)
    return found[:, 0], found[:, 1]


def _cosines(vectors: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    parts = (slice(start, start + _BLOCK) for start in range(0, len(one), _BLOCK))
    return np.concatenate(
        [np.empty(0, np.float32), *((vectors[one[part]] * vectors[other[part]]).sum(axis=1, dtype=np.float32) for part in parts)]
    )


def _alike(corpus: Corpus, signal: str, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    vectors = corpus.vectors[signal]
    parts = [slice(start, start + _BLOCK) for start in range(0, len(one), _BLOCK)]
    return np.concatenate(
        [np.empty(0, np.float32), *((vectors.take(one[p]) * vectors.take(other[p])).sum(dim=1).numpy() for p in parts)]
    )
