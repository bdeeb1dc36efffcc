"""What the filters read of a lake: captions and vectors of the pictures that triplets name, and those triplets as numbers.

Cost: one pass over the captions and the vectors of the lake; memory, the pictures' vectors as float16.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mmret.encode.vectors import read_vectors
from mmret.errors import UserError
from mmret.filters.words import Bags, grams
from mmret.hashing import hash64
from mmret.lake import Lake
from mmret.schemas import SIGNALS


class Vectors:
    """A signal's vectors (n, width) float16, handed out less their mean and of unit length; zeros where a picture has none."""

    def __init__(self, values: np.ndarray):
        self.values = values
        some = values[:: max(1, len(values) // 20_000)].astype(np.float32)
        self.mean = some.mean(axis=0) if len(some) else np.zeros(values.shape[1], np.float32)

    @property
    def width(self) -> int:
        return self.values.shape[1]

    def take(self, rows: np.ndarray) -> torch.Tensor:
        found = self.values[rows].astype(np.float32)
        known = found.any(axis=1, keepdims=True)
        return torch.nn.functional.normalize(torch.from_numpy((found - self.mean) * known), dim=1)


@dataclass(frozen=True)
class Corpus:
    """Pictures by number: ``ids`` (n,) text, their ``captions``, and ``vectors`` by signal."""

    ids: pa.Array
    captions: list[str]
    vectors: dict[str, Vectors]

    @cached_property
    def bags(self) -> Bags:
        return Bags(map(grams, self.captions))


def read_corpus(lake: Lake, then: Lake, ids: pa.Array) -> Corpus:
    """The pictures ``ids`` (distinct): captions of ``then``, the lake as it is read, and today's vectors of ``lake``.

    A signal that the lake has no vectors of is left out.
    """
    images = then.read("images", columns=["image_id", "caption"])
    images = images.filter(pc.is_in(images["image_id"], value_set=ids))
    captions = dict(zip(images["image_id"].to_pylist(), images["caption"].to_pylist(), strict=True))
    vectors = {signal: found for signal in SIGNALS if (found := _vectors(lake, signal, ids)) is not None}
    return Corpus(ids, [captions.get(image_id) or "" for image_id in ids.to_pylist()], vectors)


def _vectors(lake: Lake, signal: str, ids: pa.Array) -> Vectors | None:
    values = None
    for shard in lake.partitions(signal):
        try:
            own, found = read_vectors(lake, shard, signal)
        except UserError:  # being encoded again: the other signals and the words decide
            return None
        if values is None:
            values = np.zeros((len(ids), found.shape[1]), np.float16)
        if found.shape[1] != values.shape[1]:
            return None
        places = pc.index_in(pa.array(own, pa.string()), ids).to_numpy(zero_copy_only=False)
        known = np.isfinite(places.astype(np.float64))
        values[places[known].astype(np.int64)] = found[known]
    return Vectors(values) if values is not None else None


@dataclass(frozen=True)
class Triplets:
    """Triplets by number: ``query`` and ``target`` (n,) number pictures, ``starts`` (n + 1,) each one's slice of ``texts``, and
    ``negative_starts`` that of ``negatives`` (pictures, the query picture left out)."""

    query: np.ndarray
    target: np.ndarray
    texts: list[str]
    starts: np.ndarray
    negatives: np.ndarray
    negative_starts: np.ndarray

    @classmethod
    def of(cls, rows: pa.Table, ids: pa.Array) -> Triplets:
        """``rows``: columns ``query_id, target_id, texts, hard_negatives``; ``ids`` has all their pictures."""
        query, target = (pc.index_in(rows[name], ids).to_numpy().astype(np.int64) for name in ("query_id", "target_id"))
        texts, negatives = rows["texts"].to_pylist(), rows["hard_negatives"].to_pylist()
        negatives = [
            [n for n in (own or []) if n != query_id] for own, query_id in zip(negatives, rows["query_id"].to_pylist(), strict=True)
        ]
        flat = pc.index_in(pa.array([n for own in negatives for n in own], pa.string()), ids).to_numpy(zero_copy_only=False)
        return cls(
            query,
            target,
            [text for own in texts for text in own or []],
            _starts(own or [] for own in texts),
            flat.astype(np.int64),
            _starts(negatives),
        )

    def __len__(self) -> int:
        return len(self.query)

    @cached_property
    def row(self) -> np.ndarray:
        """The triplet of each text."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @cached_property
    def negative_row(self) -> np.ndarray:
        """The triplet of each negative."""
        return np.repeat(np.arange(len(self)), np.diff(self.negative_starts))


def pictures_of(rows: pa.Table) -> pa.Array:
    """The distinct pictures that triplets name, in order of their ids."""
    columns = [rows["query_id"], rows["target_id"], pc.list_flatten(rows["hard_negatives"])]
    names = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
    distinct = pc.unique(names).drop_null()
    return distinct.take(pc.sort_indices(distinct))


def halves(corpus: Corpus, pictures: np.ndarray) -> np.ndarray:
    """0 or 1 for each of ``pictures``, by a hash of its id: what is learnt from one half judges the other."""
    known = {int(n): hash64(f"half:{corpus.ids[int(n)].as_py()}") & 1 for n in np.unique(pictures)}
    return np.array([known[int(n)] for n in pictures], np.int64)


def _starts(lists: Iterable[list]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum([len(own) for own in lists], dtype=np.int64)]).astype(np.int64)
