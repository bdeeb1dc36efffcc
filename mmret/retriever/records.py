"""What ``mmret embed`` reads: rows with a picture, a text or both, from every source the corpus takes and from Parquet.

Parquet files often hold the pictures themselves (as the ``datasets`` library writes them: a struct of ``bytes`` and
``path``), or texts alone; a corpus source has neither. Rows come one by one, so memory does not grow with the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmret.errors import UserError
from mmret.ingest.decode import Unreadable
from mmret.ingest.manifest_files import SUFFIXES, read_manifest
from mmret.ingest.rows import Source, text_columns
from mmret.ingest.sources import open_manifest, open_source

TEXT_COLUMNS = ("query", "instruction", "sentence")
"""Columns taken for the text where none of the corpus's own names is there."""
_ROWS = 256  # of a Parquet file in memory at once


@dataclass(frozen=True)
class Record:
    """One row. ``read`` gives the picture's file; ``reason`` says why the row cannot be embedded."""

    source: str
    path: str | None
    caption: str | None
    read: Callable[[], bytes]
    reason: str | None = None


def open_records(sources: Sequence[str], pictures: bool, texts: bool) -> Iterator[Record]:
    """All rows of ``sources``; those without a picture or text that is needed carry a reason. Raises UserError for an unknown
    source."""
    for text in sources:
        path = Path(text).expanduser()
        if path.suffix.lower() == ".parquet" and path.is_file() and (held := _picture_column(path)):
            rows = _parquet_records(path, held)
        elif path.is_file() and path.suffix.lower() in SUFFIXES:
            rows = _source_records(open_manifest(path)) if pictures else _text_records(path)
        else:
            rows = _source_records(open_source(text))
        for row in rows:
            lacks = row.reason or ("no_text" if texts and not (row.caption or "").strip() else None)
            yield Record(row.source, row.path, row.caption, row.read, lacks)


def _source_records(source: Source) -> Iterator[Record]:
    for row in source.rows():
        yield Record(source.root, row.path, row.caption, partial(_read_file, source, row.path), row.reason)


def _read_file(source: Source, path: str) -> bytes:
    stream, _ = source.open(path)
    with stream:
        return stream.read()


def _text_records(path: Path) -> Iterator[Record]:
    """Rows of a manifest as texts, its pictures not looked at."""
    for number, columns in read_manifest(path):
        text, reason = _text_of(columns) if isinstance(columns, dict) else (None, "bad_manifest_row")
        yield Record(str(path.resolve()), f"row {number}", text, bytes, reason)


def _text_of(columns: dict[str, Any]) -> tuple[str | None, str | None]:
    """Text of a record, or why it has none that can be read."""
    try:
        own = text_columns(columns)["caption"]
    except Unreadable as error:
        return None, error.reason
    return own or next((v for name in TEXT_COLUMNS if isinstance(v := columns.get(name), str)), None), None


def _picture_column(path: Path) -> str | None:
    """The column of a Parquet file that holds pictures: binary, or a struct with a field ``bytes``."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}") from None
    for field in schema:
        kind = field.type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return field.name
        if pa.types.is_struct(kind) and any(f.name == "bytes" for f in kind):
            return field.name
    return None


def _parquet_records(path: Path, column: str) -> Iterator[Record]:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS):
            for row in batch.to_pylist():
                value = row.pop(column)
                data = value.get("bytes") if isinstance(value, dict) else value
                name = value.get("path") if isinstance(value, dict) else None
                name = name or next((row[n] for n in ("path", "file_name", "image_id", "id") if isinstance(row.get(n), str)), None)
                text, reason = _text_of(row)
                yield Record(
                    str(path.resolve()),
                    name or f"row {number}",
                    text,
                    partial(bytes, data or b""),
                    reason if data else "no_picture",
                )
                number += 1
