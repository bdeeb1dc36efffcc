"""A table that holds the pictures themselves, as the ``datasets`` library writes them, is a source as a tar is.

The picture of the first row is ``0``; below a folder, ``data/train-00000-of-00001.parquet/0``. Listing reads the table once (some
1 GB/s), and so does reading its pictures in order; memory ``_WINDOW_BYTES`` of pictures, whatever the size of a row group.
"""

from __future__ import annotations

import io
import os
import threading
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from mmret.errors import UserError
from mmret.ingest.object_store.path import ObjectPath
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.remarks import Remarks
from mmret.ingest.rows import Row, text_columns
from mmret.ingest.tables.columnar import ARROW_SUFFIXES, PARQUET_SUFFIXES, Columnar, Damaged, rows_of
from mmret.ingest.tables.columns import IMAGE_COLUMNS, meaning, plain_name
from mmret.ingest.tables.records import is_picture_name

PICTURE_TABLE_SUFFIXES = (*PARQUET_SUFFIXES, *ARROW_SUFFIXES)

_WINDOW_BYTES = 64 * 2**20
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP", b"\0\0\1\0")
_NAMES = ("jpg", "jpeg", "png", "webp", "image_bytes", "img_bytes", "bytes", "image_data", "picture")


def picture_column(table: Columnar) -> str | None:
    """The column that holds pictures, or None. Looks at the first rows of columns that might be it.

    A struct with a field ``bytes`` or a binary column, alone or as the only entry of a list: one that is called like a picture,
    or, where no column has paths, one whose first values are pictures by their first bytes. File names as bytes are none, nor
    is a struct whose bytes are all missing.
    """
    likely = [field for field in table.schema if _holds_bytes(field.type)]
    if not likely:
        return None
    likely.sort(key=lambda field: not _is_named(field.name))
    first = next((batch for _, batch in islice(table.batches(), 1) if not isinstance(batch, Damaged)), None)
    if first is None:
        return likely[0].name
    paths = meaning(tuple(field.name for field in table.schema if field not in likely)).image
    for field in likely:
        found = [v.as_py() for v in pictures_in(first.column(field.name).slice(0, 64)) if v.is_valid]
        if found and _is_named(field.name):
            if not all(is_picture_name(data[:4096].decode("utf-8", "replace")) for data in found):
                return field.name
        elif found and not paths and all(data.startswith(_STARTS) or data[4:8] == b"ftyp" for data in found):
            return field.name
    return None


def _is_named(column: str) -> bool:
    """Whether a column is called like a picture, so that bytes in it are one whatever they begin with."""
    return plain_name(column) in (*_NAMES, *IMAGE_COLUMNS) or column in meaning((column,)).image


def pictures_in(column: pa.Array) -> pa.Array:
    """The pictures of a column as binary; null where a row has none, or several."""
    kind = column.type
    if _is_list(kind):
        lengths = pc.list_value_length(column).to_pylist()
        offsets = column.offsets.to_pylist()[:-1]
        places = [at if length == 1 else None for at, length in zip(offsets, lengths, strict=True)]
        return pictures_in(column.values.take(pa.array(places, pa.int64())))
    if pa.types.is_struct(kind):
        return pc.struct_field(column, "bytes")
    return column


class PictureTable:
    """One table. Thread-safe. Row paths are numbers of rows counted from 0, the time is the table's.

    Raises UserError where it cannot be opened or holds no pictures.
    """

    def __init__(self, path: Path | ObjectPath):
        self.root, self._path = str(path), path
        self.remarks = Remarks()
        self._lock = threading.Lock()
        try:
            self._table = Columnar(path)
        except ValueError as error:
            raise UserError(f"{path} {error}") from None
        column = picture_column(self._table)
        if column is None:
            raise UserError(f"{path} holds no pictures")
        self._column = column
        self._window: deque[tuple[int, pa.Array]] = deque()
        self._next: Iterator[tuple[int, pa.RecordBatch | Damaged]] = iter(())

    def rows(self) -> Iterator[Row]:
        mtime_ns = self._path.stat().st_mtime_ns
        table = Columnar(self._path)
        try:
            for first, batch in table.batches():
                if isinstance(batch, Damaged):
                    for row in range(batch.count):
                        yield Row(str(first + row)).refuse("unreadable", batch.why)
                else:
                    yield from self._rows_of(first, batch, mtime_ns)
        finally:
            table.close()

    def open(self, path: str) -> tuple[BinaryIO, int]:
        if not (path.isascii() and path.isdigit()):
            raise Unreadable("missing_file", f"{os.path.basename(self.root)} has no such row")
        with self._lock:
            data = self._picture(int(path))
        return io.BytesIO(data), len(data)

    def _rows_of(self, first: int, batch: pa.RecordBatch, mtime_ns: int) -> Iterator[Row]:
        column = batch.column(self._column)
        sizes = pc.binary_length(pictures_in(column)).to_pylist()
        names = paths_in(column)
        rest = batch.drop_columns([self._column])
        for row, columns in enumerate(rows_of(rest)):
            found = Row(str(first + row), size=sizes[row], mtime_ns=mtime_ns)
            if isinstance(columns, str):
                yield found.refuse("bad_manifest_row", columns)
                continue
            if names[row]:
                columns = {**columns, self._column: {"path": names[row]}}
            try:
                found = Row(found.path, size=sizes[row], mtime_ns=mtime_ns, **text_columns(columns))
            except Unreadable as why:
                yield found.refuse(why.reason, why.detail)
                continue
            if sizes[row] is None:
                several = _is_list(column.type) and (len(column[row]) if column[row].is_valid else 0) > 1
                why = "several pictures in one row: write a row for each" if several else "the row holds no picture"
                found = found.refuse("missing_file", why)
            yield found

    def _picture(self, row: int) -> bytes:
        if not self._window or row < self._window[0][0] or row > self._window[-1][0] + 100_000:
            self._window.clear()
            self._next = self._table.batches(row)
        while True:
            for first, pictures in self._window:
                if first <= row < first + len(pictures):
                    value = pictures[row - first]
                    if not value.is_valid:
                        raise Unreadable("missing_file", "the row holds no picture")
                    return value.as_py()
            first, batch = next(self._next, (0, None))
            if batch is None:
                self._window.clear()
                raise Unreadable("missing_file", f"{os.path.basename(self.root)} has no such row")
            if isinstance(batch, Damaged):
                if first <= row < first + batch.count:
                    self._window.clear()
                    raise Unreadable("unreadable", batch.why)
                continue
            self._window.append((first, pictures_in(batch.column(self._column))))
            while len(self._window) > 1 and sum(kept.nbytes for _, kept in self._window) > _WINDOW_BYTES:
                self._window.popleft()


def paths_in(column: pa.Array) -> list[str | None]:
    """The file names that ``datasets`` keeps beside the bytes, a row each."""
    kind = column.type
    if pa.types.is_struct(kind) and any(field.name == "path" for field in kind):
        return [value if isinstance(value, str) else None for value in pc.struct_field(column, "path").to_pylist()]
    return [None] * len(column)


def _holds_bytes(kind: Any) -> bool:
    if _is_list(kind):
        return _holds_bytes(kind.value_type)
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_list(kind: Any) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)
