"""Some shards' vectors as a search holds them, and the rows among them nearest to a query.

An exact block rules most rows out by a sketch (:mod:`mmret.search.sketch`) or, where the processor has no fast eight-bit products,
by a float32 product; what is left is scored in double precision and rounded once. So an answer is that of brute force and does not
depend on what else was asked in the same batch. A block at a lower precision takes the best of its short vectors and scores those
again with the full ones, which stay on disk. Cost per query: the product over all rows, and some hundred rows in double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from mmret.quantise import hamming, shorten, to_binary
from mmret.ranking import best_first
from mmret.search.options import SearchOptions
from mmret.search.sketch import Sketch, fast_sketches

Found = tuple[np.ndarray, np.ndarray]
"""Rows (m,) int64 and their scores (m,) float32, best first; of equal scores the lower row first."""

_FEW = 16  # a share of one in so many rows is scored without the sketch
_NEVER = np.iinfo(np.int32).min


class Block:
    """Rows of a gallery: ``vectors`` (n, d) float32 of unit length, in memory or memory-mapped.

    ``sketched`` False: nothing but the vectors is prepared, for rows whose candidates come from an index.

    >>> rows, scores = Block(vectors, SearchOptions()).nearest(queries, k=10)[0]
    """

    def __init__(self, vectors: np.ndarray, options: SearchOptions = SearchOptions(), sketched: bool = True):
        self.vectors, self.rows = vectors, len(vectors)
        self.options = options if sketched else SearchOptions()
        options = self.options
        short = vectors if options.dimensions is None else shorten(np.asarray(vectors), options.dimensions)
        self._bits = to_binary(np.asarray(short)) if options.precision == "binary" else None
        eight_bits = options.precision == "int8" or (options.precision == "float32" and fast_sketches())
        self._sketch = Sketch(short) if sketched and eight_bits else None
        self._short = None if options.exact or self._bits is not None or options.precision == "int8" else short

    def nearest(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> list[Found]:
        """The ``k`` rows of highest score for each of ``queries`` (q, d) float32 of unit length, among those that ``allowed`` (n,)
        bool leaves; fewer where there are fewer."""
        places = None if allowed is None else np.flatnonzero(allowed)
        k = min(k, self.rows if places is None else len(places))
        if not k:
            return [(np.zeros(0, np.int64), np.zeros(0, np.float32))] * len(queries)
        if places is not None and len(places) * _FEW <= self.rows:
            return [self.scored(query, places, k) for query in queries]
        if self.options.exact:
            return self._exactly(queries, k, allowed)
        return self._roughly(queries, k, allowed)

    def all_scores(self, query: np.ndarray) -> np.ndarray:
        """Scores (n,) float32 of every row with ``query`` (d,), by the full vectors."""
        return np.asarray(self.vectors @ query.astype(np.float32))

    def _exactly(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> list[Found]:
        if self._sketch is None:
            return self._by_floats(queries, k, allowed)
        products, _, unit, slack = self._sketch.products(queries)
        if allowed is not None:
            products[:, torch.from_numpy(~allowed)] = _NEVER
        worst = products.topk(k, dim=1, sorted=False).values.amin(1).double().numpy()
        floor = torch.from_numpy(np.clip(np.floor(worst - 2 * slack / unit), _NEVER + 1, None).astype(np.int32))
        maybe = products >= floor[:, None]
        if int(maybe.sum()) * 8 > maybe.numel():  # all look alike: the sketch tells nothing
            return self._by_floats(queries, k, allowed)
        return [self.scored(query, np.flatnonzero(row), k) for query, row in zip(queries, maybe.numpy(), strict=True)]

    def _by_floats(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> list[Found]:
        asked = np.ascontiguousarray(queries.T, np.float32)
        if self.vectors.flags.writeable:
            product = torch.from_numpy(self.vectors) @ torch.from_numpy(asked)
        else:  # mapped from a file: torch takes none that it may not write to
            product = torch.from_numpy(np.asarray(self.vectors @ asked))
        scores = product.T.contiguous()
        if allowed is not None:
            scores[:, torch.from_numpy(~allowed)] = -torch.inf
        floor = scores.topk(k, dim=1, sorted=False).values.amin(1) - 2 * _rounding(queries.shape[1])
        maybe = (scores >= floor[:, None]).numpy()
        return [self.scored(query, np.flatnonzero(row), k) for query, row in zip(queries, maybe, strict=True)]

    def scored(self, query: np.ndarray, rows: np.ndarray, k: int) -> Found:
        """The best ``k`` of ``rows`` (m,), ascending, for ``query`` (d,) by their exact scores; all where there are fewer."""
        query, k = query.astype(np.float32), min(k, len(rows))
        if not k:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        if len(rows) > 4 * k:
            rough = self._of(rows, lambda part: part @ query)
            least = np.partition(rough, -k)[-k] - 2 * _rounding(len(query))
            rows = rows[rough >= least]
        scores = self._of(rows, lambda part: np.einsum("nd,d->n", part.astype(np.float64), query.astype(np.float64)))
        scores = scores.astype(np.float32)
        order = best_first(scores)[:k]
        return rows[order], scores[order]

    def _of(self, rows: np.ndarray, product: Callable[[np.ndarray], np.ndarray], step: int = 4096) -> np.ndarray:
        return np.concatenate([product(self.vectors[rows[at : at + step]]) for at in range(0, len(rows), step)])

    def _roughly(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> list[Found]:
        scores = self._rough_scores(queries)
        if allowed is not None:
            scores[:, ~allowed] = -np.inf
        wanted = min(max(1, self.options.rescore) * k, self.rows if allowed is None else int(allowed.sum()))
        found = []
        for query, row in zip(queries, scores, strict=True):
            rows = np.sort(np.argpartition(row, len(row) - wanted)[len(row) - wanted :])
            if self.options.rescore:
                found.append(self.scored(query, rows, k))
            else:
                order = best_first(row[rows])[:k]
                found.append((rows[order], row[rows[order]]))
        return found

    def _rough_scores(self, queries: np.ndarray) -> np.ndarray:
        """(q, n) float32 by the short vectors: cosines, of binary ones the share of equal signs, from -1 to 1."""
        asked = queries if self.options.dimensions is None else shorten(queries, self.options.dimensions)
        if self._bits is not None:
            return 1 - 2 * hamming(to_binary(asked), self._bits).astype(np.float32) / asked.shape[1]
        if self._sketch is not None:
            products, base, unit, _ = self._sketch.products(asked)
            return products.numpy() * unit[:, None].astype(np.float32) + base[:, None].astype(np.float32)
        return np.asarray(asked.astype(np.float32) @ self._short.T)


def merged(found: Sequence[Found], starts: Sequence[int], k: int) -> Found:
    """The best ``k`` of what each block found, as positions in the whole gallery; block i begins at ``starts[i]``."""
    rows = np.concatenate([rows + start for (rows, _), start in zip(found, starts, strict=True)])
    scores = np.concatenate([scores for _, scores in found])
    order = best_first(scores)[:k]
    return rows[order], scores[order]


def _rounding(width: int) -> float:
    """Most by which a float32 product of two unit vectors of ``width`` may be off."""
    return width * 2.0**-24
