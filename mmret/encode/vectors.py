"""Reads the stored vectors of a shard, or of some images by their rows: each signal's Parquet file lists the images, a Lance
table holds the numbers.

A module apart from :mod:`mmret.encode.stage`, which computes them, so that reading vectors does not import any model's code.
Cost of a shard: about 1 GB/s, and its vectors in memory; of rows: one pass over the ids of their shards, then the rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.errors import UserError
from mmret.lake import Facts, Lake
from mmret.lake.data_sets import data_set
from mmret.unit_vectors import kind_of

_MOST_NAMED = 256  # shards that a filter names; beyond so many all are passed over


def read_vectors(lake: Lake, shard: str, signal: str) -> tuple[list[str], np.ndarray]:
    """Image ids of a shard in position order, and their (n, width) float16 unit vectors by the model that its Parquet file names.

    Raises UserError where the shard has no vectors yet, or where some that its file lists are gone or are not finite.

    >>> ids, vectors = read_vectors(lake, "shard-00000", "clip_image")
    """
    facts = _facts(lake, signal, shard)
    ids = lake.read(signal, shard, ["image_id"])["image_id"].to_pylist()
    width, model = facts.notes["width"], facts.notes["model"]
    table = vector_table(lake, shard, signal)
    found = table.search().where(shard_filter(shard, model)).select(["image_id", "vector"]).limit(None).to_arrow()
    where = {image_id: row for row, image_id in enumerate(found["image_id"].to_pylist())}
    if gone := [image_id for image_id in ids if image_id not in where]:
        raise UserError(_gone(lake, signal, shard, len(gone), len(ids), gone[0]))
    values = _numbers(found, width)
    values = values[[where[image_id] for image_id in ids]]
    if len(off := np.flatnonzero(_unusable(values))):
        raise UserError(_no_units(lake, signal, shard, len(off), len(ids), ids[off[0]], values[off[0]]))
    return ids, values


class VectorRows:
    """Where the vectors of some images lie, so that they are read by row: ``ids`` (n,) text, each once, and the shard of each.

    ``facts``: what is recorded of the signal in each shard, if the caller has it. All are to be of one model. Finding the rows
    passes once over the ids of their shards. Raises UserError where a shard has no vectors yet or some of the images have none.

    >>> VectorRows(lake, "clip_image", pa.array(["a1", "b2"]), pa.array(["shard-00000"] * 2)).take(np.array([1]))
    """

    def __init__(self, lake: Lake, signal: str, ids: pa.Array, shards: pa.Array, facts: Mapping[str, Facts] | None = None):
        self.lake, self.signal, self.ids, self.shards = lake, signal, ids, shards
        self._rows = np.full(len(ids), -1, np.int64)
        self._data: Any = None
        self.width = 0
        named = sorted(pc.unique(shards).to_pylist())
        if not named:
            return
        known = facts or {}
        models = {(known.get(s) or _facts(lake, signal, s)).notes["model"]: s for s in reversed(named)}
        if len(models) > 1:
            raise UserError(f"{signal}: vectors of {', '.join(models.values())} are of different models: encode them with one")
        ((model, shard),) = models.items()
        self._data = data_set(vector_table(lake, shard, signal))
        self.width = self._data.schema.field("vector").type.list_size
        where = model_filter(model)
        if len(named) <= _MOST_NAMED:
            where += " AND shard IN ({})".format(", ".join(f"'{name}'" for name in named))
        for batch in self._data.scanner(columns=["image_id", "shard"], filter=where, with_row_id=True).to_batches():
            at = pc.index_in(batch["image_id"], value_set=ids)
            hit = pc.fill_null(pc.equal(batch["shard"], shards.take(at)), False)
            self._rows[at.filter(hit).to_numpy()] = batch["_rowid"].filter(hit).to_numpy()
        if len(gone := np.flatnonzero(self._rows < 0)):
            first = shards[int(gone[0])].as_py()
            missing = np.count_nonzero(pc.equal(shards.take(pa.array(gone)), first))
            rows = _facts(lake, signal, first).rows
            raise UserError(_gone(lake, signal, first, missing, rows, ids[int(gone[0])].as_py()))

    def take(self, at: np.ndarray) -> np.ndarray:
        """(m, width) float16 of the images at places ``at`` (m,), each named once. Raises UserError for one that is not finite."""
        if not len(at):
            return np.zeros((0, self.width), np.float16)
        by = np.argsort(self._rows[at])
        found = self._data._take_rows(pa.array(self._rows[at][by].astype(np.uint64)), columns=["vector"])
        values = np.empty((len(at), self.width), np.float16)
        values[by] = _numbers(found, self.width)
        if len(off := np.flatnonzero(_unusable(values))):
            shard, image_id = (column[int(at[off[0]])].as_py() for column in (self.shards, self.ids))
            raise UserError(_no_units(self.lake, self.signal, shard, len(off), len(at), image_id, values[off[0]]))
        return values


def _facts(lake: Lake, signal: str, shard: str) -> Facts:
    facts = lake.facts(signal, shard)
    if facts is None:
        raise UserError(f"{shard} has no vectors of {signal} yet: run `mmret run --lake {lake.address}` first")
    return facts


def _numbers(found: pa.Table, width: int) -> np.ndarray:
    return found["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def _gone(lake: Lake, signal: str, shard: str, gone: int, of: int, first: str) -> str:
    return (
        f"{gone} of {of} vectors of {signal}, {shard} are gone from the lake ({first}, ...): "
        f"delete {lake.storage.shown(lake.key(signal, shard))} and run again"
    )


def _no_units(lake: Lake, signal: str, shard: str, off: int, of: int, first: str, vector: np.ndarray) -> str:
    return (
        f"{off} of {of} vectors of {signal}, {shard} are no unit vectors ({first} has {kind_of(vector)}): delete "
        f"{lake.storage.shown(f'lance/{table_name(lake, signal, len(vector))}.lance')} and {lake.storage.shown(signal)}, "
        "then run again"
    )


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
