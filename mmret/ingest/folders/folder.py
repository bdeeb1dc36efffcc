"""Reads files below a folder, members of its tars and rows of its picture tables, and nothing that lies elsewhere.

Costs what the files themselves do (:mod:`mmret.ingest.folders.files`).
"""

from __future__ import annotations

import posixpath
import re
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from mmret.ingest.folders.files import State, files_below
from mmret.ingest.folders.webdataset import TarSource
from mmret.ingest.object_store.path import ObjectPath
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.tables.picture_table import PICTURE_TABLE_SUFFIXES, PictureTable

_CONTAINER = re.compile(rf"({'|'.join(map(re.escape, ('.tar', *PICTURE_TABLE_SUFFIXES)))})/", re.IGNORECASE)


class Folder:
    """Reader of the files below ``root``; a path ``x.tar/member`` is a member of a tar that lies there."""

    def __init__(self, root: Path | ObjectPath):
        self.root = str(root)
        self.files = files_below(root)
        self._container = lru_cache(maxsize=4)(self._open_container)

    def open(self, path: str) -> tuple[BinaryIO, int]:
        if inside := self._inside_container(path):
            container, member = inside
            return container.open(member)
        return self.files.open(path)

    def locate(self, path: str) -> tuple[str, State]:
        """Real path (or key) and state of a regular file inside the folder.

        Raises Unreadable: ``unsafe_path``, ``missing_file``, ``not_a_file`` or ``unreadable``.
        """
        return self.files.locate(path)

    def measure(self, path: str) -> tuple[str, int, int]:
        """What the file, or member, called ``path`` is listed as, its size in bytes and its time in ns. Raises Unreadable."""
        try:
            real, found = self.files.locate(path)
        except Unreadable:
            inside = self._inside_container(path)
            if inside is None or not isinstance(inside[0], TarSource) or (size := inside[0].size_of(inside[1])) is None:
                raise
            return posixpath.normpath(path), size, inside[0].time_ns()
        return self.files.listed(real), found.st_size, found.st_mtime_ns

    def _inside_container(self, path: str) -> tuple[TarSource | PictureTable, str] | None:
        """The tar, or table of pictures, in which ``path`` lies, and the rest of the path."""
        for end in _CONTAINER.finditer(path):
            try:
                real = self.files.locate(path[: end.end() - 1])[0]
            except Unreadable:
                continue
            return self._container(real, end[1].lower()), path[end.end() :]
        return None

    def _open_container(self, real: str, suffix: str) -> TarSource | PictureTable:
        path = self.files.at(real)
        return TarSource(path) if suffix == ".tar" else PictureTable(path)
