"""A storage in a local folder: keys are files, and every verb is a few system calls.

What two writers may meet on (:meth:`LocalStorage.swap`) is decided under a lock of the kernel, which a killed process loses.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mmret.atomic import is_locked, lock_file, remove_abandoned, replacing, replacing_folder, temporary
from mmret.paths import root_path
from mmret.storage.protocol import Entry, Token

if TYPE_CHECKING:
    import pyarrow as pa


class LocalStorage:
    """The folder ``root``, which is made by the first write. Methods as in :class:`mmret.storage.protocol.Storage`."""

    is_local = True

    def __init__(self, root: str | Path):
        self.root = root_path(root)
        self.address = str(self.root)
        self.scratch = self.root

    def __repr__(self) -> str:
        return f"LocalStorage({self.address!r})"

    def path(self, key: str) -> Path:
        """The file or folder of a key, whether it exists or not."""
        return self.root / key

    # -- objects ------------------------------------------------------------------------------------------------------

    def exists(self, key: str) -> bool:
        return self.path(key).is_file()

    def read(self, key: str) -> bytes:
        return self.path(key).read_bytes()

    def read_with_token(self, key: str) -> tuple[bytes | None, Token | None]:
        try:
            with open(self.path(key), "rb") as file:
                return file.read(), file_token(os.fstat(file.fileno()))
        except FileNotFoundError:
            return None, None

    def write(self, key: str, data: bytes) -> None:
        with replacing(self.path(key)) as aside:
            aside.write_bytes(data)

    def create(self, key: str, data: bytes) -> bool:
        return self.swap(key, data, None)

    def swap(self, key: str, data: bytes, token: Token | None) -> bool:
        with self._alone(key):
            if self.token(key) != token:
                return False
            self.write(key, data)
            return True

    def update(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        with self._alone(key):
            data = change(self.read_with_token(key)[0])
            self.write(key, data)
            return data

    def open(self, key: str) -> pa.NativeFile:
        import pyarrow as pa

        return pa.OSFile(str(self.path(key)))

    def token(self, key: str) -> Token | None:
        try:
            return file_token(os.stat(self.path(key)))
        except FileNotFoundError:
            return None

    def entry(self, key: str) -> Entry | None:
        try:
            status = os.stat(self.path(key))
        except FileNotFoundError:
            return None
        return Entry(key, status.st_size, status.st_mtime_ns, file_token(status))

    def is_same(self, key: str, other: str) -> bool | None:
        try:
            return os.path.samefile(self.path(key), self.path(other))
        except FileNotFoundError:
            return False

    def freed_by(self, key: str) -> int:
        status = os.stat(self.path(key))
        return status.st_size if status.st_nlink == 1 else 0

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.path(key).unlink(missing_ok=True)

    def link(self, source: str, target: str) -> None:
        """Give the file of ``source`` a second name, which must be new. Raises OSError on a file system without hard links."""
        path = self.path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(self.path(source), path)

    def copy(self, source: str, target: str) -> None:
        """Also a second name of the same file, where the file system has such."""
        path = self.path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = temporary(path)
        try:
            try:
                os.link(self.path(source), aside)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copy2(self.path(source), aside)  # replaced as a whole and never changed, so the copy is of one content
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)  # renaming one name of a file to another does nothing

    @contextmanager
    def replacing(self, key: str, version: str | None = None) -> Iterator[Path]:
        path = self.path(key)
        if version is None:
            with replacing(path) as aside:
                yield aside
            return
        waiting = temporary(self.path(version))
        try:
            with replacing(path) as aside:
                yield aside
                waiting.parent.mkdir(parents=True, exist_ok=True)
                with suppress(OSError):  # without hard links there is no version
                    os.link(aside, waiting)
            with suppress(FileNotFoundError):
                os.replace(waiting, self.path(version))
        finally:
            waiting.unlink(missing_ok=True)

    def local(self, key: str) -> Path:
        path = self.path(key)
        os.stat(path)  # FileNotFoundError
        return path

    # -- folders ------------------------------------------------------------------------------------------------------

    def list(self, prefix: str = "", below: bool = True) -> list[Entry]:
        found: list[Entry] = []
        folders = [prefix.strip("/")]
        while folders:
            folder = folders.pop()
            start = f"{folder}/" if folder else ""
            try:
                entries = list(os.scandir(self.path(folder)))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                name = entry.name
                if name[0] == ".":
                    continue
                if entry.is_dir():
                    folders += [start + name] if below else []
                    continue
                try:  # `suppress` would take as long as the call
                    status = entry.stat()
                except FileNotFoundError:  # removed since
                    continue
                found.append(Entry(start + name, status.st_size, status.st_mtime_ns, file_token(status)))
        return sorted(found)

    def names(self, prefix: str = "") -> list[str]:
        try:
            with os.scandir(self.path(prefix)) as entries:
                return sorted(entry.name for entry in entries if entry.name[0] != "." and not entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def tokens(self, prefix: str = "") -> dict[str, Token]:
        found: dict[str, Token] = {}
        try:
            folder = os.open(self.path(prefix), os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return found
        try:
            for name in os.listdir(folder):
                if name[0] == ".":
                    continue
                try:
                    status = os.stat(name, dir_fd=folder)
                except FileNotFoundError:  # removed since
                    continue
                if not stat.S_ISDIR(status.st_mode):
                    found[name] = file_token(status)
        finally:
            os.close(folder)
        return found

    def folders(self, prefix: str = "") -> list[str]:
        try:
            entries = list(os.scandir(self.path(prefix)))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))

    def delete_below(self, prefix: str) -> None:
        shutil.rmtree(self.path(prefix), ignore_errors=True)

    def replacing_folder(self, prefix: str) -> AbstractContextManager[Path]:
        return replacing_folder(self.path(prefix))

    def local_folder(self, prefix: str) -> Path:
        path = self.path(prefix)
        os.stat(path)
        return path

    def has_folder(self, prefix: str) -> bool:
        return self.path(prefix).is_dir()

    # -- writers ------------------------------------------------------------------------------------------------------

    def mark(self, key: str) -> AbstractContextManager[None]:
        return lock_file(self.path(key))

    def is_marked(self, key: str) -> bool:
        return is_locked(self.path(key))

    def sweep(self) -> int:
        return remove_abandoned(self.root.rglob(".*.tmp"))

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Hold the lock of ``key`` against others who swap or update it. Its file stays: removing it would let two in."""
        lock = self.path(key).with_name(f".{hashlib.sha256(key.encode()).hexdigest()[:12]}.lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with open(lock, "a") as handle:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    # -- others' engines ----------------------------------------------------------------------------------------------

    def lance_place(self, name: str = "") -> tuple[Path, None]:
        path = self.path("lance") / f"{name}.lance" if name else self.path("lance")
        return path, None

    def shown(self, key: str) -> str:
        return str(self.path(key))


def file_token(status: os.stat_result) -> Token:
    """Another text for every content that a file has had: its inode, time of change and size."""
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"
