"""The exact scores of chosen pairs of one shard, reading as few vectors as it takes.

A score that a list of neighbours or the pairs of before have is taken from there: it is the exact product rounded once
(:func:`mmret.mine.operands.exact_scores`), the same bits whoever computed it. The other ones, of signals that did not list the
pair, are computed from the vectors of the images named, read by row. So what a shard reads depends on its pairs and not on the size
of the lake: of each signal at most the vectors of its queries and, per block of pairs, each target once.

Cost: half a microsecond a pair and signal, and the ids of the shards that lack a score. Memory: the vectors of a block of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mmret.encode.vectors import VectorRows
from mmret.errors import UserError
from mmret.lake import Facts, Lake
from mmret.mine.operands import exact_scores_of_few
from mmret.mine.ordering import arrange
from mmret.mine.scores import SCORES
from mmret.schemas import SIGNALS

PAIRS_AT_ONCE = 65_536
"""Pairs whose vectors are in memory together: of 768 components at most 200 MB."""


class NumberedImages:
    """The images that may be named, ``images`` (image_id, shard), by number: ``ids`` text, ``shards`` text of each."""

    def __init__(self, images: pa.Table):
        self.ids, self.shards = (images[name].combine_chunks() for name in ("image_id", "shard"))

    def __len__(self) -> int:
        return len(self.ids)

    def numbers(self, names: pa.ChunkedArray | pa.Array) -> np.ndarray:
        """(n,) int64, -1 for an image that is not among them."""
        return pc.fill_null(pc.index_in(names, value_set=self.ids), -1).to_numpy().astype(np.int64)

    def sides(self, pairs: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the queries and of the targets of ``pairs``. Raises UserError for an image that is not among them."""
        one, other = (self.numbers(pairs[side]) for side in ("query_id", "target_id"))
        for side, numbers in (("query_id", one), ("target_id", other)):
            if (numbers < 0).any():
                raise UserError(f"image {pairs[side][int(np.argmin(numbers))]} has no vectors: materialise its embeddings first")
        return one, other

    def keys(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """(n,) int64, one for each unordered pair of numbers; -1 where one of them is."""
        key = np.minimum(one, other) * len(self.ids) + np.maximum(one, other)
        return np.where((one < 0) | (other < 0), -1, key)


class KnownScores:
    """Scores of one signal by unordered pair; pairs with an image that has no number are left out."""

    def __init__(self, keys: np.ndarray, scores: np.ndarray):
        keys, scores = keys[keys >= 0], scores[keys >= 0]
        by = arrange(keys.astype(np.uint64))
        self._keys, self._scores = keys[by], scores[by].astype(np.float32)

    def of(self, keys: np.ndarray) -> np.ndarray:
        """(n,) float32 of the pairs ``keys``, NaN where none is known."""
        values = np.full(len(keys), np.nan, np.float32)
        if len(self._keys):
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            found = self._keys[at] == keys
            values[found] = self._scores[at[found]]
        return values


@dataclass(frozen=True)
class ScoredPairs:
    """Rows of ``PAIRS`` that were computed earlier, and by signal the shards whose vectors are still what they were then."""

    pairs: pa.Table
    unchanged: Mapping[str, set[str]]


def score_columns(values: Mapping[str, np.ndarray]) -> pa.Table:
    """Columns ``SCORES`` from (n,) float32 by signal, null where NaN and for a signal that is missing."""
    rows = len(next(iter(values.values())))
    return pa.table(
        {
            name: pa.array(values[signal], pa.float32(), mask=np.isnan(values[signal]))
            if signal in values
            else pa.nulls(rows, pa.float32())
            for signal, name in zip(SIGNALS, SCORES, strict=True)
        }
    )


class LakeScores:
    """Function from a table (query_id, target_id) to its columns ``SCORES``, equal to :func:`mmret.mine.scores.pair_scores`.

    ``vectors``: by signal and shard what is recorded of them. ``lists``: rows of ``NEIGHBOURS``. Raises UserError for an image that
    is in no shard or has no vector.

    >>> LakeScores(lake, check_one_model(lake, shards, SIGNALS), NumberedImages(images), lists)(pairs)["caption_score"]
    """

    def __init__(
        self,
        lake: Lake,
        vectors: Mapping[str, Mapping[str, Facts]],
        images: NumberedImages,
        lists: pa.Table,
        before: ScoredPairs | None = None,
    ):
        self.lake, self.vectors, self.images = lake, vectors, images
        self._known = {signal: [known] for signal, known in self._of_lists(lists).items()}
        if before is not None:
            for signal, known in self._of_pairs(before.pairs, before.unchanged).items():
                self._known[signal].append(known)

    def _of_lists(self, lists: pa.Table) -> dict[str, KnownScores]:
        keys = self.images.keys(*(self.images.numbers(lists[side]) for side in ("query_id", "target_id")))
        signals = pc.index_in(lists["signal"], value_set=pa.array(SIGNALS)).to_numpy()
        scores = lists["score"].to_numpy()
        return {signal: KnownScores(keys[signals == at], scores[signals == at]) for at, signal in enumerate(SIGNALS)}

    def _of_pairs(self, before: pa.Table, unchanged: Mapping[str, set[str]]) -> dict[str, KnownScores]:
        sides = [self.images.numbers(before[side]) for side in ("query_id", "target_id")]
        keys, found = self.images.keys(*sides), {}
        for signal, column in zip(SIGNALS, SCORES, strict=True):
            still = pc.is_in(self.images.shards, value_set=pa.array(sorted(unchanged.get(signal, ())), pa.string())).to_numpy(False)
            usable = (keys >= 0) & before[column].is_valid().to_numpy()
            usable[usable] = still[sides[0][usable]] & still[sides[1][usable]]
            found[signal] = KnownScores(keys[usable], before[column].to_numpy()[usable])
        return found

    def __call__(self, pairs: pa.Table) -> pa.Table:
        one, other = self.images.sides(pairs)
        return score_columns({signal: self.of(signal, one, other) for signal in SIGNALS})

    def of(self, signal: str, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """(n,) float32 scores of pairs of images by number in one signal."""
        keys = self.images.keys(one, other)
        values = np.full(len(keys), np.nan, np.float32)
        for known in self._known[signal]:
            unknown = np.isnan(values)
            values[unknown] = known.of(keys[unknown])
        unknown = np.flatnonzero(np.isnan(values))
        values[unknown] = self._computed(signal, one[unknown], other[unknown])
        return values

    def _computed(self, signal: str, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """(n,) float32 of pairs of images by number, from their vectors."""
        values = np.empty(len(one), np.float32)
        named = np.unique(np.concatenate([one, other]))
        ids, shards = (column.take(pa.array(named)) for column in (self.images.ids, self.images.shards))
        rows = VectorRows(self.lake, signal, ids, shards, self.vectors[signal])
        by = np.lexsort((other, one))
        for start in range(0, len(by), PAIRS_AT_ONCE):
            block = by[start : start + PAIRS_AT_ONCE]
            here, at = np.unique(np.concatenate([one[block], other[block]]), return_inverse=True)
            vectors = torch.from_numpy(rows.take(np.searchsorted(named, here)))
            values[block] = exact_scores_of_few(vectors, vectors, *np.split(at, 2))
        return values
