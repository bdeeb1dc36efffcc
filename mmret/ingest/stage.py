"""The stages `corpus_manifest` with `remarks` (seal what the sources hold into shards), and `images` with `rejects` (store a
shard's pictures).

Every row of a shard's manifest ends in exactly one of ``images`` and ``rejects``. Pictures are stored as they were
found and decoded once to prove that they can be. Cost: decoding, in threads (a 256 px JPEG about 1 ms); at most
about eight times ``BATCH_BYTES`` of memory (0.5 GB, with files of megabytes), whatever the size of the shard.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmret.curation.opted_out import opted_out_ids
from mmret.ingest.changes import CHANGES
from mmret.ingest.object_store.lost import ending_when_lost
from mmret.ingest.object_store.read_ahead import reads_at_once
from mmret.ingest.opt_out.imported import filter_imported, imported_partitions, mark_imported
from mmret.ingest.opt_out.lists import read_opt_outs
from mmret.ingest.opt_out.pictures import OptedOut
from mmret.ingest.pictures import image_table
from mmret.ingest.pictures.decode import ANIMATED, Inspected, Unreadable, inspect
from mmret.ingest.pictures.images import BATCH_BYTES
from mmret.ingest.remarks import Remarks, rows_of_remarks, write_remarks
from mmret.ingest.seal import seal
from mmret.ingest.selection import NO_CAPTION
from mmret.ingest.sources import open_reader, read_as_sealed
from mmret.lake import Lake
from mmret.lake.holding import is_noted, note_opted_out
from mmret.progress import advance
from mmret.schemas import CORPUS_MANIFEST, IMAGES, IMAGES_INDEX, REJECTS
from mmret.settings import IngestSettings, Profile
from mmret.system_errors import may_pass
from mmret.threads import in_order

BATCH_ROWS = 1000
_MANIFEST_COLUMNS = [name for name in CORPUS_MANIFEST.names if name != "mtime_ns"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Sealing:
    """What :func:`seal_corpus` did: number of ``rows`` newly sealed, of sealed shards written again, and of the sealed rows in
    them that the sources give another text, path or picture, or none any more."""

    rows: int
    changed_shards: int
    changed_rows: int = 0


def seal_corpus(lake: Lake, profile: Profile, inputs: str, forget_missing: bool = False) -> Sealing:
    """Bring ``corpus_manifest`` up to date with the profile's sources and with the settings ``corpus``.

    Sealed shards keep every row; a shard is written again only if what the sources say of its rows has changed
    (:mod:`mmret.ingest.changes`), or if rows of it are no longer used or used again (:mod:`mmret.ingest.selection`). Then new rows
    become new shards. A second call does nothing. What was noticed is written to ``remarks``. Raises UserError for a source that
    cannot be read, before anything is written. Pictures that ``corpus.opt_out`` lists are taken out of imported partitions too.

    >>> seal_corpus(lake, profile, fingerprint).rows
    """
    before = set(lake.shards())
    changed: set[str] = set()
    new: set[str] = set()
    rows = 0
    remarks: dict[str, Remarks] = {}
    for shard, table in seal(lake, profile.corpus, profile.ingest, remarks, forget_missing, profile.captions):
        lake.write("corpus_manifest", shard, table, inputs)
        if shard in before:
            changed.add(shard)
        elif shard not in new:
            new.add(shard)
            rows += table.num_rows
    write_remarks(lake, remarks, profile.corpus.sources, inputs)
    note_opted_out(lake, opted_out_ids(lake))  # while the tables still say which requests were about them
    take_out_imported(lake, profile)
    changed_rows = sum(r.count for found in remarks.values() for r in found if r.remark in CHANGES)
    return Sealing(rows, len(changed), changed_rows)


def is_sealed(lake: Lake, profile: Profile, forget_missing: bool = False) -> bool:
    """Whether :func:`seal_corpus` would find nothing to write: the sources say of the sealed rows what they said then, and nothing
    else, and so do the lists of opt-outs. False too where released triplets were imported, which are looked at otherwise.

    Lists the sources and reads the files whose size or time is another than it was, and the first few new ones; writes no table.
    Raises UserError as :func:`seal_corpus` does.
    """
    remarks: dict[str, Remarks] = {}
    corpus = profile.corpus.model_copy(update={"shard_size": 1})  # whether there is a new row, not a shard of them
    parts = seal(lake, corpus, profile.ingest, remarks, forget_missing, profile.captions)
    with closing(parts):
        if imported_partitions(lake) or next(parts, None) is not None:
            return False
    before = lake.read_rows("remarks")
    return rows_of_remarks(before, remarks, profile.corpus.sources) == before and is_noted(lake, opted_out_ids(lake))


def take_out_imported(lake: Lake, profile: Profile) -> int:
    """Take pictures that opted out, out of imported partitions; returns how many triplets went."""
    if not imported_partitions(lake):
        return 0
    opted_out = OptedOut(lake, read_opt_outs(profile.corpus.opt_out)).pictures
    for partition in mark_imported(lake, opted_out):
        ingest_shard(lake, partition, profile.ingest, lake.facts("images", partition).inputs)
    return filter_imported(lake) if opted_out else 0


def ingest_shard(lake: Lake, shard: str, settings: IngestSettings, inputs: str) -> dict[str, Any]:
    """Store the pictures of a sealed shard in Lance ``images``, then write its ``rejects`` and its ``images`` index.

    A picture that an earlier run stored, even an interrupted one, is not read again. Returns counts: ``images``, ``rejects``,
    ``by_reason`` (of the rejects) and ``computed`` (pictures read and decoded by this call).

    >>> ingest_shard(lake, "shard-00000", profile.ingest, fingerprint)["by_reason"]
    """
    manifest = lake.read("corpus_manifest", shard, _MANIFEST_COLUMNS).sort_by("position").to_pylist()
    captions = _written_captions(lake, shard)
    manifest = [_captioned(row, captions.get((row["position"], row["image_id"]))) for row in manifest]
    wanted = {row["image_id"]: row for row in manifest if row["reason"] is None}
    table = lake.lance("images", IMAGES)
    row_ids = image_table.stored_row_ids(table, shard, wanted, partial(_in_any_shard, lake))
    images: dict[str, Row] = {}
    for image_id, found in image_table.describe(table, row_ids.values()).items():
        if found == _index_row(wanted[image_id], _inspected(found)) and _still_fits(wanted[image_id], found, settings):
            images[image_id] = found

    missing = [row for image_id, row in wanted.items() if image_id not in images]
    with ending_when_lost():
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


def _written_captions(lake: Lake, shard: str) -> dict[tuple[int, str], Row]:
    """What was found or written for pictures of a shard whose caption is missing or poor, by position and image id."""
    if not lake.exists("written_captions", shard):
        return {}
    rows = lake.read("written_captions", shard, ["position", "image_id", "text", "origin", "source_caption", "reason"]).to_pylist()
    return {(row["position"], row["image_id"]): row for row in rows}


def _captioned(row: Row, written: Row | None) -> Row:
    """A manifest's row with the caption that was written for it; it is refused still where that should be and is not."""
    given = row | {"caption_origin": None, "source_caption": None}
    if written is None or row["reason"] not in (None, NO_CAPTION) or written["source_caption"] != row["caption"]:
        return given
    if written["text"] is None:
        return given if row["reason"] is None else given | {"detail": _why_none(written["reason"])}
    new = {"caption": written["text"], "caption_origin": written["origin"], "source_caption": row["caption"]}
    return given | new | {"reason": None, "detail": None}


