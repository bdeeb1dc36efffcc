"""Rows of a manifest with the files they name, which are found under names that are not quite those on disk too.

Cost: one ``lstat`` a row whose name is right.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mmret.ingest.addresses import is_address
from mmret.ingest.folders.captions import LONGEST, TextFile, TextName, columns_of_texts
from mmret.ingest.folders.folder import Folder
from mmret.ingest.folders.names import FolderNames, spellings
from mmret.ingest.folders.tar_index import is_outside
from mmret.ingest.object_store.path import ObjectPath
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.remarks import Note, Remarks
from mmret.ingest.rows import Row, clean_text, row_of_columns, text_columns
from mmret.ingest.tables.manifest_files import Manifest


class ManifestFolder(Folder):
    """A folder whose pictures are named by manifests."""

    def __init__(self, root: Path | ObjectPath):
        super().__init__(root)
        self.remarks = Remarks()
        self._names = FolderNames(self.files)

    def rows_of(self, manifest: Manifest) -> Iterator[tuple[Row, str | None]]:
        """Each line of ``manifest`` as a row, with the path under which the walk of the folder meets its file (None: no file)."""
        shown = self.files.below(manifest.path)
        base = self.files.below(manifest.folder)
        base = "" if base == "." else base
        beside = os.path.dirname(shown)

        def note(remark: str, path: str, detail: str) -> None:
            self.remarks.add(remark, posixpath.join(beside, path), detail)

        number = 0
        for number, record in manifest.records(note):
            line = Row(f"{shown}:{number}")
            if isinstance(record, str):
                yield line.refuse("bad_manifest_row", record), None
                continue
            try:
                row = row_of_columns(record)
            except Unreadable as why:
                yield line.refuse(why.reason, why.detail), None
            else:
                yield self._with_file(row, base)
        if not number:
            self.remarks.add("empty_manifest", shown, "it has the columns of a manifest, but no row")

    def _with_file(self, row: Row, base: str) -> tuple[Row, str | None]:
        written = row.path
        path = written if is_outside(written) and not written.startswith("..") else posixpath.join(base, written)
        try:
            listed, size, mtime_ns = self.measure(path)
        except Unreadable as why:
            other = self._other_spelling(written, path, why)
            if other is None:
                return replace(row, path=path).refuse(why.reason, self._explain(written, path, why)), os.path.normpath(path)
            self.remarks.add("other_spelling", written, f"found as {other}")
            path = other
            listed, size, mtime_ns = self.measure(path)
        return replace(row, path=path, size=size, mtime_ns=mtime_ns), listed

    def _other_spelling(self, written: str, path: str, why: Unreadable) -> str | None:
        """The path of the file that is meant, where ``written`` is another spelling of it or an absolute path inside the folder."""
        if is_address(written) or why.reason not in ("missing_file", "unsafe_path"):
            return None
        for spelling in (written, *spellings(written)):
            if (found := self.files.relative(spelling)) is not None:
                return found if self._exists(found) else self._names.find(found, self._exists)
        return self._names.find(path, self._exists) if why.reason == "missing_file" else None

    def _explain(self, written: str, path: str, why: Unreadable) -> str:
        """``why``, with the file that may be meant."""
        if is_address(written):
            return "an address, not a file: fetch the pictures first, with img2dataset for instance, or name the table urls:TABLE"
        likely = self._names.likely(path, self._exists) if why.reason in ("missing_file", "unsafe_path") else None
        if likely is None:
            return why.detail
        advice = ": write paths relative to the manifest" if why.reason == "unsafe_path" else ""
        return f"{why.detail}; {likely} is there{advice}"

    def _exists(self, path: str) -> bool:
        try:
            self.measure(path)
        except Unreadable:
            return False
        return True

    def with_texts(self, row: Row, directory: str, texts: list[tuple[str, TextName]]) -> Row:
        """``row`` with what its side-cars, ``texts`` in ``directory``, say; refused where they cannot be read."""

        def read(path: str) -> bytes:
            try:
                return self.files.read(path, LONGEST + 1)
            except OSError as error:
                raise Unreadable("bad_caption", f"{path}: {error.strerror}") from None

        files = [TextFile(f"{directory}{name}", about, lambda name=name: read(f"{directory}{name}")) for name, about in texts]
        try:
            return replace(row, **text_columns(columns_of_texts(files, self.remarks.add)))
        except Unreadable as why:
            return row.refuse(why.reason, f"caption file: {why.detail}")


class ManifestSource(ManifestFolder):
    """A manifest file, as a source: the pictures that it names, below the folder it lies in."""

    def __init__(self, manifest: Manifest):
        super().__init__(manifest.path.parent)
        self.root = str(manifest.path)
        self._manifest = manifest

    def rows(self) -> Iterator[Row]:
        self.remarks.clear()
        for row, _ in self.rows_of(self._manifest):
            yield row


def has_caption(row: Row) -> bool:
    """Whether the manifest itself gives ``row`` a caption."""
    return clean_text(row.caption) is not None


def prefixed(note: Note, prefix: str) -> Note:
    """``note`` with ``prefix`` before the paths; what has no path is about ``prefix`` itself."""

    def prefixed_note(remark: str, path: str | None = None, detail: str | None = None, count: int = 1) -> None:
        note(remark, f"{prefix}/{path}" if path else prefix, detail, count)

    return prefixed_note
