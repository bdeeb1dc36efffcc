"""Columns of the pictures that pairs name, whatever shards they lie in, and a fingerprint of them.

A pair's target may lie in any shard, so a stage over pairs reads table ``images`` by row: declared by partition, every new shard
would make all old ones stale. The fingerprint covers what is read and nothing else. Cost: one pass over the columns read (8,000
images: 10 ms; a million: about 1 s); none where the partition noted what it read and nothing of that was written since.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmret.hashing import digest_table
from mmret.lake import Lake

NOTE = "images_read"
"""Key of what :func:`read_noted` returns, among the notes of the partition that was computed from it."""


def image_ids(pairs: pa.Table) -> pa.Array:
    """The distinct queries and targets of ``pairs`` (columns query_id and target_id), text."""
    return pc.unique(pa.chunked_array([*pairs["query_id"].chunks, *pairs["target_id"].chunks], type=pa.string()))


def read_images_of(lake: Lake, pairs: pa.Table, columns: Sequence[str]) -> pa.Table:
    """``image_id`` and ``columns`` of table ``images`` for the pictures that ``pairs`` name; those that are gone are left out.

    >>> read_images_of(lake, lake.read("pairs", "shard-00000"), ["path", "licence"])
    """
    return lake.read("images", columns=["image_id", *columns], filters=pc.field("image_id").isin(image_ids(pairs)))


def captions_of(lake: Lake, pairs: pa.Table) -> dict[str, str]:
    """Caption by image id for the pictures that ``pairs`` name; empty where a picture has none."""
    images = read_images_of(lake, pairs, ["caption"])
    return {i: caption or "" for i, caption in zip(images["image_id"].to_pylist(), images["caption"].to_pylist(), strict=True)}


def read_noted(lake: Lake, shard: str, columns: Sequence[str]) -> tuple[pa.Table, dict[str, Any]]:
    """:func:`read_images_of` for the pairs of ``shard``, by image id, and what to note of it under :data:`NOTE`.

    ``fingerprint`` of the values; ``pairs``, the digest of the pairs; ``partitions``, the digests of the partitions of ``images``
    that hold the pictures, None where a picture is in none. While all digests are the same, so is the fingerprint.
    """
    facts = lake.facts("pairs", shard)
    named = image_ids(lake.read("pairs", shard, columns=["query_id", "target_id"]))
    partitions, parts = {}, [lake.read("images", [], ["image_id", *columns])]
    for partition in lake.partitions("images"):
        images = lake.facts("images", partition)  # before the rows: what is replaced in between is read again next time
        rows = lake.read("images", partition, ["image_id", *columns], pc.field("image_id").isin(named))
        if images is not None and rows.num_rows:
            partitions[partition] = images.digest
            parts.append(rows)
    rows = pa.concat_tables(parts).sort_by([(name, "ascending") for name in ("image_id", *columns)])
    note = {
        "fingerprint": digest_table(rows),
        "pairs": facts.digest if facts else None,
        "partitions": partitions if rows.num_rows == len(named) else None,
    }
    return rows, note


def images_fingerprint_of(lake: Lake, table: str, shard: str, columns: Sequence[str]) -> str | None:
    """16 hex digits that change when, and only when, a value that ``shard`` of ``table`` reads from ``images`` does.

    What the partition noted (:data:`NOTE`) is believed while the digests in it are today's; else the columns are read. None where
    the shard has no pairs.
    """
    written, pairs = lake.facts(table, shard), lake.facts("pairs", shard)
    noted = written.notes.get(NOTE) if written else None
    if pairs is None or not pairs.rows:
        return None
    if noted and noted["partitions"] and noted["pairs"] == pairs.digest:
        now = {partition: lake.facts("images", partition) for partition in noted["partitions"]}
        if all(facts and facts.digest == noted["partitions"][partition] for partition, facts in now.items()):
            return noted["fingerprint"]
    return read_noted(lake, shard, columns)[1]["fingerprint"]
