"""Reads files below a folder, members of its tars and rows of its picture tables, and nothing that lies elsewhere.

Every path is resolved, and refused if it, or the target of a link in it, lies outside the folder. The one exception is a snapshot
of the Hugging Face cache, whose files are links into the ``blobs`` of the same repository. Cost: one ``lstat`` a file, and each
parent folder resolved once.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import stat
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from mmret.ingest.folders.tar_index import is_outside
from mmret.ingest.folders.webdataset import TarSource
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.tables.picture_table import PICTURE_TABLE_SUFFIXES, PictureTable

_CONTAINER = re.compile(rf"({'|'.join(map(re.escape, ('.tar', *PICTURE_TABLE_SUFFIXES)))})/", re.IGNORECASE)
_HUB_REPOSITORY = re.compile(r"(models|datasets|spaces)--.")


class Folder:
    """Reader of the files below ``root``; a path ``x.tar/member`` is a member of a tar that lies there."""

    def __init__(self, root: Path):
        self.root = str(root)
        self._real = os.path.realpath(root)
        self._blobs = _blobs_of_snapshot(self._real)
        self._parent = lru_cache(maxsize=4096)(self._real_inside)
        self._container = lru_cache(maxsize=4)(_open_container)

    def open(self, path: str) -> tuple[BinaryIO, int]:
        if inside := self._inside_container(path):
            container, member = inside
            return container.open(member)
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

    def measure(self, path: str) -> tuple[str, int, int]:
        """What the file, or member, called ``path`` is listed as, its size in bytes and its time in ns. Raises Unreadable."""
        try:
            real, found = self.locate(path)
        except Unreadable:
            inside = self._inside_container(path)
            if inside is None or not isinstance(inside[0], TarSource) or (size := inside[0].size_of(inside[1])) is None:
                raise
            return posixpath.normpath(path), size, os.stat(inside[0].root).st_mtime_ns
        return os.path.relpath(real, self._real), found.st_size, found.st_mtime_ns

    def relative(self, path: str) -> str | None:
        """An absolute path of a file as a path below the folder; None where it lies outside, or is not absolute."""
        if not path.startswith("/") or "\0" in path:
            return None
        parent, name = os.path.split(path)
        real = os.path.join(os.path.realpath(parent), name)
        return os.path.relpath(real, self._real) if self._is_below(real) else None

    def _inside_container(self, path: str) -> tuple[TarSource | PictureTable, str] | None:
        """The tar, or table of pictures, in which ``path`` lies, and the rest of the path."""
        for end in _CONTAINER.finditer(path):
            try:
                real = self.locate(path[: end.end() - 1])[0]
            except Unreadable:
                continue
            return self._container(real, end[1].lower()), path[end.end() :]
        return None

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
        return real if self._is_below(real) or self._blobs == os.path.dirname(real) else None

    def _is_below(self, real: str) -> bool:
        return real == self._real or real.startswith(self._real.rstrip(os.sep) + os.sep)


def _open_container(real: str, suffix: str) -> TarSource | PictureTable:
    return TarSource(Path(real)) if suffix == ".tar" else PictureTable(Path(real))


def _blobs_of_snapshot(real: str) -> str | None:
    """``<repository>/blobs`` where ``real`` lies in ``<repository>/snapshots/<revision>`` of the Hugging Face cache."""
    parts = real.split(os.sep)
    for at in range(1, len(parts) - 1):
        if parts[at] == "snapshots" and _HUB_REPOSITORY.match(parts[at - 1]):
            blobs = os.sep.join([*parts[:at], "blobs"])
            return blobs if os.path.isdir(blobs) else None
    return None
