"""Rules most pairs out by a few dimensions of their vectors: exact still, at a fifth of the arithmetic where the data allow it.

An orthogonal map puts most of every vector's length into its first p dimensions (principal directions of a sample). With x = head
+ tail, x.y = head.head + tail.tail, and tail.tail <= |tail x| |tail y| <= (|tail x|^2 + |tail y|^2) / 2 by Cauchy and Schwarz:
one number a vector, measured. Heads are rounded to integers; what rounding took is measured too and added to that number. It
is written, in digits of the same integers, into a few more dimensions of the sketch, against constants on the other side.
So one short integer product is an upper bound of the score, and is compared with the score a list still needs.

Cost: two samples of ``SAMPLE`` rows, one that directions are fitted to and one that p is chosen by, a quarter of a second of one
core at 768 dimensions; then one product (n, d) x (d, p).
Where no p promises less work than the full sketch (:mod:`mmret.mine.operands`), there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

SAMPLE = 4_096
"""Rows that directions and their number are chosen from; a smaller shard has none."""

_ASKED = 256  # of the sample, compared with all of it
_SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 5 / 16, 3 / 8, 1 / 2, 5 / 8)  # of the width, tried as p
_PAIR = 60_000  # time to score a pair exactly, in dimensions of a product
_SCAN = 20  # time to test a product against thresholds, likewise
_ROUNDING = 0.01  # what rounding adds to a bound, about
_DIGITS = 16  # dimensions that bounds take, about
_LANDMARKS, _LANDMARK_ROWS = 1_024, 64  # at most so many, one for so many rows
_ROWS = 2_048  # arranged at once
_SLACK = 3e-4  # float32 errors of the map and of lengths, both sides, with room
_ROOM = 1.2  # how much further than in the sample a bound may reach


@dataclass(frozen=True)
class Head:
    """Sketch of r vectors: ``rows`` (p', w) int8 and ``columns`` (w, p') int8, p' is r padded as the caller does.

    A product of two heads times ``unit`` (score per unit of a product) is at least the score, and at most the sum of both
    ``excess`` (r,) float32 more.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    unit: float
    excess: np.ndarray


@dataclass(frozen=True)
class Projection:
    """``basis`` (d, p) float32 with orthonormal columns; codes go to ``largest`` and stand for ``unit``; a bound takes ``digits``.

    ``landmarks`` (p, m) int8: codes of some vectors, like ones beside each other.
    """

    basis: torch.Tensor
    unit: float
    largest: int
    digits: int
    landmarks: torch.Tensor

    def arrangement(self, vectors: np.ndarray) -> np.ndarray:
        """Permutation (n,) that puts ``vectors`` (n, d) float16 of the same landmark beside each other.

        Pairs that matter then lie in few tiles; the others are ruled out as a whole.
        """
        starts = range(0, len(vectors), _ROWS)
        return beside_like_ones([self.code(torch.from_numpy(vectors[at : at + _ROWS]).float()) for at in starts])

    def code(self, vectors: torch.Tensor) -> Codes:
        """Codes of ``vectors`` (r, d) float32 of about unit length, in any order."""
        heads = vectors @ self.basis
        tails = (vectors.square().sum(1) - heads.square().sum(1)).clamp_min_(0)
        codes = heads.div(self.unit).round_().clamp_(-self.largest, self.largest)
        rounding = torch.linalg.vector_norm(heads.sub_(codes, alpha=self.unit), dim=1)
        codes = codes.to(torch.int8)
        nearest = torch._int_mm(codes, self.landmarks).numpy().argmax(1)  # four times as fast as torch's
        return Codes(codes.numpy(), (1.01 * rounding + 1.5 * rounding.square() + tails / 2 + _SLACK).numpy(), nearest)

    def written(self, codes: np.ndarray, bounds: np.ndarray, padding: int) -> Head | None:
        """Head of vectors with ``codes`` (r, p) int8 and ``bounds`` (r,) float32; None where a bound is too large to write."""
        step = self.largest * self.unit**2
        units = np.ceil(bounds / np.float32(step))
        if float(units.max()) > self.digits * self.largest:
            return None
        (r, p), d = codes.shape, self.digits
        digits = np.clip(units[:, None] - np.arange(d, dtype=np.float32) * self.largest, 0, self.largest)
        rows, columns = (np.zeros((r + padding, p + 2 * d), np.int8) for _ in range(2))
        rows[:r, :p] = columns[:r, :p] = codes
        rows[:r, p : p + d] = columns[:r, p + d :] = digits
        rows[:r, p + d :] = columns[:r, p : p + d] = self.largest
        columns = torch.from_numpy(columns).T.contiguous()
        return Head(torch.from_numpy(rows), columns, self.unit**2, 2 * (bounds + np.float32(step)))

    def head(self, vectors: torch.Tensor, padding: int) -> Head | None:
        """Head of ``vectors`` (r, d) float32 of about unit length; None where a bound is too large to be written down."""
        coded = self.code(vectors)
        return self.written(coded.codes, coded.bounds, padding)


