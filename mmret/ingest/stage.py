"""Table ``images``: filled shard by shard, read as a stream in position order or at random by image id.

Every row of a shard's manifest ends in exactly one of ``images`` and ``rejects``. Pictures are stored as they were
found and decoded once to prove that they can be. Cost: decoding, in threads (a 256 px JPEG about 1 ms); at most
about eight times ``BATCH_BYTES`` of memory (0.5 GB, with files of megabytes), whatever the size of the shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmret.hashing import content_id
from mmret.ingest import image_table
from mmret.ingest.decode import ANIMATED, Inspected, Unreadable, inspect
from mmret.ingest.pool import in_order
from mmret.ingest.sources import open_reader
from mmret.lake import Lake
from mmret.progress import advance
from mmret.schemas import IMAGES, IMAGES_INDEX, REJECTS
from mmret.settings import IngestSettings

BATCH_BYTES = 64 * 2**20
"""Encoded pictures held at once by one reader or writer; a single larger file still passes, alone."""
BATCH_ROWS = 1000

STREAMED = pa.schema([("image_id", pa.string()), ("caption", pa.string()), ("path", pa.string()), ("data", pa.large_binary())])
_LOOKUP = 500  # ids in one filter

Row = dict[str, Any]


def ingest_shard(lake: Lake, shard: str, settings: IngestSettings, inputs: str) -> dict[str, Any]:
    """Store the pictures of a sealed shard in Lance ``images``, then write its ``rejects`` and its ``images`` index.

    A picture that an earlier, interrupted or different run stored is used again, from Lance. Returns counts: images,
    rejects, by_reason (of the rejects) and computed (pictures read and decoded by this call).
    """
    manifest = lake.read("corpus_manifest", shard).sort_by("position").to_pylist()
    wanted = {row["image_id"]: row for row in manifest if row["reason"] is None}
    table = lake.lance("images", IMAGES)
    row_ids = image_table.stored(table, shard, wanted, partial(_wanted_by_any, lake))
    images: dict[str, Row] = {}
    for image_id, found in image_table.describe(table, row_ids.values()).items():
        if found == _index_row(wanted[image_id], _inspected(found)) and _still_fits(wanted[image_id], found, settings):
            images[image_id] = found

    missing = [row for image_id, row in wanted.items() if image_id not in images]
    refused = _store(table, missing, row_ids, settings, images)
    if gone := [image_id for image_id in refused if image_id in row_ids]:
        image_table.remove(table, gone)
    image_table.index(table)

    refused_when_sealed = ((row, (row["reason"], row["detail"])) for row in manifest if row["reason"] is not None)
    refused_now = ((wanted[image_id], why) for image_id, why in refused.items())
    rejects = [_reject(row, *why) for row, why in (*refused_when_sealed, *refused_now)]
    rejects.sort(key=lambda row: row["position"])
    index = [images[image_id] for image_id in wanted if image_id in images]
    lake.write("rejects", shard, pa.Table.from_pylist(rejects, schema=REJECTS), inputs)
    lake.write("images", shard, pa.Table.from_pylist(index, schema=IMAGES_INDEX), inputs)
    return {
        "images": len(index),
        "rejects": len(rejects),
        "computed": len(missing),
        "by_reason": dict(sorted(Counter(row["reason"] for row in rejects).items())),
    }


def _wanted_by_any(lake: Lake, image_ids: list[str]) -> set[str]:
    listed = pc.field("image_id").isin(image_ids) & pc.field("reason").is_null()
    return set(lake.read("corpus_manifest", columns=["image_id"], filters=listed)["image_id"].to_pylist())


def _store(
    table: Any, rows: list[Row], row_ids: dict[str, int], settings: IngestSettings, images: dict[str, Row]
) -> dict[str, tuple[str, str]]:
    """Read, decode and append ``rows``, adding their index rows to ``images``; reason and detail of those refused."""
    readers = {root: open_reader(root) for root in {row["root"] for row in rows}}

    def load(row: Row) -> tuple[bytes, Inspected] | Unreadable:
        try:
            if row["image_id"] in row_ids:
                data = image_table.picture(table, row_ids[row["image_id"]])
            else:
                data = _unchanged(readers[row["root"]], row)
            return data, inspect(data, settings)
        except Unreadable as why:
            return why
        except OSError as error:
            return Unreadable("unreadable", error.strerror or str(error))

    refused: dict[str, tuple[str, str]] = {}
    batch: list[Row] = []
    held, before, total = 0, len(images), len(images) + len(rows)
    for at, (row, outcome) in enumerate(in_order(load, rows, lambda row: row["size"], BATCH_BYTES)):
        if isinstance(outcome, Unreadable):
            refused[row["image_id"]] = (outcome.reason, outcome.detail)
        else:
            data, inspected = outcome
            if batch and (len(batch) >= BATCH_ROWS or held + len(data) > BATCH_BYTES):
                _append(table, batch, row_ids, images)
                batch, held = [], 0
            batch.append({**_index_row(row, inspected), "data": data})
            held += len(data)
        advance("images", before + at + 1, total)
    if batch:
        _append(table, batch, row_ids, images)
    return refused


def _append(table: Any, batch: list[Row], row_ids: dict[str, int], images: dict[str, Row]) -> None:
    image_table.append(table, batch, replacing=any(row["image_id"] in row_ids for row in batch))
    for row in batch:
        del row["data"]
        images[row["image_id"]] = row


def _unchanged(reader: Any, row: Row) -> bytes:
    """The file of ``row``. Raises Unreadable (``changed_on_disk``) where it is not what was sealed."""
    stream, size = reader.open(row["path"])
    with stream:
        data = stream.read(size) if size == row["size"] else b""
    if content_id(data) != row["image_id"]:
        raise Unreadable("changed_on_disk", "the file is not the one that was sealed; seal again to take the new one")
    return data


def _index_row(row: Row, inspected: Inspected) -> Row:
    return {
        "image_id": row["image_id"],
        "shard": row["shard"],
        "position": row["position"],
        "path": row["path"],
        "root": row["root"],
        "caption": row["caption"],
        "caption_words": len(row["caption"].split()),
        "width": inspected.width,
        "height": inspected.height,
        "format": inspected.format,
        "mode": inspected.mode,
        "licence": row["licence"],
        "source": row["source"],
        "extra": row["extra"],
    }


def _inspected(row: Row) -> Inspected:
    return Inspected(row["width"], row["height"], row["format"], row["mode"])


def _still_fits(row: Row, found: Row, settings: IngestSettings) -> bool:
    """Whether a stored picture needs no second look under these settings."""
    return (
        found["width"] * found["height"] <= settings.max_pixels
        and row["size"] <= settings.max_bytes
        and not (settings.animated == "reject" and found["format"] in ANIMATED)
    )


def _reject(row: Row, reason: str, detail: str) -> Row:
    return {
        "shard": row["shard"],
        "position": row["position"],
        "root": row["root"],
        "path": row["path"],
        "image_id": row["image_id"],
        "source": row["source"],
        "reason": reason,
        "detail": detail,
    }


def read_images(lake: Lake, shard: str, batch_rows: int = 256, ids: Collection[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Stream a shard in position order as batches of ``STREAMED``: image_id, caption, path, data.

    A batch holds at most ``batch_rows`` rows and about ``BATCH_BYTES`` of pictures, whichever is reached first; ``ids``
    restricts the stream. Reads one snapshot of the table, about 1 GB/s.
    """
    table = lake.lance("images")
    rows = table.search().where(f"shard = '{shard}'").select(["image_id", "position"]).with_row_id(True).to_arrow()
    rows = rows.sort_by("position")
    stored, row_ids = rows["image_id"].to_pylist(), rows["_rowid"].to_pylist()
    wanted = None if ids is None else set(ids)
    sizes = _sizes(lake, shard)
    batch: list[int] = []
    held = 0
    for at, image_id in enumerate(stored):
        if wanted is not None and image_id not in wanted:
            continue
        size = sizes.get(image_id, 0)
        if batch and (len(batch) == batch_rows or held + size > BATCH_BYTES):
            yield _take(table, row_ids, stored, batch)
            batch, held = [], 0
        batch.append(at)
        held += size
    if batch:
        yield _take(table, row_ids, stored, batch)


