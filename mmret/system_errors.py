"""What the operating system or an object store refused (a full disk, wrong credentials), as one sentence a person can act on.

Each library wraps such a refusal in an error of its own, so the errors behind an error are looked at, and where there is no
error number its words. Costs nothing until something fails. What is recognised here is no fault of the code; all else is, and
keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from mmret.storage import StorageUnreachable
from mmret.storage.refusals import explain_store, is_unreachable

_AGAIN = "; then give the same command again, it goes on from what is finished"
_REMEDIES = {
    errno.ENOSPC: f"the disk is full: free some space{_AGAIN}",
    errno.EDQUOT: f"the disk quota is used up: free some space or have it raised{_AGAIN}",
    errno.EFBIG: f"a file grew over the limit for files (`ulimit -f`): raise it{_AGAIN}",
    errno.EROFS: "the file system is read-only: mount it writable, or name another place",
    errno.EACCES: "permission denied: give this user the right, or name another place",
    errno.EPERM: "the operation is not permitted: give this user the right, or name another place",
    errno.EMFILE: f"too many open files: raise the limit, for example `ulimit -n 4096`{_AGAIN}",
    errno.ENFILE: f"too many open files on this machine: close some programs{_AGAIN}",
    errno.ENOMEM: f"out of memory: close other programs or work on less at a time{_AGAIN}",
    errno.ENAMETOOLONG: "the name is too long for this file system: use a shorter path",
    errno.ENOTDIR: "a file stands where a folder is expected: name another place, or move the file away",
    errno.EISDIR: "a folder stands where a file is expected: name another place, or move the folder away",
    errno.EEXIST: "something of that name stands there already: name another place, or move it away",
    errno.ELOOP: "the symbolic links lead in a circle: mend them",
    errno.EIO: "the disk reports an input/output error: look at the machine's log",
    errno.ESTALE: f"the network file system lost the file: mount it again{_AGAIN}",
    errno.ENOTCONN: f"the mounted file system is not connected: mount it again{_AGAIN}",
    errno.EXDEV: "one folder of the lake lies on another file system: keep a lake on one",
    errno.ENOENT: "no such file or folder",
    errno.ETXTBSY: f"the file is in use: wait for who uses it{_AGAIN}",
    errno.EBUSY: f"the file or folder is in use: wait for who uses it{_AGAIN}",
    errno.ENOSYS: "the file system does not offer what is needed: name a place on another",
    errno.EOPNOTSUPP: "the file system does not offer what is needed: name a place on another",
}
_TOLD_BY_NUMBER_ONLY = {errno.ENOENT, errno.EEXIST, errno.EXDEV, errno.EPERM, errno.ENOSYS, errno.EBUSY}
"""Too common as words in other messages; only an OSError with a file's name says them."""
_WORDS = [
    (r"database or disk is full|PytorchStreamWriter failed writing|unexpected pos \d+ vs|iostream error", _REMEDIES[errno.ENOSPC]),
    (r"disk I/O error", f"a database file could not be written: the disk is full, or broken. Free some space{_AGAIN}"),
    (r"attempt to write a readonly database", _REMEDIES[errno.EROFS]),
    (
        r"unable to open database file",
        "a database file cannot be opened: see that its folder may be written to, and that not too many files are open "
        "(`ulimit -n 4096`)",
    ),
    (
        r"database disk image is malformed|file is not a database",
        "a database file of Dagster's history is damaged: move the lake's folder .dagster (or DAGSTER_HOME) away; it holds the "
        "history of runs, no table",
    ),
    (r"database is locked", f"another program holds a database file locked: wait for it or end it{_AGAIN}"),
    (
        r"Out of Memory Error|failed to allocate|malloc of size .* failed|can't allocate memory|bad_alloc|Cannot allocate memory",
        _REMEDIES[errno.ENOMEM],
    ),
    *((rf"\(os error {number}\)|{re.escape(os.strerror(number))}", told)
      for number, told in _REMEDIES.items() if number not in _TOLD_BY_NUMBER_ONLY),
]  # fmt: skip


def explain(error: BaseException) -> str | None:
    """One sentence for an error behind which the system's refusal stands, None for any other.

    >>> explain(OSError(28, "No space left on device", "lake/pairs/x.parquet")).split(":")[:2]
    ['lake/pairs/x.parquet', ' the disk is full']
    """
    for each in _chain(error):
        if isinstance(each, StorageUnreachable):
            return str(each)
        if isinstance(each, OSError) and each.errno in _REMEDIES:
            named = [os.fsdecode(name) for name in (each.filename2, each.filename) if isinstance(name, str | bytes | os.PathLike)]
            number = errno.ENOTDIR if each.errno == errno.EEXIST and named and os.path.isfile(named[0]) else each.errno
            if named or number not in _TOLD_BY_NUMBER_ONLY:
                return f"{_shown(named[0])}: {_REMEDIES[number]}" if named else _told(_REMEDIES[number], str(each))
        elif isinstance(each, MemoryError):
            return _REMEDIES[errno.ENOMEM]
        elif said := explain_text(str(each)):
            return said
    return None


def explain_text(message: str) -> str | None:
    """The same of the words of an error that came from another process or language; the words stay in brackets."""
    if told := explain_store(message):
        return told
    for words, told in _WORDS:
        if re.search(words, message):
            return _told(told, message)
    return None


def may_pass(error: BaseException) -> bool:
    """Whether behind ``error`` stands an object store that does not answer, which it may do again by itself."""
    return any(isinstance(each, StorageUnreachable) or is_unreachable(str(each)) for each in _chain(error))


def _told(told: str, message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return f"{told} ({_shown(lines[0][:300])})" if lines else told


def _shown(text: str) -> str:
    """``text`` on one line, whatever bytes a file's name has."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n").replace("\r", "\\r")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and those behind it, each once, the outermost first."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        members = list(each.exceptions) if isinstance(each, BaseExceptionGroup) else []
        todo += [*members, None if each.__suppress_context__ else each.__context__, each.__cause__]
