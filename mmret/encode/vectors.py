"""Reads the stored vectors of a shard: each signal's Parquet file lists the images, a Lance table holds the numbers.

A module apart from :mod:`mmret.encode.stage`, which computes them, so that reading vectors does not import any model's code.
Cost: about 1 GB/s, and the shard's vectors in memory.
"""

from __future__ import annotations

import numpy as np

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.unit_vectors import kind_of


def read_vectors(lake: Lake, shard: str, signal: str) -> tuple[list[str], np.ndarray]:
    """Image ids of a shard in position order, and their (n, width) float16 unit vectors by the model that its Parquet file names.

    Raises UserError where the shard has no vectors yet, or where some that its file lists are gone or are not finite.

    >>> ids, vectors = read_vectors(lake, "shard-00000", "clip_image")
    """
    facts = lake.facts(signal, shard)
    if facts is None:
        raise UserError(f"{shard} has no vectors of {signal} yet: run `mmret run --lake {lake.address}` first")
    ids = lake.read(signal, shard, ["image_id"])["image_id"].to_pylist()
    width, model = facts.notes["width"], facts.notes["model"]
    table = vector_table(lake, shard, signal)
    found = table.search().where(shard_filter(shard, model)).select(["image_id", "vector"]).limit(None).to_arrow()
    where = {image_id: row for row, image_id in enumerate(found["image_id"].to_pylist())}
    if gone := [image_id for image_id in ids if image_id not in where]:
        raise UserError(
            f"{len(gone)} of {len(ids)} vectors of {signal}, {shard} are gone from the lake "
            f"({gone[0]}, ...): delete {lake.storage.shown(lake.key(signal, shard))} and run again"
        )
    values = found["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    values = values[[where[image_id] for image_id in ids]]
    if len(off := np.flatnonzero(_unusable(values))):
        raise UserError(
            f"{len(off)} of {len(ids)} vectors of {signal}, {shard} are no unit vectors ({ids[off[0]]} has "
            f"{kind_of(values[off[0]])}): delete "
            f"{lake.storage.shown(f'lance/{table_name(lake, signal, width)}.lance')} and {lake.storage.shown(signal)}, then run "
            "again"
        )
    return ids, values


def _unusable(values: np.ndarray) -> np.ndarray:
    """Which rows (n,) bool of (n, width) float16 are all zero or not finite; by their bits, some GB/s."""
    bits = values.view(np.uint16) & 0x7FFF
    return (bits >= 0x7C00).any(axis=1) | ~bits.any(axis=1)


def vector_table(lake: Lake, shard: str, signal: str) -> object:
    """The Lance table that holds the vectors of a shard. Other models' rows may lie in it too: filter on ``model``."""
    return lake.lance(table_name(lake, signal, lake.facts(signal, shard).notes["width"]))


def remove_vectors(table: object, image_ids: list[str]) -> None:
    """Delete the vectors of ``image_ids`` from a Lance table, those of other models too."""
    for at in range(0, len(image_ids), 4096):
        some = f"image_id IN ({', '.join(repr(i) for i in image_ids[at : at + 4096])})"
        if table.count_rows(some):
            table.delete(some)


def table_name(lake: Lake, signal: str, width: int) -> str:
    """Name of the Lance table: ``signal``, or ``signal_<width>`` where that one holds vectors of another width."""
    if not lake.has_lance(signal) or lake.lance(signal).schema.field("vector").type.list_size == width:
        return signal
    return f"{signal}_{width}"


def model_filter(model: str) -> str:
    """The Lance filter for one model's rows."""
    return f"model = '{model.replace(chr(39), chr(39) * 2)}'"


def shard_filter(shard: str, model: str) -> str:
    """The Lance filter for one model's rows of a shard."""
    return f"shard = '{shard}' AND {model_filter(model)}"