def images_by_id(lake: Lake, ids: Sequence[str]) -> dict[str, bytes]:
    """Encoded pictures of ``ids``, whatever their shards; an id the lake does not hold is left out.

    One look-up in the scalar index per 500 ids (about 30 ms for 500 of 300,000).
    """
    table = lake.lance("images")
    unique = list(dict.fromkeys(ids))
    found: dict[str, bytes] = {}
    for start in range(0, len(unique), _LOOKUP):
        listed = ", ".join(f"'{i}'" for i in unique[start : start + _LOOKUP] if i.isalnum())
        if listed:
            rows = table.search().where(f"image_id IN ({listed})").select(["image_id", "data"]).to_arrow()
            found.update(zip(rows["image_id"].to_pylist(), rows["data"].to_pylist(), strict=True))
    return found


def _take(table: object, row_ids: list[int], stored: list[str], batch: list[int]) -> pa.RecordBatch:
    rows = table.take_row_ids([row_ids[at] for at in batch]).select(STREAMED.names).to_arrow()
    where = {image_id: i for i, image_id in enumerate(rows["image_id"].to_pylist())}
    rows = rows.take([where[stored[at]] for at in batch]).select(STREAMED.names).cast(STREAMED)
    return rows.combine_chunks().to_batches()[0]


def _sizes(lake: Lake, shard: str) -> dict[str, int]:
    if lake.facts("corpus_manifest", shard) is None:
        return {}
    manifest = lake.read("corpus_manifest", shard, ["image_id", "size"])
    return dict(zip(manifest["image_id"].to_pylist(), manifest["size"].to_pylist(), strict=True))
