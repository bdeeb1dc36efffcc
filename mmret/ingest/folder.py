"""Pictures in a folder: named by a manifest, captioned by side-car ``.txt`` files, or packed in WebDataset tars.

No file outside the folder is ever opened: every path is resolved, and refused if it, or the target of a link in it, lies
elsewhere. Cost: one ``lstat`` a file, and each parent folder resolved once; memory the names of one directory at a time.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from mmret.ingest.decode import Unreadable
from mmret.ingest.manifest_files import read_manifest
from mmret.ingest.remarks import Remarks
from mmret.ingest.rows import IMAGE_SUFFIXES, Row, encodable, row_of_columns
from mmret.ingest.spill import SpillSet
from mmret.ingest.webdataset import TarSource, caption_text, is_outside

_CAPTION_BYTES = 2**20


class Folder:
    """Reader of the files below ``root``; a path ``x.tar/member`` is a member of a tar that lies there."""

    def __init__(self, root: Path):
        self.root = str(root)
        self.remarks = Remarks()
        self._real = os.path.realpath(root)
        self._parent = lru_cache(maxsize=4096)(self._real_inside)
        self._tar = lru_cache(maxsize=4)(lambda path: TarSource(Path(path)))

    def open(self, path: str) -> tuple[BinaryIO, int]:
        for end in re.finditer(r"\.tar/", path, re.IGNORECASE):
            if tar := self._found(path[: end.end() - 1]):
                return self._tar(tar).open(path[end.end() :])
        real, found = self.locate(path)
        try:
            return open(real, "rb"), found.st_size
        except OSError as error:
            raise Unreadable("unreadable", str(error.strerror)) from None

    def locate(self, path: str) -> tuple[str, os.stat_result]:
        """Real path and stat of a regular file inside the folder.

        Raises Unreadable: ``unsafe_path``, ``missing_file``, ``not_a_file`` or ``unreadable``.
        """
        if is_outside(path):
            raise Unreadable("unsafe_path", "the path leaves the folder")
        try:
            real, found = self._resolve(os.path.normpath(path))
        except FileNotFoundError:
            if "\\" not in path:
                raise Unreadable("missing_file", "no such file") from None
            return self.locate(path.replace("\\", "/"))  # a manifest written on Windows
        except OSError as error:
            reason = "missing_file" if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG) else "unreadable"
            raise Unreadable(reason, str(error.strerror)) from None
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable("not_a_file", "a device, or a folder that cannot be entered")
        return real, found

    def row_of_file(self, row: Row, seen: SpillSet | None = None) -> Row:
        """``row`` with size and time of its file, or with the reason why it has no file.

        The paths under which :meth:`walk` would list the file (its own, and that of a link's target) are added to ``seen``.
        """
        if seen is not None:
            seen.add(os.path.normpath(row.path.replace("\\", "/")))
        try:
            real, found = self.locate(row.path)
        except Unreadable as why:
            return row.refuse(why.reason, why.detail)
        if seen is not None:
            seen.add(os.path.relpath(real, self._real))
        return replace(row, size=found.st_size, mtime_ns=found.st_mtime_ns)

    def walk(self, suffixes: tuple[str, ...]) -> Iterator[tuple[str, set[str]]]:
        """Yield relative paths with one of ``suffixes``, in a fixed order, each with the names in its directory.

        Hidden files and folders are skipped and linked directories not entered. A directory that leads outside or cannot be
        read is yielded too, so that it becomes a reject and is not lost.
        """
        closed: list[OSError] = []
        for directory, inner, names in os.walk(self._real, onerror=closed.append):
            inner[:] = sorted(name for name in inner if not name.startswith(".") and name != "__MACOSX")
            base = "" if directory == self._real else os.path.relpath(directory, self._real) + "/"
            beside = set(names)
            for name in sorted(names):
                if name.lower().endswith(suffixes) and not name.startswith("."):
                    yield base + name, beside
            for name in inner:
                linked = os.path.join(directory, name)
                if os.path.islink(linked) and self._real_inside(linked) is None:
                    yield base + name, beside
        for error in closed:
            yield os.path.relpath(str(error.filename), self._real), set()

    def _resolve(self, path: str) -> tuple[str, os.stat_result]:
        parent, name = os.path.split(os.path.join(self._real, path))
        directory = self._parent(parent)
        if directory is None:
            raise Unreadable("unsafe_path", "a linked directory leads outside the folder")
        real = os.path.join(directory, name)
        found = os.lstat(real)
        if stat.S_ISLNK(found.st_mode):
            target = self._real_inside(real)
            if target is None:
                raise Unreadable("unsafe_path", "the link leads outside the folder: copy the file in instead")
            return target, os.stat(target)
        return real, found

    def _real_inside(self, path: str) -> str | None:
        real = os.path.realpath(path)
        return real if real == self._real or real.startswith(self._real.rstrip(os.sep) + os.sep) else None

    def _found(self, path: str) -> str | None:
        try:
            return self.locate(path)[0]
        except Unreadable:
            return None


class ManifestSource(Folder):
    """A manifest and the folder it lies in; with ``whole``, pictures of the folder it does not name are listed too."""

    def __init__(self, manifest: Path, whole: bool):
        super().__init__(manifest.parent)
        self._manifest = manifest
        self._whole = whole
        self.root = str(manifest.parent if whole else manifest)

    def rows(self) -> Iterator[Row]:
        with SpillSet() as named:
            for number, record in read_manifest(self._manifest):
                line = f"{self._manifest.name}:{number}"
                if isinstance(record, str):
                    yield Row(line).refuse("bad_manifest_row", record)
                    continue
                try:
                    row = row_of_columns(record)
                except Unreadable as why:
                    yield Row(line).refuse(why.reason, why.detail)
                else:
                    yield self.row_of_file(row, named)
            if self._whole:
                for path, _ in self.walk(IMAGE_SUFFIXES):
                    if path not in named:
                        yield _stored_name(self.row_of_file(Row(path)))


class FolderSource(Folder):
    """A folder without a manifest: pictures with side-car captions, and the members of its tars."""

    def rows(self) -> Iterator[Row]:
        for path, beside in self.walk((*IMAGE_SUFFIXES, ".tar")):
            if path.lower().endswith(".tar"):
                yield from self._rows_of_tar(path)
            else:
                yield _stored_name(self._captioned(path, beside))

    def _captioned(self, path: str, beside: set[str]) -> Row:
        row = self.row_of_file(Row(path))
        stem = os.path.splitext(path)[0]
        if row.reason or os.path.basename(stem) + ".txt" not in beside:
            return row
        try:
            real, _ = self.locate(stem + ".txt")
            with open(real, "rb") as file:
                text = caption_text(file.read(_CAPTION_BYTES + 1))
        except Unreadable as why:
            return row.refuse(why.reason, f"caption file: {why.detail}")
        except OSError as error:
            return row.refuse("bad_caption", f"caption file: {error.strerror}")
        return replace(row, caption=text)

    def _rows_of_tar(self, path: str) -> Iterator[Row]:
        at = self.row_of_file(Row(path))
        if at.reason:
            yield _stored_name(at)
        else:
            for row in self._tar(self.locate(path)[0]).rows():
                named = path if row.reason == "damaged_tar" else f"{path}/{row.path}"
                yield _stored_name(replace(row, path=named))


def _stored_name(row: Row) -> Row:
    """``row``, refused if its file name is not UTF-8 and so cannot be written into a table; the name is then escaped."""
    if encodable(row.path):
        return row
    shown = os.fsencode(row.path).decode("utf-8", "backslashreplace")
    return Row(shown).refuse("bad_file_name", "the file name is not UTF-8")
