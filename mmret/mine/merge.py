"""Neighbours of one shard's images: the merge of every candidate file that speaks of them.

Each file holds, per query and signal, its best ``k`` in the band and its best ``k`` above it. Merging is cutting the
union, which is associative and commutative, so files may be merged in any order or grouping, and adding a file to a
finished merge equals merging all again. Cost: about 0.5 us an edge; memory a few times the edges of one signal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.mine.ordering import order, within_group
from mmret.schemas import NEIGHBOURS, SIGNALS

ROWS_HELD = 1_000_000  # edges that may wait beyond twice the merged lists, however many files there are
_COLUMNS = ["query_id", "signal", "target_id", "score", "above_band"]


def neighbours(edges: Iterable[pa.Table], k: int) -> pa.Table:
    """Ranked neighbours, schema ``NEIGHBOURS``, of the queries in ``edges`` (tables with the columns of
    ``CANDIDATES``).

    Per query and signal the best ``k`` in the band, ranked from 0, and the best ``k`` above it, rank null; equal scores
    by target id. Sorted by query id, signal (order of ``SIGNALS``), in the band before above it, rank. An edge that
    appears twice counts once. The result is itself a valid input of another merge.
    """
    parts: list[pa.Table] = []
    rows = settled = 0
    for table in edges:
        parts.append(table.select(_COLUMNS))
        rows += table.num_rows
        if len(parts) > 1 and rows > 2 * settled + ROWS_HELD:
            parts = [_merged(parts, k).select(_COLUMNS)]
            rows = settled = parts[0].num_rows
    return _merged(parts, k)


def _merged(parts: list[pa.Table], k: int) -> pa.Table:
    table = pa.concat_tables([NEIGHBOURS.empty_table().select(_COLUMNS), *parts])
    by_name = _Names(table["query_id"])
    cuts = [_cut(table, signal, by_name.codes, k) for signal in SIGNALS]
    groups = np.concatenate([(c.groups // 2) * 2 * len(SIGNALS) + 2 * s + c.groups % 2 for s, c in enumerate(cuts)])
    final = pa.array(np.argsort(groups, kind="stable"))  # each signal's part is sorted already: three runs to merge
    query = np.concatenate([c.groups // 2 for c in cuts])
    above = np.concatenate([c.groups % 2 == 1 for c in cuts])
    rank = pa.array(np.concatenate([c.rank for c in cuts]), pa.int32(), mask=above)
    signal = pa.array(np.repeat(np.arange(len(SIGNALS)), [len(c.rank) for c in cuts]))
    return pa.table({
        "query_id": by_name.names.take(pa.array(query).take(final)),
        "signal": pa.array(SIGNALS).take(signal.take(final)),
        "target_id": pa.chunked_array([c.targets for c in cuts], pa.string()).take(final),
        "score": pa.array(np.concatenate([c.scores for c in cuts])).take(final),
        "rank": rank.take(final),
        "above_band": pa.array(above).take(final),
    }, schema=NEIGHBOURS)


class _Names:
    """Distinct ids in order, ``names``, and the number of each row's id, ``codes`` (n,) int64."""

    def __init__(self, ids: pa.ChunkedArray):
        coded = ids.combine_chunks().dictionary_encode()
        by_name = pc.array_sort_indices(coded.dictionary)
        self.names = coded.dictionary.take(by_name)
        place = np.empty(len(by_name), np.int64)
        place[by_name.to_numpy()] = np.arange(len(by_name))
        self.codes = place[coded.indices.to_numpy()]


@dataclass(frozen=True)
class _Cut:
    groups: np.ndarray  # 2 * number of the query + whether above the band
    scores: np.ndarray
    rank: np.ndarray
    targets: pa.Array


def _cut(table: pa.Table, signal: str, queries: np.ndarray, k: int) -> _Cut:
    """The best ``k`` of every query in the band and above it."""
    of_signal = pc.equal(table["signal"], signal)
    here = np.flatnonzero(of_signal.to_numpy())
    targets = table["target_id"].filter(of_signal).combine_chunks()
    scores = table["score"].filter(of_signal).to_numpy()
    groups = queries[here] * 2 + table["above_band"].filter(of_signal).to_numpy()
    by = order(groups, scores, lambda at: targets.take(pa.array(at)))
    groups, scores = groups[by], scores[by]
    again = np.zeros(len(by), bool)
    equal = np.flatnonzero((groups[1:] == groups[:-1]) & (scores[1:] == scores[:-1]))
    if len(equal):
        one, other = targets.take(pa.array(by[equal])), targets.take(pa.array(by[equal + 1]))
        again[equal + 1] = pc.equal(one, other).to_numpy(False)
        groups, scores, by = groups[~again], scores[~again], by[~again]
    rank = within_group(groups)
    keep = rank < k
    return _Cut(groups[keep], scores[keep], rank[keep], targets.take(pa.array(by[keep])))
