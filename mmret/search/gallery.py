"""The whole corpus as one checkpoint sees it, ready to be searched: blocks of shards, their ids, an index above a size.

A gallery never changes once made; one for a lake that has grown is made from the one before, whose blocks it shares, so that growth
costs the new shards alone and a search that is under way keeps the gallery it began with. Cost of making one: reading the vectors,
and some 0.5 s of sketches for 100,000 x 512.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmret.search.approximate import LanceIndex, open_index
from mmret.search.block import Block, Found, merged
from mmret.search.corpus_vectors import StoredShard
from mmret.search.options import SearchOptions

_BLOCK_ROWS = 65_536  # small shards are joined, so that a product serves many rows


class ImageIds:
    """Positions of image ids (32 hex digits each), 16 bytes a picture: ``ImageIds(ids).position("00ff…")`` is a row or None."""

    def __init__(self, ids: Sequence[str]):
        self._ids = np.array(list(ids), dtype="S32")
        self._order = np.argsort(self._ids, kind="stable").astype(np.int32)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, position: int) -> str:
        return self._ids[position].decode()

    def position(self, image_id: str | None) -> int | None:
        """Where the picture is, None where it is not."""
        try:
            wanted = np.array((image_id or "").encode("ascii"), dtype="S")
        except UnicodeEncodeError:
            return None
        at = int(np.searchsorted(self._ids, wanted, sorter=self._order))
        if at < len(self._ids) and self._ids[self._order[at]] == wanted:
            return int(self._order[at])
        return None


@dataclass(frozen=True)
class _Part:
    key: tuple[tuple[str, str], ...]
    """Shards and their digests."""
    start: int
    block: Block


class Gallery:
    """Vectors of every picture by one checkpoint, in the lake's order.

    ``shards``: where they are stored; ``before``: an earlier gallery of the same checkpoint and options, whose blocks are used
    again.
    """

    def __init__(self, shards: Sequence[StoredShard], options: SearchOptions = SearchOptions(), before: Gallery | None = None):
        self.options = options
        self.digests = {shard.shard: shard.digest for shard in shards}
        self.ids = ImageIds([image_id for shard in shards for image_id in shard.ids])
        self.index: LanceIndex | None = open_index(shards) if _uses_index(len(self.ids), options) else None
        mapped = self.index is not None or not options.exact
        had = {part.key: part.block for part in before._parts} if before is not None else {}
        self._parts: list[_Part] = []
        start = 0
        for group in [[shard] for shard in shards] if mapped else _groups(shards):
            key = tuple((shard.shard, shard.digest) for shard in group)
            block = had.get(key) or self._block(group, mapped)
            self._parts.append(_Part(key, start, block))
            start += block.rows

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def recall(self) -> float | None:
        """Share of the 10 nearest that the index finds, measured when it was built; None where every picture is compared."""
        return None if self.index is None else self.index.recall

    def nearest(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> list[Found]:
        """Positions and scores of the ``k`` nearest pictures for each of ``queries`` (q, d) float32 of unit length, best first.

        ``allowed`` (n,) bool: the pictures that may be found.
        """
        if self.index is not None and (allowed is None or int(allowed.sum()) > max(k, len(self) // 16)):
            return self._through_index(self.index, queries, k, allowed)
        return self._by_comparison(queries, k, allowed)

    def scores(self, query: np.ndarray) -> np.ndarray:
        """Scores (n,) float32 of every picture with ``query`` (d,)."""
        return np.concatenate([part.block.all_scores(query) for part in self._parts])

    def vectors(self, positions: Sequence[int]) -> np.ndarray:
        """(m, d) float32 of the pictures at ``positions``."""
        starts = np.array([part.start for part in self._parts])
        of = np.searchsorted(starts, positions, side="right") - 1
        return np.stack([self._parts[p].block.vectors[row - starts[p]] for p, row in zip(of, positions, strict=True)])

    def _by_comparison(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> list[Found]:
        found = []
        for part in self._parts:
            inside = None if allowed is None else allowed[part.start : part.start + part.block.rows]
            found.append(part.block.nearest(queries, k, inside))
        starts = [part.start for part in self._parts]
        return [merged([each[query] for each in found], starts, k) for query in range(len(queries))]

    def _through_index(self, index: LanceIndex, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> list[Found]:
        share = 1.0 if allowed is None else float(allowed.mean())
        fetch = min(len(self), int(max(1, self.options.rescore) * k / share))
        found = []
        for query, positions in zip(queries, index.candidates(queries, fetch), strict=True):
            if allowed is not None:
                positions = positions[allowed[positions]]
            if len(positions) < min(k, len(self) if allowed is None else int(allowed.sum())):
                found += self._by_comparison(query[None], k, allowed)
                continue
            starts = [part.start for part in self._parts]
            parts = np.split(positions, np.searchsorted(positions, starts[1:]))
            rows = [part.block.scored(query, own - part.start, k) for part, own in zip(self._parts, parts, strict=True)]
            found.append(merged(rows, starts, k))
        return found

    def _block(self, group: Sequence[StoredShard], mapped: bool) -> Block:
        if mapped:
            return Block(group[0].mapped_vectors(), self.options, sketched=self.index is None)
        parts = [shard.vectors() for shard in group]
        return Block(parts[0] if len(parts) == 1 else np.concatenate(parts), self.options)


def _groups(shards: Sequence[StoredShard]) -> list[list[StoredShard]]:
    """Shards in their order, joined until a group has enough rows."""
    groups: list[list[StoredShard]] = []
    rows = _BLOCK_ROWS
    for shard in shards:
        if rows >= _BLOCK_ROWS:
            groups.append([])
            rows = 0
        groups[-1].append(shard)
        rows += len(shard.ids)
    return groups


def _uses_index(rows: int, options: SearchOptions) -> bool:
    return options.index_from is not None and rows >= options.index_from
