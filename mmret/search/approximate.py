"""LanceDB's index over a gallery too large to compare every query with: it names candidates, which are scored by their full
vectors.

It lies beside the stored vectors, at ``<lake>/gallery/<digest>/index``; of a lake in an object store in this machine's scratch
folder, each machine makes its own. A shard that is new, changed or gone since it was built is
added, replaced or deleted there; the index itself is trained again once the corpus has doubled twice, and rows that it does not
hold yet are compared one by one meanwhile (:func:`mmret.mine.approximate.build_index`, which mining uses too). What it misses is
measured each time and kept with it, never assumed. Cost: training, and a
search in the index a query; no vectors in memory. Neither was measured at the sizes that need it.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmret.atomic import write_text
from mmret.hashing import uniform
from mmret.mine.approximate import build_index
from mmret.search.block import Block, merged
from mmret.search.corpus_vectors import StoredShard
from mmret.settings import IndexSettings

SETTINGS = IndexSettings(kind="ivf_rq", bits=4, partition_rows=4096, probes=32)
K = 10
"""How many nearest pictures the recall is measured with."""
_CHECKED = 100  # pictures that ask for their neighbours when the recall is measured
_TABLE = "vectors"
_FETCH = 10 * K  # as a search for K of them does, which rescores ten times as many


@dataclass(frozen=True)
class LanceIndex:
    """An index over the shards it was opened for. ``starts``: position of each shard's first row in the gallery."""

    table: Any
    starts: dict[str, int]
    recall: float

    def candidates(self, queries: np.ndarray, count: int) -> list[np.ndarray]:
        """Positions (m,) int64, ascending, of up to ``count`` pictures that may be nearest to each of ``queries`` (q, d)."""
        query = self.table.search(list(np.asarray(queries, np.float32))).distance_type("dot").nprobes(SETTINGS.probes)
        hits = query.limit(count).select(["shard", "row"]).to_arrow()
        at = hits["query_index"].to_numpy() if "query_index" in hits.column_names else np.zeros(hits.num_rows, np.int64)
        shards = np.array(hits["shard"].to_pylist(), object)
        starts = np.array([self.starts.get(shard, -1) for shard in shards], np.int64)
        positions = hits["row"].to_numpy() + starts
        return [np.unique(positions[(at == query) & (starts >= 0)]) for query in range(len(queries))]


def open_index(shards: Sequence[StoredShard], settings: IndexSettings = SETTINGS) -> LanceIndex:
    """The index over ``shards`` of one gallery, brought up to date first."""
    import lancedb

    folder = (shards[0].folder or shards[0].path.parent) / "index"
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "record.json"
    wanted = {shard.shard: shard.digest for shard in shards}
    starts = dict(zip(wanted, np.cumsum([0, *(len(shard.ids) for shard in shards[:-1])]).tolist(), strict=True))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process at a time; the next finds its work done
        database = lancedb.connect(str(folder))
        noted = json.loads(record.read_text()) if record.is_file() else {"shards": {}, "recall": None}
        if noted["shards"] == wanted and noted["recall"] is not None:
            return LanceIndex(database.open_table(_TABLE), starts, noted["recall"])
        table = _brought_up_to_date(database, noted["shards"], shards, record)
        build_index(table, settings, shards[0].mapped_vectors().shape[1])
        recall = measured_recall(LanceIndex(table, starts, 0.0), shards)
        write_text(record, json.dumps({"shards": wanted, "recall": recall}))
        return LanceIndex(table, starts, recall)


def _brought_up_to_date(database: Any, held: dict[str, str], shards: Sequence[StoredShard], record: Path) -> Any:
    if not held or _TABLE not in database.list_tables().tables:
        schema = pa.schema(
            [
                ("shard", pa.string()),
                ("row", pa.int32()),
                ("vector", pa.list_(pa.float32(), shards[0].mapped_vectors().shape[1])),
            ]
        )
        table, held = database.create_table(_TABLE, schema=schema, mode="overwrite"), {}
    else:
        table = database.open_table(_TABLE)
    wanted = {shard.shard: shard.digest for shard in shards}
    # written down before the table changes: begun again after a crash, what was under way counts as not held
    kept = {shard: digest for shard, digest in held.items() if wanted.get(shard) == digest}
    write_text(record, json.dumps({"shards": kept, "recall": None}))
    for shard in held.keys() - kept.keys() | wanted.keys() - kept.keys():
        table.delete(f"shard = '{shard}'")
    for shard in shards:
        if shard.shard not in kept:
            table.add(_rows(shard))
            kept[shard.shard] = shard.digest
            write_text(record, json.dumps({"shards": kept, "recall": None}))
    return table


def _rows(shard: StoredShard, step: int = 8192) -> pa.RecordBatchReader:
    vectors = shard.mapped_vectors()
    schema = pa.schema([("shard", pa.string()), ("row", pa.int32()), ("vector", pa.list_(pa.float32(), vectors.shape[1]))])

    def batches() -> Any:
        for start in range(0, len(vectors), step):
            part = np.ascontiguousarray(vectors[start : start + step])
            flat = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), vectors.shape[1])
            rows = pa.array(np.arange(start, start + len(part)), pa.int32())
            yield pa.record_batch([pa.repeat(shard.shard, len(part)), rows, flat], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def measured_recall(index: LanceIndex, shards: Sequence[StoredShard], checked: int = _CHECKED) -> float:
    """Share of the :data:`K` other pictures nearest to each of ``checked``, drawn by hash, that are among its candidates."""
    places = [(shard, row) for shard in shards for row in range(len(shard.ids))]
    drawn = sorted(places, key=lambda place: uniform("recall", place[0].ids[place[1]]))[:checked]
    queries = np.stack([shard.mapped_vectors()[row] for shard, row in drawn])
    own = [index.starts[shard.shard] + row for shard, row in drawn]
    starts = [index.starts[shard.shard] for shard in shards]
    found = [Block(shard.mapped_vectors(), sketched=False).nearest(queries, K + 1) for shard in shards]
    shares = []
    for n, named in enumerate(index.candidates(queries, _FETCH)):
        rows, _ = merged([of_shard[n] for of_shard in found], starts, K + 1)
        nearest = rows[rows != own[n]][:K]
        shares.append(np.isin(nearest, named).mean())
    return float(np.mean(shares))
