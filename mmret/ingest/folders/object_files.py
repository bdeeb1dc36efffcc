"""The files below a prefix of an object store. There are no links, so a path that does not climb stays inside.

Texts beside pictures are fetched ahead, many at a time: each is a request. What costs what: :mod:`mmret.ingest.object_store.place`.
"""

from __future__ import annotations

import posixpath
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import BinaryIO

from mmret.ingest.folders.captions import text_name
from mmret.ingest.folders.tar_index import is_outside
from mmret.ingest.folders.walk import Directory, told_apart
from mmret.ingest.object_store.path import ObjectPath
from mmret.ingest.object_store.place import Found, walked
from mmret.ingest.object_store.read_ahead import requests
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.remarks import Note
from mmret.ingest.rows import encodable
from mmret.storage.addresses import is_object_address, object_address

_TEXTS_AHEAD = 64


class ObjectFiles:
    """Methods as in :class:`mmret.ingest.folders.files.Files`."""

    def __init__(self, root: ObjectPath):
        assert not root.key, "a place is opened at its folder"
        self.root, self._place = str(root), root.place
        self._ahead: dict[str, Future[bytes]] = {}
        self._texts: deque[str] = deque()
        self._lock = threading.Lock()

    def locate(self, path: str) -> tuple[str, Found]:
        if is_outside(path):
            raise Unreadable("unsafe_path", "the path leaves the folder")
        if not encodable(path):
            raise Unreadable("missing_file", "no object can have this name")
        key = posixpath.normpath(path)
        if (found := self._place.found(key)) is not None:
            return key, found
        if "\\" in path:
            return self.locate(path.replace("\\", "/"))  # a manifest written on Windows
        raise Unreadable("missing_file", "no such object")

    def open(self, path: str) -> tuple[BinaryIO, int]:
        if is_outside(path):
            raise Unreadable("unsafe_path", "the path leaves the folder")
        try:
            return self._place.open(posixpath.normpath(path))
        except FileNotFoundError:
            if "\\" not in path:
                raise Unreadable("missing_file", "no such object") from None
            return self.open(path.replace("\\", "/"))

    def read(self, path: str, size: int) -> bytes:
        path = posixpath.normpath(path)
        with self._lock:
            while self._texts and (len(self._ahead) < _TEXTS_AHEAD or self._texts[0] <= path):
                each = self._texts.popleft()
                self._ahead[each] = requests().submit(self._read, each, size)
            ahead = self._ahead.pop(path, None)
            if len(self._ahead) >= _TEXTS_AHEAD:  # texts that nobody asked for
                for each in [each for each in self._ahead if each < path]:
                    self._ahead.pop(each).cancel()
        return self._read(path, size) if ahead is None else ahead.result()

    def at(self, real: str) -> ObjectPath:
        return ObjectPath(self._place, real)

    def path(self, path: str) -> ObjectPath:
        return ObjectPath(self._place) / path

    def listed(self, real: str) -> str:
        return real

    def below(self, path: ObjectPath) -> str:
        return path.key or "."

    def relative(self, path: str) -> str | None:
        if not is_object_address(path):
            return None
        scheme, rest = path.split(":", 1)
        address, here = f"{scheme.lower()}://{rest.lstrip('/')}", self.root
        scheme = str(object_address(f"{scheme}://bucket")).split(":")[0]
        address = f"{scheme}:{address.split(':', 1)[1]}"
        return address[len(here) + 1 :] if address.startswith(f"{here}/") else None

    def directories(self, note: Note) -> Iterator[Directory]:
        for folder, inner, names in walked(self._place):
            base = f"{folder}/" if folder else ""
            visible, inner[:] = told_apart(base, names, inner, self._is_lake, note)
            with self._lock:
                for future in self._ahead.values():
                    future.cancel()
                self._ahead, self._texts = {}, deque(base + name for name in visible if text_name(name))
            yield Directory(base, visible, [])

    def names(self, directory: str) -> list[str]:
        names, folders = self._place.names(posixpath.normpath(directory) if directory else "")
        return sorted([*names, *folders])

    def walk(self) -> Iterator[tuple[str, list[str]]]:
        for folder, inner, names in walked(self._place):
            inner[:] = [name for name in inner if not name.startswith(".")]
            yield folder, names

    def _is_lake(self, folder: str) -> bool:
        return self._place.found(f"{folder}/lake.yaml") is not None and self._place.is_folder(f"{folder}/corpus_manifest")

    def _read(self, path: str, size: int) -> bytes:
        found = self._place.found(path)
        if found is None:
            raise FileNotFoundError(2, "no such object", path)
        return self._place.part(path, 0, min(size, found.st_size), found)
