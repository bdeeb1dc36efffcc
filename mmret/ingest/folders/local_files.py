"""The files below a local folder. Every path is resolved, and refused if it, or the target of a link in it, lies outside.

The one exception is a snapshot of the Hugging Face cache, whose files are links into the ``blobs`` of the same repository. Cost:
one ``lstat`` a file, and each parent folder resolved once.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from mmret.ingest.folders.tar_index import is_outside
from mmret.ingest.folders.walk import Directory, directories
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.remarks import Note

_HUB_REPOSITORY = re.compile(r"(models|datasets|spaces)--.")


class LocalFiles:
    """Methods as in :class:`mmret.ingest.folders.files.Files`."""

    def __init__(self, root: Path):
        self.root = str(root)
        self._real = os.path.realpath(root)
        self._blobs = _blobs_of_snapshot(self._real)
        self._parent = lru_cache(maxsize=4096)(self._real_inside)

    def locate(self, path: str) -> tuple[str, os.stat_result]:
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

    def open(self, path: str) -> tuple[BinaryIO, int]:
        real, found = self.locate(path)
        try:
            return open(real, "rb"), found.st_size
        except OSError as error:
            raise Unreadable("unreadable", str(error.strerror)) from None

    def read(self, path: str, size: int) -> bytes:
        with open(self.locate(path)[0], "rb") as file:
            return file.read(size)

    def at(self, real: str) -> Path:
        return Path(real)

    def path(self, path: str) -> Path:
        return Path(self.root) / path

    def listed(self, real: str) -> str:
        return os.path.relpath(real, self._real)

    def below(self, path: Path) -> str:
        return os.path.relpath(path, self.root)

    def relative(self, path: str) -> str | None:
        if not path.startswith("/") or "\0" in path:
            return None
        parent, name = os.path.split(path)
        real = os.path.join(os.path.realpath(parent), name)
        return os.path.relpath(real, self._real) if self._is_below(real) else None

    def directories(self, note: Note) -> Iterator[Directory]:
        return directories(self._real, lambda path: self._real_inside(path) is not None, note)

    def names(self, directory: str) -> list[str]:
        try:
            return sorted(os.listdir(os.path.join(self._real, directory)))
        except (OSError, ValueError):
            return []

    def walk(self) -> Iterator[tuple[str, list[str]]]:
        for directory, inner, names in os.walk(self._real):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            yield "" if directory == self._real else os.path.relpath(directory, self._real), sorted(names)

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


def _blobs_of_snapshot(real: str) -> str | None:
    """``<repository>/blobs`` where ``real`` lies in ``<repository>/snapshots/<revision>`` of the Hugging Face cache."""
    parts = real.split(os.sep)
    for at in range(1, len(parts) - 1):
        if parts[at] == "snapshots" and _HUB_REPOSITORY.match(parts[at - 1]):
            blobs = os.sep.join([*parts[:at], "blobs"])
            return blobs if os.path.isdir(blobs) else None
    return None
