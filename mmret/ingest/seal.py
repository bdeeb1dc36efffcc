"""Seals the rows of the sources into shards whose membership never changes, so that a growing corpus costs only what is new.

A listed row is compared with the sealed ones by path, size, time and texts; only a file that is new by these is hashed. Of several
pictures with the same content the first in source order becomes the image and the others its duplicates. What a source says of
sealed rows may change: :mod:`mmret.ingest.changes` finds it, and the row is changed in its shard.
Cost: one ``lstat`` a row, one read of a new file (about 1 GB/s); memory one shard of text rows and 100 MiB, whatever the size
of the corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmret.curation.opted_out import OPTED_OUT
from mmret.errors import UserError
from mmret.ingest.changes import Changes, ListedRow, row_after
from mmret.ingest.first_rows import check_first_rows
from mmret.ingest.object_store.lost import ending_when_lost
from mmret.ingest.object_store.read_ahead import reads_at_once
from mmret.ingest.opt_out.entries import OptOuts
from mmret.ingest.opt_out.lists import read_opt_outs
from mmret.ingest.opt_out.pictures import OptedOut
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.remarks import Remarks
from mmret.ingest.rows import Reader, Row, Source, clean_text
from mmret.ingest.sealed_rows import COLUMNS, SealedRows, is_scene
from mmret.ingest.selection import NO_CAPTION, NONE_GIVEN, reselect, rows_taken
from mmret.ingest.sources import open_source
from mmret.ingest.spill import SpillMap
from mmret.ingest.web.url_list import Withheld
from mmret.lake import Lake
from mmret.lake.configuration import URL_LIST
from mmret.progress import advance
from mmret.schemas import CORPUS_MANIFEST
from mmret.settings import CaptionSettings, CorpusSettings, IngestSettings
from mmret.storage import is_object_address
from mmret.threads import in_order

_CHUNK = 2**20
_REPORT_EVERY = 500


def seal(
    lake: Lake,
    corpus: CorpusSettings,
    ingest: IngestSettings,
    remarks: dict[str, Remarks] | None = None,
    forget_missing: bool = False,
    captions: CaptionSettings | None = None,
) -> Iterator[tuple[str, pa.Table]]:
    """The partitions of ``corpus_manifest`` that the sources ask for: (name, rows). Write each before the next is asked for.

    First the sealed shards in which a row has changed, or is no longer used or used again; then new shards, at most
    ``corpus.shard_size`` rows each. Yields nothing if nothing is new, and the same again if writing was interrupted. A row is one
    line of a source's manifest, or one picture that has no such line; a row that cannot become an image has a reason.
    ``remarks`` is given the remarks of every source whose listing began. A picture that is gone from its source stays, with the
    remark ``missing``, unless ``forget_missing``. One that ``corpus.opt_out`` lists is sealed, or its row changed, with the reason
    ``opted_out``. ``captions``: how pictures without one may come by it; None: they may not. Raises UserError, before anything is
    yielded, for a source or list that cannot be read.

    >>> for shard, rows in seal(lake, profile.corpus, profile.ingest):
    ...     lake.write("corpus_manifest", shard, rows, inputs)
    """
    with ending_when_lost():
        yield from _seal(lake, corpus, ingest, {} if remarks is None else remarks, forget_missing, captions)


def _seal(
    lake: Lake,
    corpus: CorpusSettings,
    ingest: IngestSettings,
    remarks: dict[str, Remarks],
    forget_missing: bool,
    captions: CaptionSettings | None,
) -> Iterator[tuple[str, pa.Table]]:
    listed_out = read_opt_outs(corpus.opt_out)
    with SealedRows(partial(_sealed_tables, lake)) as sealed, Changes() as changes:
        sources = _open_sources(corpus, sealed, _withheld(lake, corpus, listed_out))
        seen_before = [source for source in sources if sealed.rows_of(source.root) and not is_scene(source.root)]
        for source in sources:
            if source not in seen_before and not is_scene(source.root):
                check_first_rows(source, (screened(row, ingest) for row in source.rows()), ingest, captions)
        left = _places_left(lake, corpus)
        for source in seen_before:
            remarks[source.root] = source.remarks
            if not _list(source, sealed, changes, ingest, left) and (used := sealed.used_rows_of(source.root)):
                raise UserError(
                    f"{source.root} has no picture with a caption any more, and {used:,} rows were sealed from it. Nothing was "
                    "changed: bring its pictures or captions back and run again, or take the source out with "
                    f"--remove {source.root}"
                )
        compared = [source for source in seen_before if sealed.needs_comparison(source.root)]
        if compared:
            changes.compare(sealed, [source.root for source in compared], remarks)
        for source in compared:
            changes.decide(source.root, partial(hash_file, source), source.remarks, forget_missing)
        for shard, fields in changes.updates():
            yield shard, _changed_shard(lake, shard, fields, remarks)
        opted_out = OptedOut(lake, listed_out)
        yield from reselect(lake, corpus, opted_out.pictures)

        waiting = {source.root: changes.new_rows(source.root) for source in seen_before}
        yield from _new_shards(lake, corpus, _new_rows(sources, waiting, sealed, ingest, remarks, lake, opted_out))
        # a picture with a caption goes before its copies that were sealed without; a new row may have named one that is out
        yield from reselect(lake, corpus, opted_out.pictures)
        remarks |= opted_out.remark(corpus.opt_out)


def _sealed_tables(lake: Lake) -> Iterator[pa.Table]:
    return (lake.read("corpus_manifest", partition, list(COLUMNS)) for partition in lake.partitions("corpus_manifest"))


def _places_left(lake: Lake, corpus: CorpusSettings) -> int | None:
    """How many more rows the corpus takes; None: any number."""
    if corpus.images is None:
        return None
    return max(0, corpus.images - rows_taken(lake.read("corpus_manifest", columns=["root", "reason"]), corpus))


def _withheld(lake: Lake, corpus: CorpusSettings, listed: OptOuts) -> Withheld:
    """What is not fetched of tables of addresses. A picture that was sealed as opted out is not fetched to know it again."""
    out: dict[tuple[str, str], tuple[int | None, int | None]] = {}
    if listed and any(text.startswith(URL_LIST) for text in corpus.sources):
        columns = ["root", "path", "size", "mtime_ns", "detail"]
        rows = lake.read(
            "corpus_manifest", columns=columns, filters=pc.field("image_id").is_valid() & (pc.field("reason") == OPTED_OUT)
        )
        rows = rows.filter(pc.starts_with(rows["root"], URL_LIST))
        out = {(r["root"], r["path"]): (r["size"], r["mtime_ns"]) for r in rows.to_pylist() if r["detail"] in listed.entries}
    return Withheld(listed, out, corpus.images)


def _open_sources(corpus: CorpusSettings, sealed: SealedRows, withheld: Withheld) -> list[Source]:
    """The sources in the order given, each once. Raises UserError for one that cannot be read, saying what becomes of its rows."""
    sources: dict[str, Source] = {}
    for text in corpus.sources:
        try:
            source = open_source(text, corpus.download, withheld)
        except UserError as error:
            as_given = text.startswith(("shapes:", URL_LIST)) or is_object_address(text)
            if rows := sealed.rows_of(text if as_given else str(Path(text).expanduser().absolute())):
                raise UserError(
                    f"{error}. The {rows:,} rows sealed from it stay in the lake as they are: bring the source back (is its "
                    f"disk mounted?) and run again, or take them out with --remove {text}"
                ) from None
            raise
        sources.setdefault(source.root, source)
    return list(sources.values())


def _list(source: Source, sealed: SealedRows, changes: Changes, ingest: IngestSettings, left: int | None) -> int:
    """List a source of which rows are sealed; what is not sealed as it is listed waits among ``changes``.

    Returns how many rows were listed with a picture and a caption.
    """
    waiting = usable = 0
    for row in source.rows():
        row = screened(row, ingest)
        usable += row.reason is None
        _note_captionless(source, row)
        changes.note_closed(source.root, row)
        if not sealed.contains(source.root, row):
            changes.wait(source.root, row)
            waiting += 1
        if left is not None and waiting >= left and sealed.all_listed(source.root):
            break
    return usable


def _changed_shard(lake: Lake, shard: str, fields: dict[int, dict[str, Any]], remarks: dict[str, Remarks]) -> pa.Table:
    rows = lake.read("corpus_manifest", shard).to_pylist()
    for at, row in enumerate(rows):
        if row["position"] in fields:
            rows[at] = row_after(row, fields[row["position"]], remarks[row["root"]])
    return pa.Table.from_pylist(rows, schema=CORPUS_MANIFEST)


def _new_shards(lake: Lake, corpus: CorpusSettings, rows: Iterator[dict[str, Any]]) -> Iterator[tuple[str, pa.Table]]:
    rows = islice(rows, _places_left(lake, corpus))
    number = 1 + max((int(name.rpartition("-")[2]) for name in lake.shards()), default=-1)
    while chunk := list(islice(rows, corpus.shard_size)):
        name = f"shard-{number:05d}"
        records = [{**record, "shard": name, "position": at} for at, record in enumerate(chunk)]
        yield name, pa.Table.from_pylist(records, schema=CORPUS_MANIFEST)
        number += 1


def _new_rows(
    sources: list[Source],
    waiting: dict[str, Iterator[ListedRow]],
    sealed: SealedRows,
    ingest: IngestSettings,
    remarks: dict[str, Remarks],
    lake: Lake,
    opted_out: OptedOut,
) -> Iterator[dict[str, Any]]:
    """Records of CORPUS_MANIFEST without shard and position, of the rows that are not sealed yet."""
    found = 0
    with SpillMap(_images(lake, None)) as images, SpillMap(_images(lake, NO_CAPTION)) as captionless:
        for source in sources:
            if (listed := waiting.get(source.root)) is None:
                remarks[source.root] = source.remarks
                listed = _listed_first(source, sealed, ingest)
            for (row, _), (image_id, size, failure) in in_order(partial(_identify, source), listed, reads_at_once(source.root)):
                if failure is not None:
                    row = row.refuse("unreadable", str(failure))
                if row.reason == "unreadable" and sealed.was_unreadable(source.root, row.path):
                    continue
                if sealed.was_imported(source.root, row.path, image_id):
                    continue
                if row.reason == OPTED_OUT:
                    opted_out.note(row.detail)
                takes = row.reason in (None, NO_CAPTION) and image_id is not None
                if takes and (entry := opted_out.entry_of(source.root, row, image_id, source)):
                    row = row.refuse(OPTED_OUT, entry)
                elif row.reason is None and image_id is not None:
                    first = images.setdefault(image_id, row.path)
                    if first is not None:
                        row = row.refuse("duplicate", f"same content as {first}")
                elif row.reason == NO_CAPTION and image_id is not None:
                    first = images.get(image_id) or captionless.setdefault(image_id, row.path)
                    if first is not None:
                        row = row.refuse("duplicate", f"same content as {first}")
                yield _record(source.root, row, image_id, size)
                found += 1
                if found % _REPORT_EVERY == 0:
                    advance("corpus_manifest", found, None)
    advance("corpus_manifest", found, found)


def _listed_first(source: Source, sealed: SealedRows, ingest: IngestSettings) -> Iterator[ListedRow]:
    """The rows of a source that is listed for the first time, and scenes that no other corpus of the same seed has listed."""
    for row in source.rows():
        row = screened(row, ingest)
        _note_captionless(source, row)
        if not sealed.contains(source.root, row):
            yield ListedRow(row, None)


def _note_captionless(source: Source, row: Row) -> None:
    if row.reason == NO_CAPTION:
        source.remarks.add("without_caption", row.path, "written_captions has what stands for it, rejects what has nothing")


def _identify(source: Reader, listed: ListedRow) -> tuple[str | None, int | None, Unreadable | None]:
    return listed.hashed or hash_file(source, listed.row)


def _images(lake: Lake, reason: str | None) -> Iterator[tuple[str, str]]:
    """Id and path of every picture that is an image already (``reason`` None), or would be if it had a caption."""
    for partition in lake.partitions("corpus_manifest"):
        rows = lake.read("corpus_manifest", partition, ["image_id", "path", "reason"])
        rows = rows.filter(rows["reason"].is_null() if reason is None else pc.equal(rows["reason"], reason))
        rows = rows.filter(rows["image_id"].is_valid())
        yield from zip(rows["image_id"].to_pylist(), rows["path"].to_pylist(), strict=True)


def screened(row: Row, ingest: IngestSettings) -> Row:
    """``row`` with a clean caption; refused if name and size already show that it cannot be used."""
    row = replace(row, caption=clean_text(row.caption))
    if row.reason is not None:
        return row
    if row.size == 0:
        return row.refuse("zero_bytes", "the file is empty")
    if row.size is not None and row.size > ingest.max_bytes:
        return row.refuse("too_many_bytes", f"{row.size} bytes, the limit is {ingest.max_bytes}")
    if row.caption is None:
        return row.refuse(NO_CAPTION, NONE_GIVEN)
    return row


def hash_file(source: Reader, row: Row) -> tuple[str | None, int | None, Unreadable | None]:
    """Image id (hash of the content), size in bytes, and error of the file of ``row``.

    The file is not read if the row has a reason already, other than a missing caption.
    """
    if row.reason not in (None, NO_CAPTION):
        return None, row.size, None
    digest, left = hashlib.sha256(), 0
    try:
        stream, size = source.open(row.path)
        left = size
        with stream:
            while left > 0 and (chunk := stream.read(min(left, _CHUNK))):
                digest.update(chunk)
                left -= len(chunk)
        if left > 0:
            raise Unreadable("truncated", f"the file ends {left} bytes early")
    except Unreadable as failure:
        return None, row.size, failure
    except OSError as error:
        return None, row.size, Unreadable("unreadable", error.strerror or str(error))
    return digest.hexdigest()[:32], size, None


def _record(root: str, row: Row, image_id: str | None, size: int | None) -> dict[str, Any]:
    detail = row.detail and row.detail.encode("utf-8", "backslashreplace").decode()
    return {
        "root": root,
        "path": row.path,
        "image_id": image_id,
        "size": size,
        "mtime_ns": row.mtime_ns,
        "caption": row.caption,
        "licence": row.licence,
        "source": row.source,
        "extra": row.extra,
        "reason": row.reason,
        "detail": detail,
    }