@dataclass(frozen=True)
class Codes:
    """``codes`` (r, p) int8 of r heads, ``bounds`` (r,) float32 of what they leave out, ``nearest`` (r,) landmark of each."""

    codes: np.ndarray
    bounds: np.ndarray
    nearest: np.ndarray


def beside_like_ones(parts: list[Codes]) -> np.ndarray:
    """Permutation (n,) of the vectors of all ``parts`` that puts those of the same landmark beside each other."""
    return np.argsort(np.concatenate([part.nearest for part in parts]).astype(np.uint16), kind="stable")


def choose_projection(vectors: np.ndarray, k: int, low: float, high: float, largest: int) -> Projection | None:
    """The projection with which mining ``vectors`` (n, d) float16 for ``k`` neighbours in a band costs least, by a sample.

    ``largest`` is the largest code that products are exact for. None where the full sketch costs less. Results do not depend on it.
    """
    rows, width = vectors.shape
    some = vectors[:: max(1, rows // (2 * SAMPLE))][: 2 * SAMPLE]
    if rows < SAMPLE or vectors.dtype != np.float16 or not np.isfinite(some).all():
        return None
    fitted, sample = (torch.from_numpy(some[at::2]).float() for at in (0, 1))  # what directions are fitted to, they suit too well
    lengths = sample.square().sum(1)
    if bool((lengths < 0.5).any()):  # no unit vectors, which the full sketch refuses by name
        return None
    every = max(1, len(sample) // _ASKED)
    scores = sample[::every] @ sample.T
    floor = _floors(scores, max(1, round(k * len(sample) / rows)), low, high)
    directions = torch.linalg.eigh(fitted.T @ fitted)[1].flip(1)
    turned = sample @ directions[:, : max(8, int(width * max(_SHARES)))]
    best, cost = 0, width + _SCAN + _PAIR * float((scores >= floor - 2 * _ROUNDING).float().mean())
    for share in _SHARES:
        p = max(8, int(width * share) // 8 * 8)
        heads = turned[:, :p]
        tails = (lengths - heads.square().sum(1)) / 2 + _ROUNDING
        upper = torch.addmm(tails, heads[::every], heads.T).add_(tails[::every, None])
        new = p + _DIGITS + _SCAN + _PAIR * float((upper >= floor).float().mean())
        if new < cost:
            best, cost = p, new
    if not best:
        return None
    landmarks = _neighbouring(fitted[:: max(1, len(fitted) * _LANDMARK_ROWS // rows)][:_LANDMARKS], low)
    return _projection(directions[:, :best], turned[:, :best], lengths, largest, landmarks)


def _floors(scores: torch.Tensor, k: int, low: float, high: float) -> torch.Tensor:
    """Scores (q, 1) that a full list will ask for, from those of each query with a sample: the ``k``-th best of the band."""
    inside = torch.where((scores > low) & (scores < high), scores, torch.full_like(scores, low))
    return inside.topk(min(k, scores.shape[1]), 1).values[:, -1:]


def _neighbouring(vectors: torch.Tensor, low: float) -> torch.Tensor:
    """``vectors`` (m, d) in an order in which those that score ``low`` or more with the first of a group follow it."""
    near = (vectors @ vectors.T >= low).numpy()
    group = np.full(len(near), -1)
    for at, row in enumerate(near):
        if group[at] < 0:
            group[row & (group < 0)] = group[at] = at
    return vectors[torch.from_numpy(np.argsort(group, kind="stable"))]


def _projection(
    directions: torch.Tensor, heads: torch.Tensor, lengths: torch.Tensor, largest: int, landmarks: torch.Tensor
) -> Projection:
    """The first directions, mixed so that none of them needs larger codes than the others."""
    p = directions.shape[1]
    mixing = torch.linalg.qr(torch.from_numpy(np.random.default_rng(p).standard_normal((p, p), np.float32)))[0]
    unit = float((heads @ mixing).abs().max()) / largest
    bound = float((lengths - heads.square().sum(1)).max()) / 2 + 2 * unit * (p / 12) ** 0.5 + _SLACK
    digits = -(-int(np.ceil(_ROOM * bound / (largest * unit) ** 2)) // 4) * 4
    basis = directions @ mixing
    codes = (landmarks @ basis / unit).round_().clamp_(-largest, largest)
    return Projection(basis, unit, largest, digits, codes.to(torch.int8).T.contiguous())
