"""Candidate edges from LanceDB's index (IVF_RQ, IVF_PQ): for corpora where comparing every pair is out of reach.

The interface is that of :mod:`mmret.mine.candidates`: one file per shard, both directions, merged by the same code. Each
image of the shard asks the index once; whatever it finds in an earlier shard is written for both sides, so growth costs
dN searches. The index orders by compressed vectors, and the band cuts *above* too, so a search asks for ``fetch`` times
``k`` results, scores them exactly from the stored vectors, and asks again below the band's end where near-duplicates
filled the answer. What is missed is measured (:mod:`mmret.mine.recall`), never assumed.

Cost: training the index once per doubling of the corpus; about 1 ms a search and signal; memory one batch of results
and the shard's edges. An index is trained at random: two of them may miss different neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mmret import progress
from mmret.encode.vectors import model_filter, read_vectors, vector_table
from mmret.lake import Lake
from mmret.lake.data_sets import data_set
from mmret.mine.merge import neighbours
from mmret.mine.operands import exact_scores_of_few
from mmret.mine.toplists import band_limits
from mmret.schemas import CANDIDATES
from mmret.settings import BandSettings, IndexSettings, MineSettings

QUERIES = 256  # searched at once
MAX_UNINDEXED_SHARE = 0.1  # share of rows outside the index, searched one by one, before they are added to it
SLACK = 0.1  # below the band's low end by which a compressed score may still be asked for
_MOST_NAMED = 1000  # vectors that a filter names one by one
_ROUNDING = 1e-3  # of a float32 score; whatever comes so near to the band is scored exactly


def uses_index(rows: int, index: IndexSettings) -> bool:
    """Whether a corpus of ``rows`` images is searched through the index."""
    return index.kind != "exact" and rows >= index.from_rows


def index_candidates(lake: Lake, shard: str, settings: MineSettings, bands: dict[str, BandSettings]) -> pa.Table:
    """Candidate edges of ``shard`` and the earlier ones, as :func:`mmret.mine.candidates.candidates` returns them.

    Edges that the index does not find are missing.
    """
    return pa.concat_tables(
        [CANDIDATES.empty_table(), *(_of_signal(lake, shard, signal, settings, bands[signal]) for signal in settings.signals)]
    )


def _of_signal(lake: Lake, shard: str, signal: str, settings: MineSettings, band: BandSettings) -> pa.Table:
    ids, vectors = read_vectors(lake, shard, signal)
    table = vector_table(lake, shard, signal)
    build_index(table, settings.index, vectors.shape[1])
    where = f"shard <= '{shard}' AND {model_filter(lake.facts(signal, shard).notes['model'])}"
    search = _Search(table, where, settings, band, _left_over(lake, shard, signal, table, where))
    shard_of: dict[str, str] = dict.fromkeys(ids, shard)

    def edges() -> Iterator[pa.Table]:
        for start in range(0, len(ids), QUERIES):
            progress.advance(f"neighbours {signal} {shard}", start, len(ids))
            rows, targets, shards, scores = search.of(vectors[start : start + QUERIES])
            shard_of.update(zip(targets, shards, strict=True))
            queries = np.asarray(ids, object)[rows + start]
            other = queries != targets
            one, two = queries[other], targets[other]
            for query, target in ((one, two), (two, one)):
                yield pa.table(
                    {
                        "query_id": pa.array(query, pa.string()),
                        "signal": pa.repeat(signal, len(query)),
                        "target_id": pa.array(target, pa.string()),
                        "score": pa.array(scores[other], pa.float32()),
                        "above_band": pa.array(scores[other] >= band_limits(band)[1]),
                    }
                )

    found = neighbours(edges(), settings.k)
    names = pa.array(shard_of.keys(), pa.string())
    shards = pa.array(shard_of.values(), pa.string()).take(pc.index_in(found["query_id"].combine_chunks(), value_set=names))
    return found.append_column("query_shard", shards).select(CANDIDATES.names).cast(CANDIDATES)


def _left_over(lake: Lake, shard: str, signal: str, table: Any, where: str) -> dict[str, set[str]]:
    """By shard, the images whose vectors lie in the table although the lake has them there no more: removed, replaced, moved.

    Costs a count where there are none, which is nearly always.
    """
    lists = {
        each: lake.read(signal, each, ["image_id"])["image_id"].combine_chunks()
        for each in lake.shards()
        if each <= shard and lake.facts(signal, each) is not None
    }
    if table.count_rows(where) == sum(map(len, lists.values())):
        return {}
    held = table.search().where(where).select(["image_id", "shard"]).limit(None).to_arrow()
    found = {}
    for each in pc.unique(held["shard"]).to_pylist():
        ids = held.filter(pc.equal(held["shard"], each))["image_id"]
        known = pc.is_in(ids, value_set=lists.get(each, pa.array([], pa.string())))
        if gone := set(ids.filter(pc.invert(known)).to_pylist()):
            found[each] = gone
    return found


class _Search:
    """Searches of one table under one filter, without ``left_over`` vectors."""

    def __init__(self, table: Any, where: str, settings: MineSettings, band: BandSettings, left_over: dict[str, set[str]]):
        self.table, self.settings, self.band, self.left_over = table, settings, band, left_over
        if sum(map(len, left_over.values())) <= _MOST_NAMED:  # so that they take no places of a search's answer
            for shard, ids in sorted(left_over.items()):
                names = ", ".join("'" + image_id.replace("'", "''") + "'" for image_id in sorted(ids))
                where += f" AND NOT (shard = '{shard}' AND image_id IN ({names}))"
        self.where = where if table.count_rows(where) < table.count_rows() else None
        self.low, self.high = band_limits(band)

    def of(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Query rows, target ids, their shards and exact scores above the band's low end; each query finds itself too."""
        found = self._scored(queries, np.arange(len(queries)), None)
        rows, scores, limit = found[0], found[3], self._limit()
        count = np.bincount(rows, minlength=len(queries))
        inside = np.bincount(rows[scores < self.high], minlength=len(queries))
        crowded = np.flatnonzero((count >= limit) & (inside < self.settings.k))
        if len(crowded):
            more = self._scored(queries[crowded], crowded, 1 - float(self.high))
            found = tuple(np.concatenate(pair) for pair in zip(found, more, strict=True))
        return found

    def _limit(self) -> int:
        return self.settings.k * self.settings.index.fetch

    def _scored(self, queries: np.ndarray, rows: np.ndarray, nearest: float | None) -> tuple[np.ndarray, ...]:
        query = self.table.search(list(queries)).distance_type("dot").nprobes(self.settings.index.probes)
        query = query.distance_range(nearest, 1 - float(self.low) + SLACK).limit(self._limit())
        query = query.select(["image_id", "shard", "vector", "_distance"])
        if self.where:
            query = query.where(self.where, prefilter=True)
        hits = query.to_arrow().combine_chunks()
        at = hits["query_index"].to_numpy() if "query_index" in hits.column_names else np.zeros(hits.num_rows, np.int32)
        width = queries.shape[1]
        vectors = hits["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        rough = np.einsum("nd,nd->n", queries.astype(np.float32)[at], vectors.astype(np.float32))
        keep = np.flatnonzero(rough > self.low - _ROUNDING)
        scores = exact_scores_of_few(
            torch.from_numpy(np.ascontiguousarray(queries)), torch.from_numpy(vectors[keep]), at[keep], np.arange(len(keep))
        )
        keep, scores = keep[scores > self.low], scores[scores > self.low]
        names = [np.asarray(hits[column].take(pa.array(keep)).to_pylist(), object) for column in ("image_id", "shard")]
        if self.left_over:
            there = np.array([i not in self.left_over.get(s, ()) for i, s in zip(*names, strict=True)], bool)
            keep, scores, names = keep[there], scores[there], [column[there] for column in names]
        return rows[at[keep]], *names, scores


def build_index(table: Any, index: IndexSettings, width: int) -> None:
    """Build the index of a vector table if it has none of this kind; train it again once the table has doubled twice, and add rows
    that are not in it if there are many."""
    from lancedb.index import Bitmap, IvfPq, IvfRq

    rows = table.count_rows()
    partitions = max(1, rows // index.partition_rows)
    built = {i.name: i for i in table.list_indices() if i.columns == ["vector"]}
    stem = f"{index.kind}_{index.bits}_"
    sizes = {int(name.removeprefix(stem)): name for name in built if name.startswith(stem)}
    fitting = [size for size in sizes if size * 4 > partitions]
    if fitting and len(built) == 1:
        if built[sizes[fitting[0]]].num_unindexed_rows > MAX_UNINDEXED_SHARE * rows:
            data_set(table).optimize.optimize_indices()
        return
    progress.advance("index", 0, None, f"{index.kind} of {rows:,} vectors")
    kinds = {
        "ivf_rq": lambda: IvfRq(distance_type="dot", num_partitions=partitions, num_bits=index.bits, max_iterations=20),
        "ivf_pq": lambda: IvfPq(
            distance_type="dot", num_partitions=partitions, max_iterations=20, num_sub_vectors=_sub_vectors(width, index.bits)
        ),
    }
    table.create_index("vector", config=kinds[index.kind](), name=f"{stem}{partitions}", replace=True)
    for name in built.keys() - {f"{stem}{partitions}"}:
        table.drop_index(name)
    if not any(i.columns == ["shard"] for i in table.list_indices()):
        table.create_index("shard", config=Bitmap())


def _sub_vectors(width: int, bits: int) -> int:
    """Parts of a vector that product quantisation gives a byte each: ``bits`` a component, and a divisor of the width."""
    return max(n for n in range(1, max(1, width * bits // 8) + 1) if width % n == 0)
