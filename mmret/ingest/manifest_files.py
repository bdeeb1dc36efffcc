"""Reads a manifest (JSON lines, CSV, TSV or Parquet) record by record; a bad record does not stop it but is returned as one."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmret.errors import UserError
from mmret.ingest.rows import CAPTION_COLUMNS, IMAGE_COLUMNS

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
NAMES = ("captions", "manifest", "metadata")
"""File names without suffix that are preferred, in this order; Hugging Face's imagefolder writes ``metadata``."""

_LINE = 16 * 2**20  # bytes; a longer line is a bad record, not a reason to fill the memory
_SAMPLE_ROWS = 100  # records looked at to learn the columns of a JSON-lines file

_NOT_PATHS = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_nested)

Record = tuple[int, dict[str, Any] | str]
"""Line number, counted from 1, and the columns of the line, or what is wrong with it as text."""


TABLE_SUFFIXES = (*SUFFIXES, ".tab", ".psv", ".txt", ".token", ".json", ".arrow", ".feather", ".xlsx", ".xls")
"""Suffixes of files that :func:`recognise` is worth asking about, each also with ``.gz`` behind it."""

Note = Callable[[str, str, str], None]
"""What notices something takes a remark's slug, where it was seen and a detail: ``Remarks.add`` of the source."""


def ignore(remark: str, path: str, detail: str) -> None:
    """A :data:`Note` for who does not want to know."""


@dataclass(frozen=True)
class Manifest:
    """A table of pictures that can be read.

    ``folder`` is where its paths count from: its own folder, or the one beside or below it in which its pictures were found.
    ``how`` says in a few words how the file was read. A table that holds the pictures themselves has ``embedded`` set and is a
    source of its own (``PictureTable(path)``), as a tar is; its rows then name no files.
    """

    path: Path
    folder: Path
    how: str
    read: Callable[[Note], Iterator[Record]]
    embedded: bool = False

    def records(self, note: Note = ignore) -> Iterator[Record]:
        """Every line, in order: its number and its columns, or what is wrong with it. What else is seen goes to ``note``."""
        return self.read(note)


def is_table(name: str) -> bool:
    """Whether a file called ``name`` may be a table of pictures by its suffix."""
    return name.lower().removesuffix(".gz").endswith(TABLE_SUFFIXES)


def recognise(path: Path, within: Path | None = None) -> Manifest | str:
    """The manifest in ``path``, or one sentence (without the path) that says why it is none.

    Looks at the head of the file only. With ``within``, pictures are sought in that folder only. Raises OSError where the file
    cannot be opened.
    """
    if path.suffix.lower() not in SUFFIXES:
        return f"files called {path.suffix or path.name} are not read as manifests"
    try:
        check_columns(path)
    except UserError as error:
        return str(error).removeprefix(str(path)).removeprefix(":").strip()
    return Manifest(path, path.parent, path.suffix.lower().removeprefix("."), lambda note: read_manifest(path))


def find_manifest(folder: Path) -> Path | None:
    """The manifest directly inside ``folder``, or None. Raises UserError where there are several to choose from."""
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith("."))
    for stem in NAMES:
        for suffix in SUFFIXES:
            if named := [p for p in found if p.name.lower() == stem + suffix]:
                return named[0]
    if len(found) > 1:
        names = ", ".join(p.name for p in found[:8])
        raise UserError(
            f"{folder} has several files that could be its manifest ({names}): call one of them "
            f"captions{found[0].suffix}, or give its path instead of the folder's"
        )
    return found[0] if found else None


def read_manifest(path: Path) -> Iterator[Record]:
    """Records of a manifest, one at a time. Raises UserError where the file as a whole cannot be read."""
    readers = {".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _separated, ".tsv": _separated, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{path} is not a manifest that can be read: write JSON lines, CSV or Parquet "
            f"({', '.join(SUFFIXES)}) with a column {IMAGE_COLUMNS[0]} and a column {CAPTION_COLUMNS[0]}"
        )
    return reader(path)


def check_columns(path: Path) -> None:
    """Raise UserError, naming the columns found, where a manifest has no image or no caption column."""
    columns: dict[str, None] = {}
    for _, record in islice(read_manifest(path), _SAMPLE_ROWS):
        if isinstance(record, dict):
            columns.update(dict.fromkeys(map(str, record)))
    for kind, names in (("image", IMAGE_COLUMNS), ("caption", CAPTION_COLUMNS)):
        if columns and not any(name in columns for name in names):
            raise UserError(f"{path} has no {kind} column: found {', '.join(columns)}; expected one called {' or '.join(names)}")


def _json_lines(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        _refuse_utf16(path, file.read(2))
        file.seek(0)
        number = 0
        while line := file.readline(_LINE):
            number += 1
            if len(line) == _LINE and not line.endswith(b"\n"):
                while (rest := file.readline(_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield number, f"line of more than {_LINE} bytes"
                continue
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode())
            except UnicodeDecodeError as error:
                yield number, f"not UTF-8: {error.reason} at byte {error.start}"
            except (ValueError, RecursionError) as error:
                yield number, f"not JSON: {error}"
            else:
                yield number, record if isinstance(record, dict) else f"not an object but a {type(record).__name__}"


def _separated(path: Path) -> Iterator[Record]:
    csv.field_size_limit(_LINE)
    with path.open("rb") as file:
        _refuse_utf16(path, file.read(2))
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        try:
            width = len(reader.fieldnames or ())
        except csv.Error as error:
            raise UserError(f"{path} has no readable header line: {error}") from None
        while True:
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield reader.line_num, f"not CSV: {error}"
                continue
            surplus = record.pop(None, [])
            given = sum(value is not None for value in record.values()) + len(surplus)
            if given != width:
                yield reader.line_num, f"{given} columns, the header has {width}"
            elif any("\udc80" <= c <= "\udcff" for value in record.values() for c in value):
                yield reader.line_num, "not UTF-8"
            else:
                yield reader.line_num, record


def _parquet(path: Path) -> Iterator[Record]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}") from None
    with file:
        for field in file.schema_arrow:
            if field.name in IMAGE_COLUMNS and any(test(field.type) for test in _NOT_PATHS):
                raise UserError(
                    f"{path}: column {field.name} holds {field.type}, not paths; write the pictures to "
                    "files beside the manifest and their paths into the column"
                )
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                number += 1
                yield number, record


def _refuse_utf16(path: Path, start: bytes) -> None:
    if start in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path} is UTF-16: save it as UTF-8")
