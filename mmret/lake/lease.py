"""The lease of a lake: one command at a time works on the whole of it, and whoever comes second is told who does and since when.

The lease is the kernel's lock (``flock``) on the open file ``<lake>/.run.lock``. The kernel drops it when its holder ends in
whatever way, so nothing is told from process ids, which another container or machine does not share. The file's text says who holds
it; text without a lock is what a killed or failed command left behind. Costs a few system calls.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO

from mmret.errors import UserError
from mmret.lake.data_sets import data_set
from mmret.lake.store import Lake


@dataclass(frozen=True)
class Lease:
    """The right to be the only one that works on ``lake``, from :func:`exclusive`; over at the end of its block.

    ``id`` is unique, also after a restart. ``unfinished``: the holder before this one crashed or was killed.
    """

    lake: Lake
    id: str
    unfinished: bool
    _lock: TextIO

    def recover(self) -> int:
        """After a killed run: remove temporary files, and Lance files that no version refers to. Returns how many files went.

        Lance cannot tell a file that a killed writer left from one that a writer is about to commit, so this is for the holder of
        the lease alone; RuntimeError once it is over. Old Lance versions stay, so readers are safe.
        """
        if self._lock.closed:
            raise RuntimeError("the lease is over: somebody else may be writing")
        removed = self.lake.sweep()
        for name in self.lake.lance_names():
            if not self.lake.has_lance(name):  # killed while the table was being created
                self.lake.drop_lance(name)
                removed += 1
                continue
            dataset = data_set(self.lake.lance(name))
            stats = dataset.cleanup_old_versions(older_than=timedelta(days=36500), delete_unverified=True)
            removed += stats.data_files_removed + stats.index_files_removed + stats.deletion_files_removed
        return removed


@contextmanager
def exclusive(lake: Lake, command: str = "mmret run") -> Iterator[Lease]:
    """Hold the lease of ``lake``, made where it does not exist, while the block runs. ``command`` is what others are told.

    Raises UserError saying who works on the lake and since when, where somebody does.

    >>> with exclusive(Lake("lakes/demo")) as lease:
    ...     if lease.unfinished:
    ...         lease.recover()
    """
    lake.root.mkdir(parents=True, exist_ok=True)
    with open(_path(lake), "a+", encoding="utf-8") as lock:
        _lock(lock, lake)
        lock.seek(0)
        lease = Lease(lake, uuid.uuid4().hex, lock.read() != "", lock)
        lock.truncate(0)
        holder = {
            "lease": lease.id,
            "command": command,
            "host": socket.gethostname(),
            "process": os.getpid(),  # for people; no code asks for it
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        lock.write(json.dumps(holder))
        lock.flush()
        yield lease
        lock.truncate(0)  # not after an error: what it left undone is the next holder's to recover


def is_leased(lake: Lake) -> bool:
    """Whether somebody holds the lease now; sensors and schedules leave the lake alone then. Asking blocks nobody."""
    try:
        with open(_path(lake), encoding="utf-8") as lock:
            if not lock.read():
                return False
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _path(lake: Lake) -> Path:
    return lake.root / ".run.lock"


def _lock(lock: TextIO, lake: Lake) -> None:
    """Lock the open file for this process alone. The shared lock of :func:`is_leased`, gone in a moment, is waited for."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        except OSError as error:
            raise UserError(f"the file system of {lake.root} has no locks ({error}), so two runs could not be kept apart") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # what :func:`is_leased` holds lets this through, a lease does not
        except BlockingIOError:
            lock.seek(0)
            raise UserError(f"another {_holder(lock.read())} is working on {lake.root}; wait for it or stop it") from None
        fcntl.flock(lock, fcntl.LOCK_UN)
        time.sleep(random.uniform(0, 0.002))  # two that start at once must not meet for ever


def _holder(text: str) -> str:
    """Who holds the lease, read from the lock file's text; older versions wrote a process id only."""
    try:
        holder = json.loads(text)
        return f"`{holder['command']}` (host {holder['host']}, process {holder['process']}, since {holder['since']})"
    except (ValueError, TypeError, KeyError):
        return "`mmret run`"
