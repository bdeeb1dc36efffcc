"""Measures what share of the exact neighbours in the band a search has found, by comparing a sample of images with everything.

Cost: one pass over the vectors of the shards compared with; ``checked`` images against each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.hashing import uniform
from mmret.mine.candidates import ShardVectors, candidate_tables
from mmret.settings import BandSettings, MineSettings

_MARK = "?"  # before the id of a sampled image, which is compared with itself too


def sample(ids: Iterable[str], count: int) -> list[str]:
    """``count`` of ``ids`` at most, those of lowest hash, so that their order does not matter."""
    return sorted(sorted(ids, key=lambda image_id: uniform("recall", image_id))[:count])


def exact_lists(
    queries: ShardVectors, shards: Iterable[ShardVectors], settings: MineSettings, bands: Mapping[str, BandSettings]
) -> pa.Table:
    """The best ``k`` neighbours in the band of each query among ``shards`` (which may hold the queries too), exactly.

    Columns query_id, signal, target_id.
    """
    asking = ShardVectors("sample", [_MARK + name for name in queries.ids], queries.vectors)
    wider = settings.model_copy(update={"k": settings.k + len(queries.ids)})  # its own kind are compared among themselves
    *_, own = candidate_tables(asking, shards, wider, bands)
    own = own.filter(pc.invert(own["above_band"]))
    names = pc.utf8_slice_codeunits(own["query_id"], len(_MARK))
    real = pc.and_(pc.invert(pc.starts_with(own["target_id"], _MARK)), pc.not_equal(names, own["target_id"]))
    own = pa.table({"query_id": names, "signal": own["signal"], "target_id": own["target_id"], "score": own["score"]}).filter(real)
    own = own.sort_by([("query_id", "ascending"), ("signal", "ascending"), ("score", "descending"), ("target_id", "ascending")])
    lists = pc.binary_join_element_wise(own["query_id"], own["signal"], " ").combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.append(True, lists[1:] != lists[:-1])) if len(lists) else np.zeros(0, np.int64)
    rank = np.arange(len(lists)) - np.repeat(starts, np.diff(np.append(starts, len(lists))))
    return own.filter(pa.array(rank < settings.k)).drop_columns("score")


def in_band_recall(found: pa.Table, exact: pa.Table, signals: Sequence[str]) -> dict[str, float]:
    """Per signal the share of ``exact`` (query_id, signal, target_id) that ``found`` has in the band; 1 if ``exact`` has none."""
    inside = found.filter(pc.invert(found["above_band"]))
    recall = {}
    for signal in signals:
        mine, wanted = (_keys(table.filter(pc.equal(table["signal"], signal))) for table in (inside, exact))
        hit = pc.sum(pc.is_in(wanted, value_set=mine)).as_py() or 0
        recall[signal] = round(hit / len(wanted), 4) if len(wanted) else 1.0
    return recall


def _keys(table: pa.Table) -> pa.Array:
    return pc.binary_join_element_wise(table["query_id"], table["target_id"], " ").combine_chunks()