def _why_none(reason: str) -> str:
    from mmret.ingest.found_captions import SAYS_NOTHING

    if reason == SAYS_NOTHING:
        return "no caption, and neither names nor metadata of the file say what is in the picture"
    return f"no caption, and the model wrote none: {reason.replace('_', ' ')}"


def _in_any_shard(lake: Lake, image_ids: list[str]) -> set[str]:
    usable = pc.field("reason").is_null() | (pc.field("reason") == NO_CAPTION)
    listed = pc.field("image_id").isin(image_ids) & usable
    return set(lake.read("corpus_manifest", columns=["image_id"], filters=listed)["image_id"].to_pylist())


def _store(
    table: Any, rows: list[Row], row_ids: dict[str, int], settings: IngestSettings, images: dict[str, Row]
) -> dict[str, tuple[str, str]]:
    """Read, decode and append ``rows``, and add their index rows to ``images``; returns (reason, detail) of those refused."""
    readers = {root: open_reader(root) for root in {row["root"] for row in rows}}

    def load(row: Row) -> tuple[bytes, Inspected] | Unreadable:
        try:
            if row["image_id"] in row_ids:
                data = image_table.picture(table, row_ids[row["image_id"]])
            else:
                data = read_as_sealed(readers[row["root"]], row)
            return data, inspect(data, settings)
        except Unreadable as why:
            return why
        except OSError as error:
            if may_pass(error):  # the lake's own store, in which the picture lies
                raise
            return Unreadable("unreadable", error.strerror or str(error))

    refused: dict[str, tuple[str, str]] = {}
    batch: list[Row] = []
    held, before, total = 0, len(images), len(images) + len(rows)
    for at, (row, outcome) in enumerate(
        in_order(load, rows, reads_at_once(*readers), size=lambda row: row["size"], limit=BATCH_BYTES)
    ):
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
        "remark": inspected.remark,
        "caption_origin": row["caption_origin"],
        "source_caption": row["source_caption"],
    }


def _inspected(row: Row) -> Inspected:
    return Inspected(row["width"], row["height"], row["format"], row["mode"], row["remark"])


def _still_fits(row: Row, found: Row, settings: IngestSettings) -> bool:
    """Whether a stored picture passes these settings too, so that it need not be decoded again."""
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
