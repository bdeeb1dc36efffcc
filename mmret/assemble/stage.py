"""The stage ``triplets`` on a lake: one shard's pairs, descriptions and instructions become its training rows.

Costs a few seconds for a shard of 100,000 pairs, most of it reading ``images``, of all shards, for paths and licences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmret.assemble.triplets import assemble
from mmret.ingest.pair_images import NOTE, images_fingerprint_of, read_noted
from mmret.lake import Facts, Lake
from mmret.settings import EvaluateSettings

COLUMNS = ("path", "licence")
"""What a triplet takes from table ``images``."""


def assemble_shard(
    lake: Lake, shard: str, settings: EvaluateSettings, inputs: str, measure: Callable[[pa.Table], dict[str, Any]] | None = None
) -> Facts:
    """Write ``triplets`` of a shard; what ``measure`` returns for its rows is noted as their ``quality``.

    >>> assemble_shard(lake, "shard-00000", profile.evaluate, fingerprint)
    """
    images, noted = read_noted(lake, shard, COLUMNS)
    rows, left_out = assemble(
        lake.read("pairs", shard), lake.read("descriptions", shard), lake.read("instructions", shard), images, settings
    )
    train = pc.sum(pc.equal(rows["split"], "train")).as_py() or 0
    notes = {"train": train, "test": rows.num_rows - train, "left_out": left_out, NOTE: noted}
    if measure is not None and rows.num_rows:
        notes["quality"] = measure(rows)
    return lake.write("triplets", shard, rows, inputs, **notes)


def images_fingerprint(lake: Lake, shard: str) -> str | None:
    """Changes when, and only when, the path or licence of a picture does that the pairs of ``shard`` name.

    Part of the fingerprint of ``triplets``. None where the shard has no pairs. Costs :mod:`mmret.ingest.pair_images`.
    """
    return images_fingerprint_of(lake, "triplets", shard, COLUMNS)
