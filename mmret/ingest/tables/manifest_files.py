"""Recognises tables of pictures in every format people have them in, and reads them record by record.

JSON lines and arrays, COCO's and Karpathy's captions, separated text in any dialect, Parquet and Arrow; see ``docs/inputs.md``. A
bad record does not stop a reader but is returned as one. Cost: recognising looks at the head of a file only; reading streams.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from mmret.errors import UserError
from mmret.ingest.object_store.path import ObjectPath, folders_in
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.rows import row_of_columns
from mmret.ingest.tables.columnar import ARROW_SUFFIXES, PARQUET_SUFFIXES, Columnar
from mmret.ingest.tables.columns import CAPTION_COLUMNS, IMAGE_COLUMNS, meaning, why_none
from mmret.ingest.tables.json_files import json_encoding, json_lines, recognise_json
from mmret.ingest.tables.picture_table import picture_column
from mmret.ingest.tables.records import SAMPLE, Note, Record, ignore, image_column, rename
from mmret.ingest.tables.separated_files import headed, read_separated, recognise_separated
from mmret.ingest.tables.text_files import UNREADABLE, plain_suffix, read_head

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
NAMES = ("captions", "manifest", "metadata")
"""File names without suffix that are preferred, in this order; Hugging Face's imagefolder writes ``metadata``."""

_JSON = (".jsonl", ".ndjson", ".json")
_SEPARATED = (".csv", ".tsv", ".tab", ".psv", ".txt", ".token", ".lst")
_COLUMNAR = (*PARQUET_SUFFIXES, *ARROW_SUFFIXES)
_BOOKS = (".xlsx", ".xls", ".ods")
TABLE_SUFFIXES = (*_JSON, *_SEPARATED, *_COLUMNAR, *_BOOKS)
"""Suffixes of files that :func:`recognise` is worth asking about, of text also with ``.gz`` behind it."""

_NAMES_TRIED = 20
_COPIES = re.compile("thumb|preview|resized|lowres|low_res|small", re.IGNORECASE)
"""Folders that lose to an equal one: smaller copies of the pictures."""
_PLACES = 64  # folders in which pictures are sought


@dataclass(frozen=True)
class Manifest:
    """A table of pictures that can be read.

    ``folder`` is where its paths count from: its own folder, or the one beside or below it in which its pictures were found.
    A table that holds the pictures themselves has ``embedded`` set and is a source of its own (``PictureTable(path)``), as a tar
    is; its rows name no files.
    """

    path: Path | ObjectPath
    folder: Path | ObjectPath
    read: Callable[[Note], Iterator[Record]]
    embedded: bool = False
    names: Callable[[], list[str]] | None = None
    """Gives the first pictures' names where :meth:`records` is slow to begin."""

    def records(self, note: Note = ignore) -> Iterator[Record]:
        """Every line, in order: its number and its columns, or what is wrong with it. What else is seen goes to ``note``."""
        return self.read(note)


def is_table(name: str) -> bool:
    """Whether a file called ``name`` may be a table of pictures by its suffix."""
    return plain_suffix(Path(name)) in TABLE_SUFFIXES


def recognise(path: Path | ObjectPath, within: Path | ObjectPath | None = None) -> Manifest | str:
    """The manifest in ``path``, or one sentence (without the path) that says why it is none.

    Looks at the head of the file only. Where its own folder has none of its first pictures, they are sought in the folders beside
    and below it, with ``within`` only inside that folder.

    >>> found = recognise(Path("captions.txt"))
    >>> found if isinstance(found, str) else list(found.records())
    """
    found = _recognise(path)
    if isinstance(found, str):
        return " ".join(found.split())
    if found.embedded:
        return found
    return replace(found, folder=_folder_of_pictures(found, within or path.parent.parent))


def read_manifest(path: Path | ObjectPath) -> Iterator[Record]:
    """Records of a table, one at a time, whether or not it names pictures. Raises UserError where it cannot be read."""
    suffix = plain_suffix(path)
    found = _recognise(path) if suffix in TABLE_SUFFIXES else None
    if isinstance(found, Manifest):
        return found.records()
    if found is not None and found.startswith("cannot be read"):
        raise UserError(f"{path} {found}")
    if suffix in (".jsonl", ".ndjson"):
        return json_lines(path, json_encoding(read_head(path)))
    if suffix in (".csv", ".tsv"):
        return read_separated(path, *headed(path), ignore)
    if suffix in _COLUMNAR:
        try:
            return Columnar(path).records()
        except ValueError as error:
            raise UserError(f"{path} {error}") from None
    raise UserError(
        f"{path} is not a manifest that can be read{f' (it {found})' if found else ''}: write JSON lines, CSV or Parquet "
        f"({', '.join(SUFFIXES)}) with a column {IMAGE_COLUMNS[0]} and a column {CAPTION_COLUMNS[0]}"
    )


