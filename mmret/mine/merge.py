"""Neighbours of one shard's images: the merge of every candidate file that speaks of them.

Each file holds, per query and signal, its best ``k`` in the band and its best ``k`` above it. Merging is cutting the
union, which is associative and commutative, so files may be merged in any order or grouping, and adding a file to a
finished merge equals merging all again. Cost: about 0.5 us an edge; memory a few times the edges of one signal.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.mine.ordering import Texts, numbered, order, within_group
from mmret.schemas import NEIGHBOURS, SIGNALS

ROWS_HELD = 8_000_000  # edges that may wait beyond twice the merged lists, however many files there are
_COLUMNS = ["query_id", "signal", "target_id", "score", "above_band"]


def neighbours(edges: Iterable[pa.Table], k: int) -> pa.Table:
    """Ranked neighbours, schema ``NEIGHBOURS``, of the queries in ``edges`` (tables with the columns of
    ``CANDIDATES``).

    Per query and signal the best ``k`` in the band, ranked from 0, and the best ``k`` above it, rank null; equal scores
    by target id. Sorted by query id, signal (order of ``SIGNALS``), in the band before above it, rank. An edge that
    appears twice counts once. The result is itself a valid input of another merge.
    """
    merged = NEIGHBOURS.empty_table()
    waiting: list[pa.Table] = []
    for table in edges:
        if sum(part.num_rows for part in waiting) > merged.num_rows + ROWS_HELD:
            merged, waiting = _merged([merged, *waiting], k), []
        waiting.append(table)
    return _merged([merged, *waiting], k) if waiting else merged


def _merged(parts: list[pa.Table], k: int) -> pa.Table:
    return _cut(pa.concat_tables([part.select(_COLUMNS) for part in parts]), k)


def _cut(table: pa.Table, k: int) -> pa.Table:
    names, queries = numbered(table["query_id"])
    signals = pc.index_in(table["signal"], value_set=pa.array(SIGNALS)).to_numpy()
    above = table["above_band"].to_numpy()
    scores = table["score"].to_numpy()
    targets = Texts(table["target_id"])
    groups = (queries * len(SIGNALS) + signals) * 2 + above
    by = order(groups, scores, targets.take)
    by = by[~_repeated(groups[by], scores[by], by, targets)]
    groups = groups[by]
    rank = within_group(groups)
    keep = rank < k
    by, rank = by[keep], rank[keep]
    above = above[by]
    return pa.table({
        "query_id": Texts(names).take(queries[by]),
        "signal": pa.array(SIGNALS).take(pa.array(signals[by])),
        "target_id": targets.take(by),
        "score": pa.array(scores[by]),
        "rank": pa.array(rank, pa.int32(), mask=above),
        "above_band": pa.array(above),
    }, schema=NEIGHBOURS)


def _repeated(groups: np.ndarray, scores: np.ndarray, by: np.ndarray, targets: Texts) -> np.ndarray:
    """Mask of sorted edges that equal the one before them."""
    again = np.zeros(len(by), bool)
    equal = np.flatnonzero((groups[1:] == groups[:-1]) & (scores[1:] == scores[:-1]))
    if len(equal):
        again[equal + 1] = pc.equal(targets.take(by[equal]), targets.take(by[equal + 1])).to_numpy()
    return again
