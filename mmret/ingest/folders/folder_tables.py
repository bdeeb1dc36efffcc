"""Which tables below a folder are manifests, which describe the members of a tar, and why the others are neither.

Cost: the head of every table is read. Of texts and JSON files, which beside pictures are mostly side-cars, only those are looked at
that belong to no picture; where a directory has very many of them, only those that are called like a manifest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmret.errors import UserError
from mmret.ingest.folders.captions import text_name
from mmret.ingest.folders.side_cars import SideCars
from mmret.ingest.folders.walk import Directory
from mmret.ingest.object_store.path import ObjectPath
from mmret.ingest.remarks import Note
from mmret.ingest.spill import SpillDict
from mmret.ingest.tables.manifest_files import NAMES, Manifest, is_table, read_manifest, recognise

KEYS = ("key", "__key__")
"""Columns that name a tar's member by its key, as img2dataset's do."""
_LOOKED_AT = 100
_CALLED = (*NAMES, "annotation", "result", "token", "caption", "train", "val", "test", "split", "label")


@dataclass(frozen=True)
class Table:
    """A file that may be a table. ``path`` counts from the root; ``tar`` is the one whose members it describes."""

    path: str
    manifest: Manifest | None = None
    tar: str | None = None
    why_not: str | None = None


def tables_of(directory: Directory, root: Path | ObjectPath, is_inside: Callable[[str], bool]) -> Iterator[Table]:
    """Every table of one directory, those that are called like a manifest first.

    A link that leads out of ``root`` is not followed, unless it lies in ``root`` itself, where a person has put it.
    """
    names = [name for name in directory.names if is_table(name)]
    texts = {name for name in names if text_name(name.lower().removesuffix(".gz"))}
    if texts:
        alone = set(SideCars(texts).without_picture(directory.names))
        texts = {name for name in texts if name.lower().endswith(".gz")} | alone
        if len(texts) > _LOOKED_AT:
            texts = {name for name in texts if any(word in name.lower() for word in _CALLED)}
        names = [name for name in names if name in texts or not text_name(name.lower().removesuffix(".gz"))]
    tars = {os.path.splitext(name)[0]: name for name in directory.names if name.lower().endswith(".tar")}
    for name in sorted(names, key=_preference):
        path = directory.base + name
        if directory.base and not is_inside(path):
            yield Table(path, why_not="a link that leads outside, or no file: copy it in instead")
            continue
        tar = tars.get(name.partition(".")[0]) or tars.get(os.path.splitext(name)[0])
        found = _recognised(root / path, root)
        if isinstance(found, Manifest):
            yield Table(path, manifest=found)
        elif tar and _key_column(_first_record(root / path)):
            yield Table(path, tar=directory.base + tar)
        elif (root / directory.base / name.partition(".")[0]).is_dir() and _key_column(_first_record(root / path)):
            yield Table(path, why_not="is the list of downloads that img2dataset keeps beside the folder, whose own files are read")
        else:
            yield Table(path, why_not=found)


def _preference(name: str) -> tuple[int, int, str]:
    stem, _, suffix = name.lower().partition(".")
    suffixes = ("jsonl", "ndjson", "csv", "tsv", "parquet")
    order = suffixes.index(suffix) if suffix in suffixes else len(suffixes)
    if ".lemma." in f".{suffix}.":  # Flickr8k's captions once more, in base forms
        return (len(NAMES) + 1, 0, name)
    return (NAMES.index(stem) if stem in NAMES else len(NAMES), order if stem in NAMES else 0, name)


def _recognised(path: Path | ObjectPath, root: Path | ObjectPath) -> Manifest | str:
    try:
        return recognise(path, within=root) if path.is_file() else "is no file"
    except UserError as error:
        return str(error).removeprefix(str(path)).strip(": ")


def _first_record(path: Path | ObjectPath) -> dict[str, Any]:
    try:
        return next((record for _, record in read_manifest(path) if isinstance(record, dict)), {})
    except (UserError, OSError):
        return {}


def _key_column(record: dict[str, Any]) -> str | None:
    return next((key for key in KEYS if record.get(key) is not None), None)


class TarTable:
    """What a table beside a tar says of its members, by key; spills to disk. A context manager."""

    def __init__(self, path: Path | ObjectPath, shown: str):
        self._shown = shown
        self._rows = SpillDict()
        self._without_key = 0
        for _, record in read_manifest(path):
            key = _key_column(record) if isinstance(record, dict) else None
            if key is None:
                self._without_key += 1
            else:
                self._rows.add(str(record[key]), {name: value for name, value in record.items() if value is not None})

    def of(self, key: str) -> dict[str, Any] | None:
        """The columns of the member with this key."""
        return self._rows.take(key) or self._rows.take(os.path.basename(key))

    def tell_unused(self, note: Note) -> None:
        """Remark on the rows that no member was found for."""
        count, key, record = self._rows.left()
        why = next((str(record[name]) for name in ("error_message", "status") if record.get(name)), "") if record else ""
        note("table_row_without_member", f"{self._shown}: {key}", f"the tar has no picture of that key {why}".strip(), count)
        note("table_row_without_key", self._shown, "rows that name no member of the tar", self._without_key)

    def __enter__(self) -> TarTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.__exit__(None, None, None)
