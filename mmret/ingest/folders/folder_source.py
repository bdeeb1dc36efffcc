"""A folder as a source is everything below it: manifests, pictures with side-cars and without, tars, tables of pictures.

Readers add up. First the manifests are listed, then the files in the order of their names. For one picture the caption of the first
manifest that has one wins over a side-car's; a tar's own text wins over a table's beside it. What is not understood is a remark.
Cost: two looks at each name, one ``lstat`` a picture; memory the names of one directory, and 64 MiB.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from mmret.ingest.folders.captions import text_name
from mmret.ingest.folders.folder_tables import Table, TarTable, tables_of
from mmret.ingest.folders.manifest_source import ManifestFolder, has_caption, prefixed
from mmret.ingest.folders.side_cars import SideCars
from mmret.ingest.folders.walk import Directory
from mmret.ingest.folders.webdataset import TarSource
from mmret.ingest.object_store.path import ObjectPath
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.remarks import Note
from mmret.ingest.rows import IMAGE_SUFFIXES, Row, encodable, to_json
from mmret.ingest.spill import SpillDict
from mmret.ingest.tables.manifest_files import is_table
from mmret.ingest.tables.picture_table import PictureTable

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_ARCHIVES = (".zip", ".rar", ".7z")
_SUFFIXES_TOLD = 8
NO_PICTURE = "text_without_picture"


class FolderSource(ManifestFolder):
    """Every picture below a folder."""

    def __init__(self, root: Path | ObjectPath):
        super().__init__(root)
        self._tables: dict[str, Table] | None = None
        self._beside = lru_cache(maxsize=8)(self._list_side_cars)

    def rows(self) -> Iterator[Row]:
        self.remarks.clear()
        if self._tables is None:
            self._tables = self._find_tables()
        for table in self._tables.values():
            if table.why_not:
                kind = "not_a_manifest" if table.path.lower().endswith(".json") or not text_name(table.path) else NO_PICTURE
                beside = (
                    "no picture beside it has its name (a text belongs into its picture's folder), and as a table it "
                    if kind == NO_PICTURE
                    else ""
                )
                self.remarks.add(kind, table.path, beside + table.why_not)
        with SpillDict() as named:
            manifests = [t.manifest for t in self._tables.values() if t.manifest and not t.manifest.embedded]
            for number, manifest in enumerate(manifests):
                for row, listed in self.rows_of(manifest):
                    if not self._named_before(named, number, row, listed):
                        yield row if listed is None or has_caption(row) else self._with_side_cars(row)
            yield from self._rest(named, self._tables)

    def _find_tables(self) -> dict[str, Table]:
        """The tables below the folder, looked at once: both the check of a source and its listing need them."""
        walked = self.files.directories(lambda *_: None)
        return {table.path: table for d in walked for table in tables_of(d, self.files.path(""), self._exists)}

    def _named_before(self, named: SpillDict, number: int, row: Row, listed: str | None) -> bool:
        """Whether an earlier manifest has a caption for this file; if not, the walk will know that this one names it."""
        if listed is None:
            return False
        first = named.get(listed)
        if first is not None and 0 <= first < number:
            self.remarks.add("named_by_two_manifests", row.path, "the caption of the first manifest is used")
            return True
        value = number if has_caption(row) and row.reason is None else -1
        for path in {listed, os.path.normpath(row.path.replace("\\", "/"))}:
            known = first if path == listed else named.get(path)
            if known is None or known < 0 <= value:
                named.put(path, value)
        return False

    def _with_side_cars(self, row: Row) -> Row:
        """A row whose manifest has no caption, with that of a text beside its picture."""
        directory, name = os.path.split(os.path.normpath(row.path.replace("\\", "/")))
        base = directory + "/" if directory else ""
        texts = [] if row.reason else self._beside(directory).of(name)
        if not texts:
            return row
        found = self.with_texts(row, base, texts)
        own = {name: value for name, value in json.loads(row.extra or "{}").items() if value is not None}
        extra = {**json.loads(found.extra or "{}"), **own}
        return replace(
            found,
            licence=row.licence or found.licence,
            source=row.source or found.source,
            extra=to_json(extra) if extra else None,
        )

    def _list_side_cars(self, directory: str) -> SideCars:
        return SideCars(self.files.names(directory))

    def _rest(self, named: SpillDict, tables: dict[str, Table]) -> Iterator[Row]:
        """What no manifest names: pictures with their side-cars, members of tars and of tables of pictures."""
        described = {table.tar: table for table in tables.values() if table.tar}
        unknown: Counter[str] = Counter()
        example = None
        for directory in self.files.directories(self.remarks.add):
            texts = SideCars(directory.names)
            for name in directory.names:
                path, lower = directory.base + name, name.lower()
                if lower.endswith(IMAGE_SUFFIXES):
                    yield from self._picture(directory, name, texts, named)
                elif lower.endswith(".tar"):
                    yield from self._rows_of_tar(path, described.get(path), named)
                elif path in tables:
                    manifest = tables[path].manifest
                    if manifest and manifest.embedded:
                        yield from self._rows_of_picture_table(path)
                elif lower.endswith(_COMPRESSED):
                    self.remarks.add("compressed_tar", path, "decompress it: members are read where they lie")
                elif lower.endswith(_ARCHIVES):
                    self.remarks.add("archive", path, "unpack it: archives other than tars are not looked into")
                elif not text_name(name) and not is_table(name) and named.get(path) is None:
                    unknown[os.path.splitext(lower)[1] or "no suffix"] += 1
                    example = example or path
            for name in texts.without_picture(directory.names):
                if directory.base + name not in tables:
                    self.remarks.add(NO_PICTURE, directory.base + name, "no picture beside it has its name")
            for path in directory.refused:
                yield _storable(self._measured(Row(path)))
        told = ", ".join(f"{suffix} {count}" for suffix, count in unknown.most_common(_SUFFIXES_TOLD))
        self.remarks.add("unknown_file", example, f"not read, by suffix: {told}", unknown.total())

    def _picture(self, directory: Directory, name: str, texts: SideCars, named: SpillDict) -> Iterator[Row]:
        path = directory.base + name
        by = named.get(path)
        beside = texts.of(name)
        if by is None:
            row = self._measured(Row(path))
            yield _storable(row if row.reason or not beside else self.with_texts(row, directory.base, beside))
        elif beside and by >= 0:
            self.remarks.add("side_car_overruled", directory.base + beside[0][0], "the manifest's caption is used")

    def _measured(self, row: Row) -> Row:
        try:
            real, found = self.locate(row.path)
        except Unreadable as why:
            return row.refuse(why.reason, why.detail)
        return replace(row, size=found.st_size, mtime_ns=found.st_mtime_ns)

    def _rows_of_tar(self, path: str, table: Table | None, named: SpillDict) -> Iterator[Row]:
        at = self._measured(Row(path))
        if at.reason:
            yield _storable(at)
            return
        tar = self._container(self.locate(path)[0], ".tar")
        assert isinstance(tar, TarSource)
        note = prefixed(self.remarks.add, path)
        for row in tar.list(note) if table is None else self._described(tar, table, note):
            row = replace(row, path=path if row.reason == "damaged_tar" else f"{path}/{row.path}")
            if (by := named.get(posixpath.normpath(row.path))) is None:
                yield _storable(row)
            elif by >= 0 and row.caption:
                self.remarks.add("tar_caption_overruled", row.path, "the manifest's caption is used")

    def _described(self, tar: TarSource, table: Table, note: Note) -> Iterator[Row]:
        with TarTable(self.files.path(table.path), table.path) as columns:
            yield from tar.list(note, columns.of)
            columns.tell_unused(self.remarks.add)

    def _rows_of_picture_table(self, path: str) -> Iterator[Row]:
        table = PictureTable(self.files.at(self.locate(path)[0]))
        for row in table.rows():
            yield _storable(replace(row, path=f"{path}/{row.path}"))


def _storable(row: Row) -> Row:
    """``row``, refused if its file name is not UTF-8 and so cannot be written into a table; the name is then escaped."""
    if encodable(row.path):
        return row
    shown = os.fsencode(row.path).decode("utf-8", "backslashreplace")
    return Row(shown).refuse("bad_file_name", "the file name is not UTF-8")
