"""Files and folders that appear whole or not at all: written beside their place under a temporary name, then renamed.

A reader sees the old one or the new one. While a file is being written its temporary name is locked (``flock``), and the kernel
drops the lock of a process that ends in whatever way; so what a crash left behind is told from what somebody is writing without
asking which processes there are, also across containers. On a file system without locks age decides. Costs three system calls.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TRIES = 5
ABANDONED_AFTER_S = 24 * 3600
"""On a file system without locks, a temporary file that was not written to for so many seconds counts as left behind."""


def temporary(path: Path) -> Path:
    """A hidden name beside ``path`` that nobody else has: ``.<name>.<12 hex digits>.tmp``."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def _is_no_place(path: Path) -> bool:
    """Whether ``path`` is a device or a pipe: it is written to, for a file that took its place would be the end of it."""
    return str(path.absolute()).startswith("/dev/") or path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give an empty file to write to; on leaving without an error it takes the place of ``path``, else it is removed.

    >>> with replacing(out) as aside:
    ...     pq.write_table(rows, aside)
    """
    if _is_no_place(path):
        with tempfile.TemporaryDirectory(prefix="mmret-") as folder:
            aside = Path(folder) / (path.name or "out")
            yield aside
            with aside.open("rb") as whole, open(path, "wb", buffering=0) as stream:
                shutil.copyfileobj(whole, stream)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = temporary(path)
    with _locked(aside, folder=False):
        try:
            yield aside
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same with an empty folder; an older ``path`` stays until the new one is whole."""
    remove_abandoned(path.parent.glob(f".{glob.escape(path.name)}.*.tmp"))
    old = temporary(path)
    with scratch_folder(path) as aside:
        try:
            yield aside
            for again in range(_TRIES):
                try:
                    if path.exists():
                        os.replace(path, old)
                    os.replace(aside, path)
                    break
                except OSError as error:  # another process has put its own there, or taken it away, in between
                    met = error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) and aside.exists()
                    if not met or again == _TRIES - 1:
                        raise
                    shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """An empty folder under a temporary name beside ``path``, removed at the end of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = temporary(path)
    with _locked(aside, folder=True):
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` whole or not at all."""
    with replacing(path) as aside:
        aside.write_text(text)


def remove_abandoned(paths: Iterator[Path]) -> int:
    """Remove those temporary files and folders that nobody is writing; how many. Safe beside other writers."""
    return sum(_remove_abandoned(path) for path in list(paths))


def _remove_abandoned(path: Path) -> bool:
    with lock_unless_used(path) as used:
        if used:
            return False
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        return True


@contextmanager
def lock_unless_used(path: Path) -> Iterator[bool]:
    """Lock the file or folder ``path`` for the block, unless it is in use: gives True if another holds it locked or it is gone.

    >>> with lock_unless_used(path) as used:
    ...     if not used:
    ...         path.unlink()
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        yield True
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            used = not _is_open_file(path, handle)
        except BlockingIOError:
            used = True
        except OSError:
            used = time.time() - os.fstat(handle).st_mtime < ABANDONED_AFTER_S
        yield used
    finally:
        os.close(handle)


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Make the empty file ``path`` and lock it; removed at the end of the block. A mark for others, who ask :func:`is_locked`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, folder=False):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_locked(mark: Path) -> bool:
    """Whether a mark of :func:`lock_file` is there and its process alive; the mark of a killed process is removed."""
    return mark.exists() and not _remove_abandoned(mark)


@contextmanager
def _locked(path: Path, folder: bool) -> Iterator[None]:
    """Make ``path`` and hold it locked; made again where a sweep took it between the two."""
    while True:
        if folder:
            path.mkdir(exist_ok=True)
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            break
        if _is_open_file(path, handle):
            break
        os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


def _is_open_file(path: Path, handle: int) -> bool:
    """Whether ``path`` is still what was opened: it may have been renamed or removed before it was locked."""
    try:
        return os.stat(path).st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False
