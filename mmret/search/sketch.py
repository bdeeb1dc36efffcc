"""Eight-bit sketches of a gallery: one product tells every score to within a measured bound, in a quarter of the memory traffic.

A vector x is centred (the gallery's mean is taken off, which the scores get back exactly), turned by a fixed orthogonal map and
rounded to eight bits; the length e of what rounding took is measured. With y = x - mean and a query q of unit length,
|q.y - q'.y'| <= e_y + e_q (|y| + e_y), so a picture whose score by the sketch lies further than twice that below the k-th best is
surely none of the k nearest. Galleries whose pictures all look alike to a model, scores of 0.9 and more, have short y and hence
tight bounds. Cost: building reads the vectors once; a product of 100,000 x 512 with up to 32 queries takes about 6 ms of one core
with VNNI, where the product of the vectors themselves takes 8 ms for one query and 55 for 32.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from mmret.mine.operands import int8_products, rotated

_ROWS = 2_048  # sketched at once: more would take memory that nothing else needs
_SLACK = 2e-5  # float32 error of the rotation, both sides, with room


def fast_sketches() -> bool:
    """Whether eight-bit products are fast on this processor; float32 ones are used otherwise, with the same results."""
    return int8_products(torch.device("cpu"))


class Sketch:
    """The sketch of ``vectors`` (n, d) float32 of unit length: ``columns`` (w, n) int8, d bytes a vector."""

    def __init__(self, vectors: np.ndarray):
        self.rows = len(vectors)
        self.mean = _mean(vectors)
        largest, length = 0.0, 0.0
        for part in self._parts(vectors):
            largest = max(largest, float(part.abs().max()))
        self.unit = max(largest / 127, 1e-12)
        self.error = 0.0
        self.columns = torch.empty((0, 0), dtype=torch.int8)
        at = 0
        for part in self._parts(vectors):
            codes = (part / self.unit).round_()
            self.error = max(self.error, float((part - codes * self.unit).norm(dim=1).max()))
            length = max(length, float(part.norm(dim=1).max()))
            if not self.columns.numel():
                self.columns = torch.empty((part.shape[1], self.rows), dtype=torch.int8)
            self.columns[:, at : at + len(part)] = codes.to(torch.int8).T
            at += len(part)
        self.length = length + self.error

    def _parts(self, vectors: np.ndarray) -> Iterator[torch.Tensor]:
        for start in range(0, self.rows, _ROWS):
            yield rotated(torch.from_numpy(vectors[start : start + _ROWS] - self.mean))

    def products(self, queries: np.ndarray) -> tuple[torch.Tensor, np.ndarray, np.ndarray, np.ndarray]:
        """Of ``queries`` (q, d) float32 of unit length: products (q, n) int32, and ``base``, ``unit`` and ``slack`` (q,) float64.

        The score of query i with vector j is ``base[i] + unit[i] * products[i, j]`` to within ``slack[i]``.
        """
        asked = torch.from_numpy(np.ascontiguousarray(queries, np.float32))
        turned = rotated(asked)
        own = turned.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
        codes = (turned / own).round_()
        error = (turned - codes * own).norm(dim=1).double().numpy()
        products = torch._int_mm(codes.to(torch.int8), self.columns)
        base = asked.double().numpy() @ self.mean.astype(np.float64)
        unit = own[:, 0].double().numpy() * self.unit
        return products, base, unit, self.error + error * self.length + _SLACK


def _mean(vectors: np.ndarray) -> np.ndarray:
    total = np.zeros(vectors.shape[1], np.float64)
    for start in range(0, len(vectors), _ROWS):
        total += vectors[start : start + _ROWS].sum(axis=0, dtype=np.float64)
    return (total / max(1, len(vectors))).astype(np.float32)