def _recognise(path: Path | ObjectPath) -> Manifest | str:
    try:
        return _recognise_readable(path)
    except UNREADABLE as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _recognise_readable(path: Path | ObjectPath) -> Manifest | str:
    suffix = plain_suffix(path)
    if suffix in _BOOKS:
        return "is a spreadsheet: save it as CSV (UTF-8), with a column image and a column caption"
    if suffix in _JSON:
        json_table = recognise_json(path)
        if isinstance(json_table, str):
            return json_table
        return Manifest(path, path.parent, json_table.read, names=json_table.names)
    if suffix in _SEPARATED:
        separated = recognise_separated(path)
        if isinstance(separated, str):
            return separated
        dialect, encoding = separated
        return Manifest(path, path.parent, lambda note: read_separated(path, dialect, encoding, note))
    if suffix in _COLUMNAR:
        return _recognise_columnar(path)
    return f"is not read as a table by its suffix; those are {', '.join(TABLE_SUFFIXES)}"


def _recognise_columnar(path: Path | ObjectPath) -> Manifest | str:
    try:
        table = Columnar(path)
    except ValueError as error:
        return str(error)
    try:
        pictures = picture_column(table)
        if pictures is not None and (named := _with_files(path, table, pictures)):
            return named
        if pictures is not None:
            others = tuple(name for name in table.schema.names if name != pictures)
            if not meaning(others).caption:
                found = ", ".join(table.schema.names[:20])
                return (
                    f"holds pictures (in {pictures}) but has no caption column: found {found}; expected one called caption or text"
                )
            return Manifest(path, path.parent, lambda note: Columnar(path).records(), True)
        renamed, sentence = image_column(islice(table.records(), SAMPLE))
    finally:
        table.close()
    return sentence or Manifest(path, path.parent, lambda note: rename(Columnar(path).records(), renamed))


def _with_files(path: Path | ObjectPath, table: Columnar, pictures: str) -> Manifest | None:
    """The manifest of paths that a table is although it holds pictures: its files are there, and what it holds are thumbnails."""
    others = tuple(name for name in table.schema.names if name != pictures)
    if why_none(others):
        return None

    def read(note: Note) -> Iterator[Record]:
        note("thumbnails", path.name, f"the files that its paths name are used, not the pictures in the column {pictures}")
        for number, record in Columnar(path).records():
            yield number, {k: v for k, v in record.items() if k != pictures} if isinstance(record, dict) else record

    manifest = Manifest(path, path.parent, read)
    folder = _folder_of_pictures(manifest, path.parent)
    return manifest if any(_is_file(folder, name.strip().replace("\\", "/")) for name in _first_names(manifest)) else None


def _folder_of_pictures(manifest: Manifest, within: Path | ObjectPath) -> Path | ObjectPath:
    """The folder from which the first paths of a manifest lead to files: its own if any does, else the one where most do."""
    own = manifest.path.parent
    names = manifest.names() if manifest.names else _first_names(manifest)
    names = [name.strip().replace("\\", "/") for name in names[:_NAMES_TRIED]]
    if not names or any(_is_file(own, name) for name in names):
        return own
    found = Counter({folder: sum(_is_file(folder, name) for name in names) for folder in _places(own, within)})
    best = max(found, key=lambda folder: (found[folder], not _COPIES.search(folder.name)), default=own)
    return best if found[best] else own


def _first_names(manifest: Manifest) -> list[str]:
    names = []
    for _, record in islice(manifest.records(), SAMPLE):
        try:
            names += [row_of_columns(record).path] if isinstance(record, dict) else []
        except Unreadable:
            continue
    return names


def _places(own: Path | ObjectPath, within: Path | ObjectPath) -> Iterator[Path | ObjectPath]:
    """Folders below ``own`` and beside it, nearest first, each with its own ``images``; none that lies outside ``within``."""
    parents = [own] + ([own.parent] if own.parent == within or within in own.parent.parents else [])
    for parent in parents:
        if parent != own:
            yield parent
        try:
            inner = folders_in(parent)
        except OSError:
            continue
        for folder in inner[:_PLACES]:
            if folder != own:
                yield folder
                yield folder / "images"


def _is_file(folder: Path | ObjectPath, name: str) -> bool:
    try:
        return not os.path.isabs(name) and ".." not in Path(name).parts and (folder / name).is_file()
    except (OSError, ValueError):
        return False
