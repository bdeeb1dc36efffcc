"""Candidate edges of one shard: it is compared with itself and with every earlier shard, in both directions.

The file of shard s has, for the images of s, their best targets among the shards up to s, and for the images of
every earlier shard their best targets in s. So adding dN images to N costs N x dN comparisons, no older file changes, and
the neighbours of a shard are the merge of all files that have edges of its images (:mod:`mmret.mine.merge`).

Memory: two shards' vectors, their sketches, one tile, the new shard's lists, 40 bytes for each id seen, and the edges as they
are yielded. :func:`candidate_tables` gives one table per pair of shards, so that a caller that writes as it goes
holds no more whatever the corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mmret import progress
from mmret.devices import device_of
from mmret.errors import UserError
from mmret.mine.operands import Matrix, largest_code
from mmret.mine.ordering import Texts, order, place_in_group
from mmret.mine.projections import Projection, choose_projection
from mmret.mine.threads import in_threads
from mmret.mine.tiles import compare_between, compare_within, tile_rows
from mmret.mine.toplists import Edges, TopLists, band_limits
from mmret.schemas import CANDIDATES
from mmret.settings import BandSettings, MineSettings, Signal

_WORTH = 150_000_000  # pairs whose comparison takes longer than to choose a projection
_PIECE = 500_000  # edges of a table made at once, by one thread


@dataclass(frozen=True)
class ShardVectors:
    """A shard in memory: ``ids`` in any order, each once, and per signal (n, d) float16 unit vectors in that order."""

    shard: str
    ids: Sequence[str]
    vectors: Mapping[Signal, np.ndarray]


def candidates(
    new: ShardVectors, earlier: Iterable[ShardVectors], settings: MineSettings, bands: Mapping[Signal, BandSettings]
) -> pa.Table:
    """All candidate edges that shard ``new`` is responsible for, schema ``CANDIDATES``.

    ``earlier`` is read once, one shard in memory at a time. Per query and signal of ``settings.signals`` the table
    holds the best ``settings.k`` targets in the band and the best ``settings.k`` above it, among the comparisons of
    this call. Raises UserError for vectors that have no cosine similarity, that are missing or that changed width.

    >>> edges = candidates(shard_vectors(lake, "shard-00001"), [shard_vectors(lake, "shard-00000")], profile.mine, bands)
    """
    return pa.concat_tables([CANDIDATES.empty_table(), *candidate_tables(new, earlier, settings, bands)])


def candidate_tables(
    new: ShardVectors, earlier: Iterable[ShardVectors], settings: MineSettings, bands: Mapping[Signal, BandSettings]
) -> Iterator[pa.Table]:
    """The rows of :func:`candidates`, one table per earlier shard (its side) and ``new``'s last."""
    for signal in settings.signals:
        if signal not in bands:
            raise UserError(f"mine.bands has no band for {signal}: set low and high, for example 0.8 and 0.96")
    new_shard = _SortedShard(new, settings)
    lists = {signal: _ShardLists(new_shard, signal, settings.k, bands[signal]) for signal in settings.signals}
    for signal in settings.signals:
        lists[signal].compare_within()
    known = set(new.ids)
    for shard in earlier:
        if twice := known.intersection(shard.ids):
            raise UserError(f"image {min(twice)} is in {shard.shard} and in {new.shard}: an image belongs to one shard")
        earlier_shard = _SortedShard(shard, settings)
        yield pa.concat_tables([lists[signal].compare_with(earlier_shard) for signal in settings.signals])
    yield pa.concat_tables([lists[signal].table() for signal in settings.signals])


class _SortedShard:
    """A shard sorted by id, so that among equal scores the smaller row number is the smaller id."""

    def __init__(self, shard: ShardVectors, settings: MineSettings):
        self.shard, self.device = shard, device_of(settings.device)
        self.tile = tile_rows(settings.tile, self.device)
        if len(set(shard.ids)) != len(shard.ids):
            raise UserError(f"{shard.shard} holds an image twice: encode the shard again")
        ids = np.asarray(shard.ids, dtype=object)
        self.by_id = np.argsort(ids, kind="stable")
        self.ids = pa.array(ids[self.by_id], pa.string())

    def vectors(self, signal: str) -> np.ndarray:
        """(n, d) float16 by id. Raises UserError where the shard has none, or not one for each image."""
        name = self.shard.shard
        if signal not in self.shard.vectors:
            raise UserError(f"{name} has no {signal} vectors: encode it for every signal in mine.signals")
        vectors = self.shard.vectors[signal]
        if len(vectors) != len(self.ids):
            raise UserError(f"{name}: {len(vectors)} {signal} vectors for {len(self.ids)} images: encode it again")
        in_order = bool((self.by_id[1:] > self.by_id[:-1]).all())
        return vectors if in_order else vectors[self.by_id]

    def matrix(self, signal: str, projection: Projection | None) -> Matrix:
        """The shard's vectors, in an order that suits ``projection`` if there is one for vectors as wide."""
        vectors = self.vectors(signal)
        if projection is not None and vectors.shape[1:] != projection.basis.shape[:1]:
            projection = None
        return Matrix(vectors, self.ids, signal, self.tile, self.device, projection=projection)


