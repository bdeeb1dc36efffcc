"""What readers of a folder ask of the files below it, wherever they lie: on this machine, or in an object store. Costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from mmret.ingest.folders.local_files import LocalFiles
from mmret.ingest.folders.object_files import ObjectFiles
from mmret.ingest.folders.walk import Directory
from mmret.ingest.object_store.path import ObjectPath
from mmret.ingest.remarks import Note


class State(Protocol):
    """Size in bytes of a file, and a number that changes with its content: the time of its last change, in ns."""

    @property
    def st_size(self) -> int: ...
    @property
    def st_mtime_ns(self) -> int: ...


class Files(Protocol):
    """The files below one folder, by relative POSIX paths. Reading is thread-safe."""

    def locate(self, path: str) -> tuple[str, State]:
        """What the file is called here (its real path, its key), and its state.

        Raises Unreadable: ``unsafe_path``, ``missing_file``, ``not_a_file`` or ``unreadable``.
        """

    def open(self, path: str) -> tuple[BinaryIO, int]:
        """A stream at the first byte, and the size. Raises as :meth:`locate` does."""

    def read(self, path: str, size: int) -> bytes:
        """At most the first ``size`` bytes of a text beside pictures. Raises Unreadable and OSError."""

    def at(self, real: str) -> Path | ObjectPath:
        """The file that :meth:`locate` calls ``real``."""

    def path(self, path: str) -> Path | ObjectPath:
        """The same of a path below the folder, which is not resolved."""

    def listed(self, real: str) -> str:
        """What :meth:`directories` calls the file that :meth:`locate` calls ``real``."""

    def below(self, path: Path | ObjectPath) -> str:
        """A path of :meth:`path` as text again."""

    def relative(self, path: str) -> str | None:
        """An absolute path, or an address, of a file as a path below the folder; None where it lies outside, or is neither."""

    def directories(self, note: Note) -> Iterator[Directory]:
        """Every directory below the folder."""

    def names(self, directory: str) -> list[str]:
        """Names of all that is directly in ``directory``, in order; none where it cannot be read."""

    def walk(self) -> Iterator[tuple[str, list[str]]]:
        """Directories that are not hidden and the names of their files, hidden ones too, in order."""


def files_below(root: Path | ObjectPath) -> Files:
    """The files below ``root``."""
    return ObjectFiles(root) if isinstance(root, ObjectPath) else LocalFiles(root)
