"""The stages ``triplets`` and ``tasks`` on a lake: what was mined and written of one shard becomes its training rows.

Each costs a few seconds for a shard of 100,000 pairs, most of it reading columns of ``images``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmret.assemble.tasks import task_rows
from mmret.assemble.triplets import assemble
from mmret.ingest.pictures.pair_images import read_images_of
from mmret.lake import Facts, Lake
from mmret.lake.inputs import linked_shards
from mmret.settings import EvaluateSettings

TRIPLET_COLUMNS = ["pair_id", "query_id", "target_id", "texts", "hard_negatives", "signals"]


def assemble_shard(
    lake: Lake, shard: str, settings: EvaluateSettings, inputs: str, measure: Callable[[pa.Table], dict[str, Any]] | None = None
) -> Facts:
    """Write ``triplets`` of a shard; what ``measure`` returns for its rows is noted as their ``quality``.

    >>> assemble_shard(lake, "shard-00000", profile.evaluate, fingerprint)
    """
    pairs = lake.read("pairs", shard)
    images = read_images_of(lake, pairs, ("path", "licence"), linked_shards(lake, "pairs", shard))
    rows, left_out = assemble(pairs, lake.read("descriptions", shard), lake.read("instructions", shard), images, settings)
    train = pc.sum(pc.equal(rows["split"], "train")).as_py() or 0
    notes = {"train": train, "test": rows.num_rows - train, "left_out": left_out}
    if measure is not None and rows.num_rows:
        notes["quality"] = measure(rows)
    return lake.write("triplets", shard, rows, inputs, **notes)


Wanting = Callable[[list[str]], Mapping[str, pa.ChunkedArray]]
"""Function of shards that returns, by reason, ids of their pictures that are in no row."""


def make_tasks(lake: Lake, shard: str, settings: EvaluateSettings, inputs: str, wanting: Wanting | None = None) -> Facts:
    """Write ``tasks`` of a shard: rows of every kind of query but the composed one. Pictures of benchmarks are in none, nor are
    those that a score keeps out (``wanting``); the latter's own are counted in the note ``kept_out``.

    >>> make_tasks(lake, "shard-00000", profile.evaluate, fingerprint).notes["tasks"]["text_to_image"]
    """
    columns = ["query_id", "signal", "target_id", "score", "above_band"]
    neighbours, triplets = lake.read("neighbours", shard, columns), lake.read("triplets", shard, TRIPLET_COLUMNS)
    linked = linked_shards(lake, "neighbours", shard)
    reasons = wanting(sorted({*linked, shard})) if wanting else {}
    leaked = lake.read("leaks", columns=["image_id"])["image_id"]
    out = pc.unique(pa.chunked_array([chunk for ids in (leaked, *reasons.values()) for chunk in ids.chunks], pa.string()))
    for side in ("query_id", "target_id"):
        neighbours = neighbours.filter(pc.invert(pc.is_in(neighbours[side], out)))
        triplets = triplets.filter(pc.invert(pc.is_in(triplets[side], out)))
    own = lake.read("images", shard, ["image_id"])["image_id"].combine_chunks()
    kept_out = {reason: pc.sum(pc.is_in(own, value_set=ids.combine_chunks())).as_py() or 0 for reason, ids in reasons.items()}
    own = own.filter(pc.invert(pc.is_in(own, out)))
    named = pa.concat_tables([neighbours.select(["query_id", "target_id"]), pa.table({"query_id": own, "target_id": own})])
    images = read_images_of(lake, named, ("caption", "licence"), linked)
    rows, counts = task_rows(neighbours, triplets, images, own, settings)
    train = pc.sum(pc.equal(rows["split"], "train")).as_py() or 0
    notes = {"tasks": counts, "train": train, "test": rows.num_rows - train} | ({"kept_out": kept_out} if kept_out else {})
    return lake.write("tasks", shard, rows, inputs, **notes)
