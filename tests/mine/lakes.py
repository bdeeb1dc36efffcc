"""A lake that has nothing but images' ids, captions and vectors: what mining reads, in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from mmret.lake import Lake
from mmret.schemas import CORPUS_MANIFEST, IMAGES_INDEX, LEAKS, TABLES, TOWERS
from mmret.schemas import vectors as vector_schema

MODEL = "tests@1+none"


def filled(schema: pa.Schema, columns: Mapping[str, Sequence]) -> pa.Table:
    """``columns``, the others null."""
    rows = len(next(iter(columns.values())))
    return pa.table([columns.get(f.name, pa.nulls(rows, f.type)) for f in schema], schema=schema)


def add_shard(lake: Lake, shard: str, ids: Sequence[str], vectors: Mapping[str, np.ndarray], model: str = MODEL) -> None:
    """Write what encoding leaves of ``shard``."""
    lake.write("corpus_manifest", shard, filled(CORPUS_MANIFEST, {"shard": [shard] * len(ids), "image_id": ids}), "x")
    lake.write("images", shard, filled(IMAGES_INDEX, {"image_id": ids, "shard": [shard] * len(ids), "caption": ids}), "x")
    if lake.facts("leaks", "all") is None:
        lake.write("leaks", "all", LEAKS.empty_table(), "x")
        lake.write("towers", "all", TOWERS.empty_table(), "x")
    for signal, values in vectors.items():
        width = values.shape[1]
        schema = TABLES[signal]
        index = {"image_id": ids, "shard": [shard] * len(ids), "model": [model] * len(ids), "truncated": [False] * len(ids)}
        rows = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)
        lake.lance(signal, vector_schema(width)).add(pa.table([*map(pa.array, index.values()), rows], schema=vector_schema(width)))
        lake.write(signal, shard, filled(schema, index), "x", model=model, width=width, truncated=0)
