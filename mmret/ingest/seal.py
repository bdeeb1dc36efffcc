"""Seals the rows of the sources into shards that never change, so that a growing corpus costs only what is new.

A listed row is compared with the sealed ones by path, size and time; only a file that is new by these is hashed. Of several
pictures with the same content the first in source order becomes the image and the others its duplicates, once and for all.
Cost: one ``lstat`` a row, one read of a new file (about 1 GB/s); memory one shard of text rows and 64 MiB, whatever the size
of the corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa

from mmret.ingest.decode import Unreadable
from mmret.ingest.remarks import Remarks
from mmret.ingest.rows import Reader, Row, Source, clean_text
from mmret.ingest.sealed_rows import COLUMNS, SealedRows
from mmret.ingest.selection import rows_taken
from mmret.ingest.sources import open_sources
from mmret.lake import IMPORT_PREFIX
from mmret.progress import advance
from mmret.schemas import CORPUS_MANIFEST
from mmret.settings import CorpusSettings, IngestSettings
from mmret.threads import in_order

MANIFEST_COLUMNS = ("shard", *COLUMNS)
"""The columns of sealed rows that :func:`seal` needs; captions and extra columns do not have to be loaded."""

_CHUNK = 2**20
_REPORT_EVERY = 500


def seal(
    known: pa.Table, corpus: CorpusSettings, ingest: IngestSettings, remarks: dict[str, Remarks] | None = None
) -> Iterator[tuple[str, pa.Table]]:
    """New sealed shards of the sources: (name, rows of CORPUS_MANIFEST), at most ``corpus.shard_size`` rows each.

    ``known`` has the columns ``MANIFEST_COLUMNS`` of all rows sealed so far. Yields nothing if nothing is new, and the same
    shards again if their writing was interrupted. A row is one line of a source's manifest, or one picture that has no such
    line; a row that cannot become an image has a reason. ``remarks`` is given the remarks of every source whose listing began.
    Raises UserError, before anything is yielded, for a source that cannot be read.

    >>> known = lake.read("corpus_manifest", columns=list(MANIFEST_COLUMNS))
    >>> {shard: rows.num_rows for shard, rows in seal(known, profile.corpus, profile.ingest)}
    """
    sources = open_sources(corpus.sources)
    left = None if corpus.images is None else max(0, corpus.images - rows_taken(known, corpus))
    names = (name for name in known["shard"].unique().to_pylist() if not name.startswith(IMPORT_PREFIX))
    shard = 1 + max((int(name.rpartition("-")[2]) for name in names), default=-1)
    with SealedRows(known) as sealed:
        rows = islice(_new_rows(sources, sealed, ingest, {} if remarks is None else remarks), left)
        while chunk := list(islice(rows, corpus.shard_size)):
            name = f"shard-{shard:05d}"
            records = [{**record, "shard": name, "position": at} for at, record in enumerate(chunk)]
            yield name, pa.Table.from_pylist(records, schema=CORPUS_MANIFEST)
            shard += 1


def _new_rows(
    sources: Iterable[Source], sealed: SealedRows, ingest: IngestSettings, remarks: dict[str, Remarks]
) -> Iterator[dict[str, Any]]:
    """Records of CORPUS_MANIFEST without shard and position, of the rows that are not sealed yet."""
    found = 0
    for source in sources:
        remarks[source.root] = source.remarks
        listed = (_screened(row, ingest) for row in source.rows())
        unsealed = (row for row in listed if not sealed.contains(source.root, row))
        for row, (image_id, size, failure) in in_order(partial(hash_file, source), unsealed):
            if failure is not None:
                row = row.refuse("unreadable", str(failure))
            if sealed.contains_content(source.root, row, image_id):
                continue
            if row.reason is None and image_id is not None:
                first = sealed.accept(image_id, row.path)
                if first is not None:
                    row = row.refuse("duplicate", f"same content as {first}")
            yield _record(source.root, row, image_id, size)
            found += 1
            if found % _REPORT_EVERY == 0:
                advance("corpus_manifest", found, None)
    advance("corpus_manifest", found, found)


def _screened(row: Row, ingest: IngestSettings) -> Row:
    """``row`` with a clean caption; refused if name and size already show that it cannot be used."""
    row = replace(row, caption=clean_text(row.caption))
    if row.reason is not None:
        return row
    if row.size == 0:
        return row.refuse("zero_bytes", "the file is empty")
    if row.size is not None and row.size > ingest.max_bytes:
        return row.refuse("too_many_bytes", f"{row.size} bytes, the limit is {ingest.max_bytes}")
    if row.caption is None:
        return row.refuse("no_caption", "the caption is missing or empty")
    return row


def hash_file(source: Reader, row: Row) -> tuple[str | None, int | None, Unreadable | None]:
    """Image id (hash of the content), size in bytes, and error of the file of ``row``.

    The file is not read if the row has a reason already, other than a missing caption.
    """
    if row.reason not in (None, "no_caption"):
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