class _ShardLists:
    """The top lists of the new shard's images in one signal.

    ``floor``: score that an edge needs to enter a list that is full. It rises from shard to shard, so fewer pairs are scored.
    """

    def __init__(self, new_shard: _SortedShard, signal: str, k: int, band: BandSettings):
        self.new_shard, self.signal, self.k, self.band = new_shard, signal, k, band
        self.projection = _projection(new_shard, signal, k, band, len(new_shard.ids) ** 2 // 2)
        self.matrix = new_shard.matrix(signal, self.projection)
        self.ids = [new_shard.ids]  # of the shards compared so far; targets are numbered through
        self.rows, self.targets, self.scores = np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.float32)
        self._rows_after_cut = 0
        self.floor, self.above_floor = (np.full(len(new_shard.ids), limit) for limit in band_limits(band))

    def compare_within(self) -> None:
        lists = self._lists(len(self.new_shard.ids))
        compare_within(self.matrix, lists, self._tick())
        self._take(lists, 0)

    def compare_with(self, earlier_shard: _SortedShard) -> pa.Table:
        """Compare with ``earlier_shard``: its images may enter the lists here; returns the candidates of its own images."""
        if self.projection is None:
            self.projection = _projection(earlier_shard, self.signal, self.k, self.band, len(self.ids[0]) * len(earlier_shard.ids))
            if self.projection is not None:
                self.matrix = self.new_shard.matrix(self.signal, self.projection)
        matrix = earlier_shard.matrix(self.signal, self.projection)
        if matrix.width != self.matrix.width:
            raise UserError(
                f"{self.signal}: vectors of {self.new_shard.shard.shard} have {self.matrix.width} components, "
                f"those of {earlier_shard.shard.shard} {matrix.width}: encode both shards with the same model"
            )
        lists = self._lists(len(earlier_shard.ids))
        their_lists = TopLists(len(earlier_shard.ids), len(self.new_shard.ids), self.k, self.band, earlier_shard.tile)
        compare_between(self.matrix, lists, matrix, their_lists, self._tick(earlier_shard.shard.shard))
        offset = sum(map(len, self.ids))
        self.ids.append(earlier_shard.ids)
        self._take(lists, offset)
        edges = their_lists.result(matrix.numbers)
        return _table(earlier_shard.shard.shard, earlier_shard.ids, self.signal, edges, Texts(self.new_shard.ids), self.band)

    def table(self) -> pa.Table:
        """The candidates of the new shard's images, complete."""
        if len(self.ids) > 1:  # else they are cut and in order
            self._cut_lists()
        edges = Edges(self.rows, self.targets, self.scores)
        return _table(self.new_shard.shard.shard, self.new_shard.ids, self.signal, edges, self._names(), self.band)

    def _names(self) -> Texts:
        return Texts(pa.chunked_array(self.ids))

    def _lists(self, targets: int) -> TopLists:
        return TopLists(
            len(self.new_shard.ids),
            targets,
            self.k,
            self.band,
            self.new_shard.tile,
            self.floor[self.matrix.numbers],
            self.above_floor[self.matrix.numbers],
        )

    def _take(self, lists: TopLists, offset: int) -> None:
        edges = lists.result(self.matrix.numbers)
        self.floor[self.matrix.numbers], self.above_floor[self.matrix.numbers] = lists.floor, lists.above_floor
        if offset:
            self.rows = np.concatenate([self.rows, edges.rows])
            self.targets = np.concatenate([self.targets, edges.targets + np.int64(offset)])
            self.scores = np.concatenate([self.scores, edges.scores])
        else:
            self.rows, self.targets, self.scores = edges.rows, edges.targets, edges.scores
        if offset and len(self.rows) > 2 * self._rows_after_cut:
            self._cut_lists()

    def _cut_lists(self) -> None:
        """Cut the lists over all shards so far to ``k`` in the band and ``k`` above it, and raise the floors."""
        by = order(self.rows, self.scores, lambda at: self._names().take(self.targets[at]))
        rows, scores = self.rows[by], self.scores[by]
        above = scores >= band_limits(self.band)[1]
        rank = place_in_group(rows * 2 + ~above)
        for side, floor in ((~above, self.floor), (above, self.above_floor)):
            last = side & (rank == self.k - 1)
            floor[rows[last]] = np.maximum(floor[rows[last]], scores[last])
        keep = rank < self.k
        self.rows, self.targets, self.scores = rows[keep], self.targets[by][keep], scores[keep]
        self._rows_after_cut = len(self.rows)

    def _tick(self, other: str | None = None) -> Callable[[], None]:
        done, total = 0, len(self.matrix.blocks)
        task = f"neighbours {self.signal} {self.new_shard.shard.shard}" + (f" and {other}" if other else "")

        def tick() -> None:
            nonlocal done
            done += 1
            progress.advance(task, done, total)

        return tick


def _projection(shard: _SortedShard, signal: str, k: int, band: BandSettings, pairs: int) -> Projection | None:
    """The first dimensions that rule most pairs out, if so few do that it pays for ``pairs``. On a CPU only."""
    if shard.device.type != "cpu" or pairs < _WORTH or not (largest := largest_code(shard.device)):
        return None
    low, high = map(float, band_limits(band))
    return choose_projection(shard.vectors(signal), k, low, high, largest)


def _table(shard: str, ids: pa.Array, signal: str, edges: Edges, targets: Texts, band: BandSettings) -> pa.Table:
    queries, high = Texts(ids), band_limits(band)[1]
    same = [pa.repeat(pa.scalar(text, pa.string()), min(_PIECE, len(edges.rows))) for text in (shard, signal)]  # of all pieces

    def piece(start: int) -> pa.Table:
        rows, places, scores = (x[start : start + _PIECE] for x in (edges.rows, edges.targets, edges.scores))
        of_shard, of_signal = (texts.slice(0, len(rows)) for texts in same)
        return pa.table(
            {
                "query_shard": of_shard,
                "query_id": queries.take(rows),
                "signal": of_signal,
                "target_id": targets.take(places),
                "score": pa.array(scores, pa.float32()),
                "above_band": pa.array(scores >= high),
            },
            schema=CANDIDATES,
        )

    return pa.concat_tables(in_threads(piece, range(0, max(1, len(edges.rows)), _PIECE)))
