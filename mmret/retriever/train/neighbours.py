"""Which pictures are neighbours of each other, and an order of them in which neighbours stand near each other.

Batches of such pictures are hard: each row's target is a likely wrong answer for the others (B3, arXiv 2505.11293, which cuts a
graph of hits into communities). Here groups grow by merging: of the clusters that are joined by an edge, those that are each
other's nearest become one, until a group is full; then groups are merged on without a limit, which says in which order they stand.
Cost: 16 bytes an edge, and while an order is made some 50; 10 million edges between a third of a million pictures take some 7 s,
once an epoch. Nothing is computed picture by picture.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.hashing import digest_table, draws, fingerprint, pair_draws

_DRAWN = 24
"""Edges of a node that an order is made from, about, drawn anew each epoch: a quarter of the time where nodes have a hundred."""
_LARGEST_WEIGHT = 2**12 - 1  # of an edge, so that it fits into one number with the edge's ends


@dataclass(frozen=True)
class Neighbours:
    """``ids`` (p,): pictures, ascending; ``one`` and ``other`` (e,) int32: pairs of their numbers that are neighbours, each pair
    once, ascending, the smaller number first."""

    ids: pa.Array
    one: np.ndarray
    other: np.ndarray

    @classmethod
    def of(cls, ids: pa.Array, pairs: Iterable[tuple[pa.Table, pa.Table]]) -> Neighbours:
        """Pairs of ``ids`` from tables of columns ``query_id, target_id``: what is a neighbour, and what is none although it may
        be there, near-duplicates. Pictures that are not among ``ids`` are left out."""
        ids = pc.unique(ids.cast(pa.large_string())).sort()
        near, apart = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for found, duplicates in pairs:
            near.append(_numbered_pairs(found, ids))
            apart.append(_numbered_pairs(duplicates, ids))
        kept = np.setdiff1d(np.concatenate(near), np.concatenate(apart))  # sorted, each once
        one, other = np.divmod(kept, max(1, len(ids)))
        return cls(ids, one.astype(np.int32), other.astype(np.int32))

    def digest(self) -> str:
        """16 hex digits of all of it."""
        return fingerprint(digest_table(pa.table({"id": self.ids})), digest_table(pa.table({"one": self.one, "other": self.other})))

    def among(self, pictures: pa.Array, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pairs whose pictures are both among ``numbers`` (n,) int64, ascending positions in ``pictures``: as places in
        ``numbers``, two (e,) int32."""
        place = pc.index_in(pictures.take(pa.array(numbers)).cast(pa.large_string()), self.ids)
        known = place.is_valid().to_numpy(zero_copy_only=False)
        node = np.full(len(self.ids), -1, np.int32)
        node[place.drop_null().to_numpy()] = np.flatnonzero(known)
        one, other = node[self.one], node[self.other]
        here = (one >= 0) & (other >= 0)
        return one[here], other[here]


def _numbered_pairs(table: pa.Table, ids: pa.Array) -> np.ndarray:
    """Each pair of two different ``ids`` as one number, the smaller first."""
    columns = (pc.index_in(table[c].cast(pa.large_string()), ids) for c in ("query_id", "target_id"))
    query, target = (pc.fill_null(c, -1).to_numpy().astype(np.int64) for c in columns)
    here = (query >= 0) & (target >= 0) & (query != target)
    query, target = query[here], target[here]
    return np.unique(np.minimum(query, target) * len(ids) + np.maximum(query, target))


@dataclass(frozen=True)
class Grouped:
    """Nodes in an order: ``place`` (n,) int64 of each. ``group`` and ``component`` (n,) int64: numbers that are equal for nodes of
    one group, and for nodes that edges lead to from each other; nodes of either stand together."""

    place: np.ndarray
    group: np.ndarray
    component: np.ndarray


def grouped(count: int, one: np.ndarray, other: np.ndarray, most: int, *salt: int | str) -> Grouped:
    """``count`` nodes in groups of at most ``most`` that edges (e,) join, and those groups in an order in which joined ones stand
    together. ``salt`` decides where several groupings are as good."""
    seed = int(draws(np.zeros(1, np.uint64), *salt)[0])
    degree = np.bincount(one, minlength=count) + np.bincount(other, minlength=count)
    chance = pair_draws(one.astype(np.uint64), other.astype(np.uint64), np.uint64(seed)) / 2**64
    drawn = chance * np.minimum(degree[one], degree[other]) < _DRAWN
    one, other = one[drawn].astype(np.int64), other[drawn].astype(np.int64)
    tree = _Tree(count, one, other, seed)
    for _ in range(16 + 4 * int(most).bit_length() if most > 1 else 0):
        if not tree.merge(most):
            break
    group = tree.cluster
    tree.restart(one, other)
    while tree.merge():
        pass
    sizes = np.bincount(tree.cluster, minlength=1)
    return Grouped((np.cumsum(sizes) - sizes)[tree.cluster] + tree.offset, group, tree.cluster)


