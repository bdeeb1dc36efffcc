"""Merges the neighbours of one shard's images from all candidate files that have edges of them.

Each file has, per query and signal, its best ``k`` in the band and its best ``k`` above it. A merge takes the union and cuts each
list to ``k`` again, which is associative and commutative: files may be merged in any order or grouping, and adding a file to a
finished merge equals merging all again.

In a file the edges of one list follow each other, so text is compared once for each such piece and not for each edge. Edges are
sorted a block of whole lists at a time, in memory that all blocks share. Edges in any other order give the same result, only
slower. Cost: about 0.1 us an edge; memory the result, the edges that were read and a few MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.mine.ordering import arrange, as_text, number_texts, order, place_in_group, to_fixed_width
from mmret.schemas import NEIGHBOURS, SIGNALS

ROWS_WAITING = 8_000_000  # edges that may wait beyond twice the merged lists or the first file, however many files there are
BLOCK = 65_536  # edges sorted at once; a list is never split
_COLUMNS = ["query_id", "signal", "target_id", "score", "above_band"]


def neighbours(edges: Iterable[pa.Table], k: int) -> pa.Table:
    """Ranked neighbours, schema ``NEIGHBOURS``, of the queries in ``edges`` (tables with the columns of ``CANDIDATES``).

    Per query and signal the best ``k`` in the band, ranked from 0, and the best ``k`` above it, rank null; equal scores
    by target id. Sorted by query id, signal (order of ``SIGNALS``), in the band before above it, rank. An edge that
    appears twice counts once. The result can be merged again with other tables.

    >>> neighbours([lake.read("candidates", shard) for shard in lake.shards()], k=profile.mine.k)
    """
    held, waiting = [], 0  # merged lists or the first file, then the files that wait and their rows
    for table in edges:
        if held and waiting > held[0].num_rows + ROWS_WAITING:
            held, waiting = [_merge(held, k)], 0
        waiting += table.num_rows if held else 0
        held.append(table)
    return _merge(held, k) if held else NEIGHBOURS.empty_table()


def _merge(parts: list[pa.Table], k: int) -> pa.Table:
    edges = pa.concat_tables([part.select(_COLUMNS) for part in parts])
    batches = [batch for batch in edges.to_batches() if batch.num_rows]
    if len(batches) > len(parts) * len(SIGNALS) * 2 + edges.num_rows // BLOCK:  # crumbs cost more than a copy
        batches = edges.combine_chunks().to_batches()
    return pa.Table.from_batches(_cut(batches, k), NEIGHBOURS)


@dataclass(frozen=True)
class _Pieces:
    """Rows of one list (query, signal, side of the band) that follow each other in the input.

    ``starts``, ``lengths`` in rows of the input; ``lists`` numbers that sort as lists do: all (n,) int64, by list.
    ``names``: query ids by number; a list's query is ``lists // (2 * len(SIGNALS))``.
    """

    starts: np.ndarray
    lengths: np.ndarray
    lists: np.ndarray
    names: pa.Array

    def blocks(self) -> Iterator[slice]:
        """Yield slices of pieces that make whole lists, about ``BLOCK`` rows or one list at a time."""
        first = np.flatnonzero(np.append(True, self.lists[1:] != self.lists[:-1]))  # piece that begins a list
        before = (np.cumsum(self.lengths) - self.lengths)[first] // BLOCK
        bounds = [*first[np.flatnonzero(np.append(True, before[1:] != before[:-1]))], len(self.lists)]
        return (slice(at, to) for at, to in zip(bounds[:-1], bounds[1:], strict=True))


def _pieces(batches: list[pa.RecordBatch]) -> _Pieces:
    starts, lengths, signals, above, queries, offset = [], [], [], [], [], 0
    for batch in batches:
        by_query, by_signal = (pc.run_end_encode(batch[column]) for column in ("query_id", "signal"))
        side = batch["above_band"].to_numpy(zero_copy_only=False)
        new = np.append(True, side[1:] != side[:-1])
        for runs in (by_query, by_signal):
            new[np.append(0, runs.run_ends)[:-1]] = True
        begins = np.flatnonzero(new)
        starts.append(begins + offset)
        lengths.append(np.diff(begins, append=batch.num_rows))
        coded = pc.index_in(by_signal.values, value_set=pa.array(SIGNALS)).to_numpy()
        signals.append(coded[np.searchsorted(by_signal.run_ends, begins, "right")])
        above.append(side[begins])
        queries.append(by_query.values.take(pa.array(np.searchsorted(by_query.run_ends, begins, "right"))))
        offset += batch.num_rows
    names, number = number_texts(pa.chunked_array(queries, pa.string()))
    lists = (number * len(SIGNALS) + np.concatenate(signals)) * 2 + np.concatenate(above)
    by = arrange(lists.astype(np.uint64))
    return _Pieces(np.concatenate(starts)[by], np.concatenate(lengths)[by], lists[by], names)


def _cut(batches: list[pa.RecordBatch], k: int) -> Iterator[pa.RecordBatch]:
    if not batches:
        return
    pieces = _pieces(batches)
    offsets = np.append(0, np.cumsum([batch.num_rows for batch in batches]))
    all_targets = to_fixed_width([batch["target_id"] for batch in batches])
    all_scores = [batch["score"].to_numpy() for batch in batches]
    (names,) = to_fixed_width([pieces.names])
    for block in pieces.blocks():
        inputs = np.argsort(pieces.starts[block])  # in order of the input, to read it forwards and batch by batch
        starts, lengths = pieces.starts[block][inputs], pieces.lengths[block][inputs]
        lists = np.repeat(pieces.lists[block][inputs], lengths)
        rows = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(len(lists))
        bounds = np.searchsorted(rows, offsets)
        spans = [(at, rows[bounds[at] : bounds[at + 1]] - offsets[at]) for at in np.flatnonzero(np.diff(bounds))]
        scores = np.concatenate([all_scores[at][own] for at, own in spans])
        targets = pa.concat_arrays([all_targets[at].take(pa.array(own)) for at, own in spans])
        yield _sort(lists, scores, targets, names, k)


def _sort(lists: np.ndarray, scores: np.ndarray, targets: pa.Array, names: pa.Array, k: int) -> pa.RecordBatch:
    """Edges of whole lists, sorted, each once, cut to ``k``."""
    by = order(lists - lists.min(), scores, lambda at: as_text(targets.take(pa.array(at))))
    by = by[~_repeated(lists[by], scores[by], by, targets)]
    rank = place_in_group(lists[by])
    keep = rank < k
    by, rank = by[keep], rank[keep]
    lists = lists[by]
    queries = lists // (2 * len(SIGNALS))
    signals, above = lists // 2 - queries * len(SIGNALS), (lists & 1).astype(bool)
    return pa.record_batch(
        {
            "query_id": as_text(names.take(pa.array(queries))),
            "signal": _signals(signals),
            "target_id": as_text(targets.take(pa.array(by))),
            "score": pa.array(scores[by]),
            "rank": pa.array(rank, pa.int32(), mask=above),
            "above_band": pa.array(above),
        },
        schema=NEIGHBOURS,
    )


def _signals(numbers: np.ndarray) -> pa.Array:
    """Names of signals by number; blocks of one signal share theirs."""
    if len(numbers) <= BLOCK and (numbers == numbers[:1]).all():
        return _same(int(numbers[0]) if len(numbers) else 0).slice(0, len(numbers))
    return pa.array(SIGNALS).take(pa.array(numbers))


@lru_cache(len(SIGNALS))
def _same(signal: int) -> pa.Array:
    return pa.repeat(pa.scalar(SIGNALS[signal], pa.string()), BLOCK)


def _repeated(lists: np.ndarray, scores: np.ndarray, by: np.ndarray, targets: pa.Array) -> np.ndarray:
    """Mask of sorted edges that equal the one before them."""
    again = np.zeros(len(by), bool)
    equal = np.flatnonzero((lists[1:] == lists[:-1]) & (scores[1:] == scores[:-1]))
    if len(equal):
        before, after = (targets.take(pa.array(by[at])) for at in (equal, equal + 1))
        again[equal + 1] = pc.equal(before, after).to_numpy(zero_copy_only=False)
    return again
