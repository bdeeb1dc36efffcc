"""Reads Parquet and Arrow files (Feather, ``datasets``' ``save_to_disk``) batch by batch; what is damaged costs its own rows only.

Memory: one batch of some 8 MiB, and of Parquet the pages of its columns, whatever the size of a row group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmret.ingest.object_store.path import ObjectPath, for_arrow
from mmret.ingest.tables.columns import unique_names
from mmret.ingest.tables.records import Record

PARQUET_SUFFIXES = (".parquet", ".pq")
ARROW_SUFFIXES = (".arrow", ".feather", ".ipc")

_BATCH_BYTES = 8 * 2**20
_BATCH_ROWS = 1024
_READ_BYTES = 2**20

Errors = (pa.ArrowException, OSError, ValueError, OverflowError)


@dataclass(frozen=True)
class Damaged:
    """``count`` rows that cannot be read, and why; the number of rows of an Arrow file that breaks off is not known and 1."""

    count: int
    why: str


class Columnar:
    """An open Parquet or Arrow file. Raises ValueError, whose words say what is wrong, where it cannot be opened.

    Not thread-safe.
    """

    def __init__(self, path: Path | ObjectPath):
        self.path = path
        try:
            if _is_parquet(path):
                self._parquet: pq.ParquetFile | None = pq.ParquetFile(for_arrow(path), pre_buffer=False, buffer_size=_READ_BYTES)
                self.schema: pa.Schema = self._parquet.schema_arrow
            else:
                self._parquet = None
                with self._arrow() as reader:
                    self.schema = pa.schema([f.with_type(_plain_type(f.type)) for f in reader.schema], reader.schema.metadata)
            _read_names(self.schema)
        except (pa.ArrowException, OSError, ValueError) as error:
            kind = "Parquet" if _is_parquet(path) else "Arrow"
            raise ValueError(f"cannot be read as {kind}: {_first_line(error)}") from None

    def batches(self, start: int = 0) -> Iterator[tuple[int, pa.RecordBatch | Damaged]]:
        """(row of its first row, batch) of the file from the batch that holds row ``start`` or one before it."""
        for first, batch in self._row_groups(start) if self._parquet is not None else self._arrow_batches(start):
            for at, part in [(first, batch)] if isinstance(batch, Damaged) else _sound(first, batch):
                yield at, part if isinstance(part, Damaged) or part.schema.equals(self.schema) else _plain(part)

    def records(self) -> Iterator[Record]:
        """Rows as columns, numbered from 1."""
        for first, batch in self.batches():
            if isinstance(batch, Damaged):
                for row in range(batch.count):
                    yield first + row + 1, batch.why
            else:
                yield from ((first + row + 1, columns) for row, columns in enumerate(rows_of(batch)))

    def known_rows(self) -> int | None:
        """How many rows a Parquet file says it has; None of an Arrow file, which has to be read for that."""
        return None if self._parquet is None else self._parquet.metadata.num_rows

    def close(self) -> None:
        if self._parquet is not None:
            self._parquet.close()

    def _row_groups(self, start: int) -> Iterator[tuple[int, pa.RecordBatch | Damaged]]:
        assert self._parquet is not None
        first = 0
        for group in range(self._parquet.num_row_groups):
            facts = self._parquet.metadata.row_group(group)
            end = first + facts.num_rows
            if end > start:
                rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * facts.num_rows // max(1, facts.total_byte_size)))
                try:
                    for batch in self._parquet.iter_batches(batch_size=rows, row_groups=[group], use_threads=False):
                        yield first, batch
                        first += batch.num_rows
                except Errors as error:
                    yield first, Damaged(end - first, f"row group {group} cannot be read: {_first_line(error)}")
            first = end

    def _arrow_batches(self, start: int) -> Iterator[tuple[int, pa.RecordBatch | Damaged]]:
        first = 0
        try:
            with self._arrow() as reader:
                for whole in _batches_of(reader):
                    if first + whole.num_rows > start:
                        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * whole.num_rows // max(1, whole.nbytes)))
                        for at in range(0, whole.num_rows, rows):
                            yield first + at, whole.slice(at, rows)
                    first += whole.num_rows
        except Errors as error:
            yield first, Damaged(1, f"the file cannot be read from here on: {_first_line(error)}")

    def _arrow(self) -> Any:
        with self.path.open("rb") as file:
            start = file.read(6)
        if start[:4] == b"FEA1":
            raise ValueError("a Feather file of version 1: write it again with version 2")
        opened = pa.OSFile(str(self.path)) if isinstance(self.path, Path) else for_arrow(self.path)
        return pa.ipc.open_file(opened) if start == b"ARROW1" else pa.ipc.open_stream(opened)


def _is_parquet(path: Path | ObjectPath) -> bool:
    """By its name; a file called otherwise (a blob of the Hugging Face cache) by its first bytes."""
    suffix = path.suffix.lower()
    if suffix in (*PARQUET_SUFFIXES, *ARROW_SUFFIXES) or not path.is_file():
        return suffix in PARQUET_SUFFIXES
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _read_names(fields: Iterable[pa.Field]) -> None:
    """Raise ValueError (UnicodeDecodeError) for a name, at any depth, that is no text."""
    for field in fields:
        field.name.isascii()
        kind = field.type
        if pa.types.is_nested(kind):
            _read_names(kind.field(at) for at in range(kind.num_fields))


def _plain_type(kind: Any) -> Any:
    """``kind`` without views, which newer writers (Polars) use for texts and bytes."""
    if kind == pa.string_view():
        return pa.large_string()
    if kind == pa.binary_view():
        return pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = kind.value_field.with_type(_plain_type(kind.value_type))
        return kind if inner.type == kind.value_type else pa.large_list(inner) if pa.types.is_large_list(kind) else pa.list_(inner)
    if pa.types.is_struct(kind):
        fields = [field.with_type(_plain_type(field.type)) for field in kind]
        return pa.struct(fields) if any(new.type != old.type for new, old in zip(fields, kind, strict=True)) else kind
    return kind


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    fields = [field.with_type(_plain_type(field.type)) for field in batch.schema]
    columns = [column.cast(field.type) for column, field in zip(batch.columns, fields, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields, batch.schema.metadata))


def _sound(first: int, batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch | Damaged]]:
    """``batch`` in parts that are safe to read: a damaged file may have lengths that lead anywhere, and text that is none."""
    try:
        batch.validate(full=True)
    except Errors:
        if batch.num_rows > 1:
            half = batch.num_rows // 2
            yield from _sound(first, batch.slice(0, half))
            yield from _sound(first + half, batch.slice(half))
            return
        yield first, Damaged(1, _why_unsound(batch))
    else:
        yield first, batch


def _why_unsound(batch: pa.RecordBatch) -> str:
    for field, column in zip(batch.schema, batch.columns, strict=True):
        try:
            column.validate(full=True)
        except Errors as error:
            return f"the value of {field.name} cannot be read: {_first_line(error)}"
    return "the row cannot be read"


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any] | str]:
    """The rows of a batch as columns, or what is wrong with a row whose values Python cannot hold."""
    names = unique_names(batch.schema.names)
    try:
        columns = [column.to_pylist() for column in batch.columns]
    except Errors:
        return [_row(batch, names, row) for row in range(batch.num_rows)]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)] if columns else [{}] * batch.num_rows


def _row(batch: pa.RecordBatch, names: list[str], row: int) -> dict[str, Any] | str:
    columns: dict[str, Any] = {}
    for name, column in zip(names, batch.columns, strict=True):
        try:
            columns[name] = column[row].as_py()
        except Errors as error:
            return f"the value of {name} cannot be read: {_first_line(error)}"
    return columns


def _batches_of(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        yield from (reader.get_batch(at) for at in range(reader.num_record_batches))
    else:
        yield from reader


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
