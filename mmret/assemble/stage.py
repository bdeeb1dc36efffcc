"""The stage ``triplets`` on a lake: one shard's pairs, descriptions and instructions become its training rows.

Costs a few seconds for a shard of 100,000 pairs, most of it reading paths and licences from ``images``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmret.assemble.triplets import assemble
from mmret.ingest.pictures.pair_images import read_images_of
from mmret.lake import Facts, Lake
from mmret.lake.inputs import linked_shards
from mmret.settings import EvaluateSettings


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
