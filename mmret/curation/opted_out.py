"""Which pictures of a lake have opted out: rows of its manifest with the reason ``opted_out``, which an opt-out list gave them.

:mod:`mmret.ingest.opt_out` reads the lists and decides; whoever works with an earlier state of the lake asks here, for that state
still lists the pictures. Cost: one filtered read of a few columns of the manifest.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from mmret.lake import Lake
from mmret.lake.partitions import PartitionFiles

OPTED_OUT = "opted_out"
"""The reason of such a row; its detail is the entry of the list."""


def opted_out_ids(lake: PartitionFiles, partition: str | None = None) -> pa.Array:
    """Sorted ids of the pictures that have opted out (string), of the whole lake or as one partition lists them.

    >>> opted_out_ids(lake).to_pylist()
    """
    if OPTED_OUT not in lake.read("corpus_manifest", partition, ["reason"])["reason"].unique().to_pylist():
        # as in most lakes: no engine for filters is loaded for them
        return pa.nulls(0, pa.string())
    rows = lake.read("corpus_manifest", partition, ["image_id"], pc.field("reason") == OPTED_OUT)
    return pc.unique(rows["image_id"].drop_null()).sort()


def opted_out_today(lake: PartitionFiles) -> pa.Array:
    """:func:`opted_out_ids` of the lake as it is, whatever state of it ``lake`` is."""
    return opted_out_ids(Lake(lake.storage))


def without_opted_out(triplets: pa.Table, lake: Lake) -> pa.Table:
    """``triplets`` of an earlier state (any table with ``query_id``, ``target_id``, ``hard_negatives``) as today's opt-outs leave
    them: without rows of such a query or target, and without such negatives.

    >>> without_opted_out(open_as_of(lake, "demo").read("triplets"), lake)
    """
    gone = opted_out_today(lake)
    if not len(gone) or not triplets.num_rows:
        return triplets
    out = pc.or_(*(pc.is_in(triplets[side], value_set=gone) for side in ("query_id", "target_id")))
    rows = triplets.filter(pc.invert(out))
    negatives = rows["hard_negatives"].combine_chunks()
    if not pc.any(pc.is_in(pc.list_flatten(negatives), value_set=gone)).as_py():
        return rows
    excluded = set(gone.to_pylist())
    kept = [[i for i in listed if i not in excluded] for listed in negatives.to_pylist()]
    at = rows.schema.get_field_index("hard_negatives")
    return rows.set_column(at, rows.schema.field(at), pa.array(kept, rows.schema.field(at).type))
