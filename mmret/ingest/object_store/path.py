"""An object of a source as readers of tables and tars know a file: the part of ``pathlib.Path`` that they use. Costs nothing."""

from __future__ import annotations

import io
import posixpath
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from mmret.ingest.object_store.place import Found, ObjectPlace, place_of


class ObjectPath:
    """The object, or folder, ``key`` of a place. Nothing above the place can be named."""

    def __init__(self, place: ObjectPlace, key: str = ""):
        self.place, self.key = place, key

    @property
    def name(self) -> str:
        return posixpath.basename(self.key) or posixpath.basename(self.place.address)

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.place, posixpath.dirname(self.key))

    @property
    def parents(self) -> list[ObjectPath]:
        found, key = [], self.key
        while key:
            key = posixpath.dirname(key)
            found.append(ObjectPath(self.place, key))
        return found

    def __truediv__(self, below: str) -> ObjectPath:
        key = posixpath.normpath(posixpath.join(self.key, below))
        return ObjectPath(self.place, "" if key == "." else key)

    def __str__(self) -> str:
        return f"{self.place.address}/{self.key}" if self.key else self.place.address

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def stat(self) -> Found:
        """Raises FileNotFoundError."""
        found = self.place.found(self.key)
        if found is None:
            raise FileNotFoundError(2, "no such object", str(self))
        return found

    def is_file(self) -> bool:
        return bool(self.key) and self.place.found(self.key) is not None

    def is_dir(self) -> bool:
        return self.place.is_folder(self.key)

    def is_dir_with_objects(self) -> bool:
        """Whether it is a folder with something in it, hidden objects too."""
        return any(self.place.names(self.key))

    def folders(self) -> list[ObjectPath]:
        """The folders in it that are not hidden, in order."""
        return [self / name for name in self.place.names(self.key)[1] if not name.startswith(".")]

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """For random access; a large object by ranges."""
        assert mode == "rb", "sources are only read"
        return self.place.open_parts(self.key, self.stat())


def object_path(text: str) -> ObjectPath:
    """The source ``text``: its object, or the folder that it names. Raises UserError where the store refuses."""
    return ObjectPath(*place_of(text))


def open_part(path: Path | ObjectPath, offset: int, size: int) -> BinaryIO:
    """A stream that begins at ``offset`` of a file and has ``size`` bytes, or more."""
    if isinstance(path, ObjectPath):
        return io.BytesIO(path.place.part(path.key, offset, offset + size, path.stat()))
    file = path.open("rb")
    file.seek(offset)
    return file


def for_arrow(path: Path | ObjectPath) -> Any:
    """What pyarrow opens."""
    if isinstance(path, ObjectPath):
        import pyarrow as pa

        return pa.PythonFile(path.open("rb"), mode="r")
    return str(path)


def folders_in(path: Path | ObjectPath) -> list[Path] | list[ObjectPath]:
    """The folders directly in ``path``, in order, without hidden and linked ones. Raises OSError."""
    if isinstance(path, ObjectPath):
        return path.folders()
    import os

    with os.scandir(path) as entries:
        found = sorted(e.path for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
    return [Path(each) for each in found]


def kept_beside(path: Path | ObjectPath, kind: str) -> Path | None:
    """Where what was made of an object is kept, for its next reader; None for a local file, which is as quickly read."""
    return path.place.kept(path.key, path.stat(), kind) if isinstance(path, ObjectPath) else None
