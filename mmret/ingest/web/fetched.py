"""The folder of what was fetched for a table of addresses: beside the table, on this machine or in the table's own bucket.

In an object store it lies there so that every machine that works on the lake finds the pictures. They are fetched into a folder of
this machine first, a batch at a time, and put from there, many at once; the log is a segment a batch. Costs a request a picture
more, and one listing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

from mmret.atomic import remove_abandoned, replacing, scratch_folder
from mmret.errors import UserError
from mmret.hashing import content_id
from mmret.ingest.folders.folder import Folder
from mmret.ingest.object_store.lost import losing
from mmret.ingest.object_store.path import ObjectPath
from mmret.ingest.object_store.place import ObjectPlace
from mmret.ingest.object_store.read_ahead import AT_ONCE
from mmret.ingest.pictures.decode import Unreadable
from mmret.lake.configuration import URL_LIST
from mmret.storage import is_object_address, open_storage
from mmret.storage.addresses import object_address
from mmret.threads import in_order

_LOG = "failed.jsonl"
_SEGMENTS = "failed"


class Fetched(NamedTuple):
    """Size in bytes of a file that was fetched, and a number that changes with its content."""

    size: int
    time_ns: int


class FetchedFolder(Protocol):
    """Where pictures go and are looked up, by relative paths. ``reader`` opens them."""

    reader: Folder

    def make(self) -> None:
        """Raises UserError where it cannot be made."""

    def find(self, path: str) -> Fetched | None:
        """What is known of a file; None where it was not fetched."""

    def place_for(self, path: str) -> Path:
        """The file of this machine to fetch into; :meth:`publish` makes it known."""

    def publish(self) -> None:
        """Make known what was fetched since the last call."""

    def remove(self, path: str, image_id: str) -> bool:
        """Delete a file that was fetched, if it is there and holds this picture still."""

    def read_log(self) -> Iterator[str]:
        """Lines of the log of failures, oldest first."""

    def append_log(self, lines: list[str]) -> None: ...

    def replace_log(self, lines: Iterable[str]) -> None: ...

    def close(self) -> None: ...


def fetched_folder(root: str) -> FetchedFolder:
    """The folder of the source ``root`` (``urls:FILE``): ``FILE.pictures``."""
    address = f"{root.removeprefix(URL_LIST)}.pictures"
    return RemoteFolder(address) if is_object_address(address) else LocalFolder(Path(address))


class LocalFolder:
    """Methods as in :class:`FetchedFolder`."""

    def __init__(self, path: Path):
        self.path, self.reader = path, Folder(path)

    def make(self) -> None:
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}, where the pictures go, cannot be made: {error.strerror}") from None

    def find(self, path: str) -> Fetched | None:
        try:
            found = (self.path / path).stat()
        except FileNotFoundError:
            return None
        return Fetched(found.st_size, found.st_mtime_ns)

    def place_for(self, path: str) -> Path:
        return self.path / path

    def publish(self) -> None:
        pass

    def remove(self, path: str, image_id: str) -> bool:
        file = self.path / path
        if file.is_symlink() or not file.is_file() or content_id(file.read_bytes()) != image_id:
            return False
        file.unlink()
        return True

    def read_log(self) -> Iterator[str]:
        if (self.path / _LOG).is_file():
            with open(self.path / _LOG, encoding="utf-8", errors="replace") as log:
                yield from log

    def append_log(self, lines: list[str]) -> None:
        with open(self.path / _LOG, "a", encoding="utf-8") as log:
            log.writelines(lines)

    def replace_log(self, lines: Iterable[str]) -> None:
        with replacing(self.path / _LOG) as aside, open(aside, "w", encoding="utf-8") as log:
            log.writelines(lines)

    def close(self) -> None:
        pass


class RemoteFolder:
    """Methods as in :class:`FetchedFolder`."""

    def __init__(self, address: str):
        self._storage = open_storage(address)
        self._place = ObjectPlace(object_address(address))
        self.reader = Folder(ObjectPath(self._place))
        self._new: dict[str, Fetched] = {}
        self._open, self._aside = ExitStack(), None

    def make(self) -> None:
        if self._aside is None:
            waiting = self._storage.scratch / "fetched"
            remove_abandoned(waiting.glob(".*.tmp"))
            self._aside = self._open.enter_context(scratch_folder(waiting / "pictures"))
        self._place.list()

    def find(self, path: str) -> Fetched | None:
        if path in self._new:
            return self._new[path]
        found = self._place.found(path)
        return None if found is None else Fetched(found.st_size, found.st_mtime_ns)

    def place_for(self, path: str) -> Path:
        assert self._aside is not None
        return self._aside / path

    def publish(self) -> None:
        assert self._aside is not None
        files = [path for path in self._aside.rglob("*") if path.is_file() and not path.name.startswith(".")]
        with losing():
            for path, found in in_order(self._put, files, AT_ONCE):
                self._new[path.relative_to(self._aside).as_posix()] = found
                path.unlink()

    def remove(self, path: str, image_id: str) -> bool:
        with losing():
            data, _ = self._storage.read_with_token(path)
            if data is None or content_id(data) != image_id:
                return False
            self._storage.delete([path])
        return True

    def read_log(self) -> Iterator[str]:
        with losing():
            for entry in self._storage.list(_SEGMENTS):
                yield from self._storage.read(entry.key).decode("utf-8", "replace").splitlines(keepends=True)

    def append_log(self, lines: list[str]) -> None:
        with losing():
            self._storage.write(f"{_SEGMENTS}/{time.time_ns():020d}.jsonl", "".join(lines).encode())

    def replace_log(self, lines: Iterable[str]) -> None:
        with losing():
            before = [entry.key for entry in self._storage.list(_SEGMENTS)]
            self.append_log(list(lines))
            self._storage.delete(before)

    def close(self) -> None:
        self._open.close()
        self._aside = None

    def _put(self, path: Path) -> Fetched:
        assert self._aside is not None
        key = path.relative_to(self._aside).as_posix()
        self._storage.write(key, path.read_bytes())
        found = self._place.look_up(key)
        if found is None:
            raise Unreadable("missing_file", "it is gone again")
        return Fetched(found.st_size, found.st_mtime_ns)
