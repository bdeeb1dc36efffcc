"""What ``mmret embed`` reads: rows with a picture, a text or both, from every source the corpus takes and from tables of texts.

Parquet and Arrow files that hold the pictures themselves (as the ``datasets`` library writes them) need no caption here, and are
read twice: once to list them, once for their pictures. Rows come one by one, so memory does not grow with the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from mmret.errors import UserError
from mmret.ingest.object_store.lost import ending_when_lost
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.rows import Source, text_columns
from mmret.ingest.sources import open_manifest, open_source
from mmret.ingest.tables.columnar import Columnar, Damaged, rows_of
from mmret.ingest.tables.columns import CAPTION_COLUMNS
from mmret.ingest.tables.manifest_files import is_table, read_manifest
from mmret.ingest.tables.picture_table import PICTURE_TABLE_SUFFIXES, PictureTable, paths_in, picture_column, pictures_in

TEXT_COLUMNS = ("query", "instruction", "sentence")
"""Columns taken for the text where none of the corpus's own names is there."""
_NAME_COLUMNS = ("path", "file_name", "image_id", "id")
"""Columns that name a picture of a table which holds the pictures themselves."""
_WORTH_SKIPPING = 1000
"""Rows ahead of what was read from which a table is opened again further on, instead of being read on."""


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
    return (record for _, record in numbered_records(sources, pictures, texts) if record is not None)


def numbered_records(
    sources: Sequence[str], pictures: bool, texts: bool, wanted_from: Callable[[], int] = lambda: 0
) -> Iterator[tuple[int, Record | None]]:
    """The rows of :func:`open_records` with their numbers, counted from 0 over all sources.

    Rows before ``wanted_from()``, which is asked again and again and may only rise, need not be read: where that saves reading,
    (number, None) stands for all rows up to that number that were not given.
    """
    first = 0
    for text in sources:
        path = Path(text).expanduser()
        if path.suffix.lower() in PICTURE_TABLE_SUFFIXES and path.is_file() and (table := _table_of_pictures(path)):
            rows = _table_records(table, lambda first=first: wanted_from() - first)
        elif path.is_file() and is_table(path.name):
            rows = enumerate(_source_records(open_manifest(path)) if pictures else _text_records(path))
        else:
            rows = enumerate(_source_records(open_source(text)))
        number = -1
        for number, row in rows:
            if row is None:
                yield first + number, None
                continue
            lacks = row.reason or ("no_text" if texts and not (row.caption or "").strip() else None)
            yield first + number, Record(row.source, row.path, row.caption, row.read, lacks)
        first += number + 1


def _source_records(source: Source) -> Iterator[Record]:
    with ending_when_lost():
        for row in source.rows():
            yield Record(source.root, row.path, row.caption, partial(_read_file, source, row.path), row.reason)


def _read_file(source: Source, path: str) -> bytes:
    with ending_when_lost():
        stream, size = source.open(path)
        with stream:
            return stream.read(size)


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
    named = next((v for name in TEXT_COLUMNS if isinstance(v := columns.get(name), str)), None)
    return (own or named if any(name in columns for name in CAPTION_COLUMNS) else named or own), None


def _table_of_pictures(path: Path) -> Columnar | None:
    """The table, if it holds pictures itself. Raises UserError where it cannot be opened."""
    try:
        table = Columnar(path)
    except ValueError as error:
        raise UserError(f"{path} {error}") from None
    return table if picture_column(table) else None


def _table_records(table: Columnar, wanted_from: Callable[[], int]) -> Iterator[tuple[int, Record | None]]:
    column = picture_column(table)
    assert column is not None
    source, held = str(table.path.resolve()), PictureTable(table.path)
    batches, sought = table.batches(), 0
    while True:
        wanted = min(wanted_from(), (table.known_rows() or 1) - 1)  # at least the last row: it says how many there are
        if wanted > sought + _WORTH_SKIPPING:
            batches, sought = table.batches(wanted), wanted
        first, batch = next(batches, (0, None))
        if batch is None:
            return
        if isinstance(batch, Damaged):
            for i in range(batch.count):
                yield first + i, Record(source, f"row {first + i}", None, bytes, "unreadable")
            continue
        sought = max(sought, first + batch.num_rows)
        if sought <= wanted:
            yield sought - 1, None
            continue
        sizes = pc.binary_length(pictures_in(batch.column(column))).to_pylist()
        names = paths_in(batch.column(column))
        for i, row in enumerate(rows_of(batch.drop_columns([column]))):
            if isinstance(row, str):
                yield first + i, Record(source, f"row {first + i}", None, bytes, "bad_manifest_row")
                continue
            name = names[i] or next((row[n] for n in _NAME_COLUMNS if isinstance(row.get(n), str)), None)
            text, reason = _text_of(row)
            read = partial(_read_held, held, first + i)
            yield first + i, Record(source, name or f"row {first + i}", text, read, reason if sizes[i] else "no_picture")


def _read_held(table: PictureTable, row: int) -> bytes:
    return table.open(str(row))[0].read()