class _Tree:
    """Clusters of nodes that grow by merging. ``cluster`` (n,) of each node and its ``offset`` (n,) in it; ``size`` of each
    cluster; edges between clusters, each pair once, with how many edges of nodes they stand for."""

    def __init__(self, count: int, one: np.ndarray, other: np.ndarray, seed: int):
        self.cluster, self.offset, self.size = np.arange(count), np.zeros(count, np.int64), np.ones(count, np.int64)
        self.seed, self.round = seed, 0
        self.restart(one, other)

    def restart(self, one: np.ndarray, other: np.ndarray) -> None:
        """Begin anew with edges of nodes (e,)."""
        self._join(self.cluster[one], self.cluster[other], np.ones(len(one), np.int64))

    def merge(self, most: int | None = None) -> bool:
        """One round; whether there was something to merge. With ``most``, the size of a cluster at most, pairs that are each
        other's nearest; without, every second cluster into the nearest of the rest, so that few rounds do whatever the graph."""
        if most is not None:
            self._keep(self.size[self.one] + self.size[self.other] <= most)
        if not len(self.one):
            return False
        self.round += 1
        salt = draws(np.array([self.round], np.uint64), self.seed, "merge")[0]
        nearness = (self.weight / (self.size[self.one] * self.size[self.other])).astype(np.float32)
        chance = pair_draws(self.one.astype(np.uint64), self.other.astype(np.uint64), salt) >> np.uint64(32)
        score = (nearness.view(np.uint32).astype(np.uint64) << np.uint64(32)) | chance
        if most is not None:
            into, joining = self._mutual(score)
        else:
            into, joining = self._halves(score, draws(np.arange(len(self.size), dtype=np.uint64), int(salt)) % np.uint64(2) == 0)
        self._absorb(into, joining)
        return True

    def _mutual(self, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        best = np.zeros(len(self.size), np.uint64)
        np.maximum.at(best, self.one, score)
        np.maximum.at(best, self.other, score)
        pairs = np.flatnonzero((best[self.one] == score) & (best[self.other] == score))
        taken = np.empty(len(self.size), np.int64)  # of equal scores, one
        taken[self.one[pairs]] = pairs
        taken[self.other[pairs]] = pairs
        pairs = pairs[(taken[self.one[pairs]] == pairs) & (taken[self.other[pairs]] == pairs)]
        return self.one[pairs], self.other[pairs]

    def _halves(self, score: np.ndarray, stays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        between = np.flatnonzero(stays[self.one] != stays[self.other])
        first = stays[self.one[between]]
        into = np.where(first, self.one[between], self.other[between])
        joining = np.where(first, self.other[between], self.one[between])
        best = np.zeros(len(self.size), np.uint64)
        np.maximum.at(best, joining, score[between])
        nearest = best[joining] == score[between]
        goes_to = np.full(len(self.size), -1, np.int64)
        goes_to[joining[nearest]] = into[nearest]
        joining = np.flatnonzero(goes_to >= 0)
        return goes_to[joining], joining

    def _absorb(self, into: np.ndarray, joining: np.ndarray) -> None:
        """Clusters ``joining`` become part of ``into``, which may be named several times; nothing is in both."""
        order = np.argsort(into, kind="stable")
        into, joining = into[order], joining[order]
        sizes = self.size[joining]
        before = np.cumsum(sizes) - sizes
        _, first, where = np.unique(into, return_index=True, return_inverse=True)
        shift = np.zeros(len(self.size), np.int64)
        shift[joining] = self.size[into] + before - before[first][where]
        parent, left = np.arange(len(self.size)), np.ones(len(self.size), dtype=bool)
        parent[joining], left[joining] = into, False
        self.offset = self.offset + shift[self.cluster]
        np.add.at(self.size, into, sizes)
        self.size = self.size[left]
        label = (np.cumsum(left) - 1)[parent]
        self.cluster = label[self.cluster]
        self._join(label[self.one], label[self.other], self.weight)

    def _join(self, one: np.ndarray, other: np.ndarray, weight: np.ndarray) -> None:
        """Take these edges between clusters, those of one pair as one."""
        between = one != other
        one, other, weight = one[between], other[between], weight[between]
        packed = np.minimum(one, other) * len(self.size) + np.maximum(one, other)
        packed = np.sort((packed.astype(np.uint64) << np.uint64(12)) | np.minimum(weight, _LARGEST_WEIGHT).astype(np.uint64))
        ends, weight = packed >> np.uint64(12), (packed & np.uint64(_LARGEST_WEIGHT)).astype(np.int64)
        first = np.flatnonzero(np.diff(ends, prepend=np.uint64(2**64 - 1)) != 0)
        self.weight = np.add.reduceat(weight, first) if len(first) else weight
        self.one, self.other = (part.astype(np.int64) for part in np.divmod(ends[first], np.uint64(max(1, len(self.size)))))

    def _keep(self, kept: np.ndarray) -> None:
        self.one, self.other, self.weight = self.one[kept], self.other[kept], self.weight[kept]
