"""Reads a whole source into memory, without a lake: for a script, a notebook or a test over some thousand pictures.

The stages seal and store a source shard by shard and are right for more. Cost: every file read and decoded once, and all of
them held in memory.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from mmret.hashing import content_id
from mmret.ingest.object_store.lost import ending_when_lost
from mmret.ingest.pictures.decode import Unreadable, inspect
from mmret.ingest.rows import Source
from mmret.ingest.seal import screened
from mmret.ingest.sources import open_source
from mmret.settings import IngestSettings

IMAGES = pa.schema(
    [*((name, pa.string()) for name in ("image_id", "path", "caption", "licence", "source", "extra")), ("data", pa.large_binary())]
)
"""Columns of :func:`read_source`, named as in table ``images``; ``data``: the picture's file as it was found."""
REJECTS = pa.schema([(name, pa.string()) for name in ("path", "reason", "detail")])


def read_source(text: str, settings: IngestSettings = IngestSettings()) -> tuple[pa.Table, pa.Table]:
    """The pictures of a source that can be used, schema ``IMAGES``, and the rows that cannot, schema ``REJECTS``.

    ``text`` is what `--images` takes. Rows are in the order of the source, each in exactly one of the two tables, with the reasons
    that a lake would give. Raises UserError for a source that cannot be read.

    >>> images, rejects = read_source("shapes:100?seed=0")
    >>> images.num_rows, rejects.num_rows
    (100, 0)
    """
    with ending_when_lost():
        return _read_source(text, settings)


def _read_source(text: str, settings: IngestSettings) -> tuple[pa.Table, pa.Table]:
    source = open_source(text)
    images: dict[str, dict[str, Any]] = {}
    rejects = []
    for row in source.rows():
        row = screened(row, settings)
        try:
            if row.reason is not None:
                raise Unreadable(row.reason, row.detail or "")
            data = _read(source, row.path)
            inspect(data, settings)
            image_id = content_id(data)
            if image_id in images:
                raise Unreadable("duplicate", f"same content as {images[image_id]['path']}")
        except Unreadable as why:
            rejects.append({"path": row.path, "reason": why.reason, "detail": why.detail})
            continue
        texts = {name: getattr(row, name) for name in ("path", "caption", "licence", "source", "extra")}
        images[image_id] = {"image_id": image_id, "data": data, **texts}
    return pa.Table.from_pylist(list(images.values()), IMAGES), pa.Table.from_pylist(rejects, REJECTS)


def _read(source: Source, path: str) -> bytes:
    try:
        stream, size = source.open(path)
        with stream:
            data = stream.read(size)
    except OSError as error:
        raise Unreadable("unreadable", error.strerror or str(error)) from None
    if len(data) < size:
        raise Unreadable("truncated", f"the file ends {size - len(data)} bytes early")
    return data
