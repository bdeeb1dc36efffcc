"""The Parquet files of a lake in an object store, as DuckDB reads them: by range, each range once per machine.

DuckDB's own extension for object stores has to be downloaded; a file system of Python's that it is given needs nothing, names the
files by the same addresses, and fetches with the credentials of the storage. What was read is kept in the lake's scratch folder:
footers in a file a table, ranges as they were asked for. Versions never change, so what is kept holds for good; it is removed a
week after it was read last. Cost: two requests a partition that is new since the last look, 32 at once; then a request a range.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from mmret.atomic import replacing, write_text
from mmret.errors import UserError
from mmret.lake import Lake, history
from mmret.lake.partitions import Facts, damaged, facts_in
from mmret.storage import Entry
from mmret.storage.objects import ObjectStorage
from mmret.warehouse.files import AT_ONCE, Keys, PartitionFile, entries

KEPT_FOR_S = 7 * 24 * 3600
"""How long ranges stay that nobody reads."""
_ALIGNED = 4096  # DuckDB reads in such steps; the footer that is kept begins where it looks for it
_FREE = 2 * 2**30  # bytes of the disk that are left to others


# -- footers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Footer:
    """What is kept of an object. ``version``: of a partition, the key in ``history/`` that has the same content."""

    token: str
    size: int
    modified_ns: int
    columns: list[str]
    facts: dict[str, Any]
    version: str = ""


class _Footers:
    """The footers of one table's objects, as this machine has read them."""

    def __init__(self, storage: ObjectStorage, table: str):
        self.storage, self.ranges = storage, Ranges(storage)
        self._place = storage.scratch / "footers" / f"{table}.json"
        self._known = self._read()
        self._asked: set[str] = set()
        self._new = False

    def _read(self) -> dict[str, _Footer]:
        try:
            return {key: _Footer(**footer) for key, footer in json.loads(self._place.read_text()).items()}
        except (OSError, ValueError, TypeError):  # none, or of another version of this file
            return {}

    def known(self, key: str, token: str | None = None) -> _Footer | None:
        """The footer of an object, if it is known; ``token``: of the content it must be of."""
        self._asked.add(key)
        found = self._known.get(key)
        return found if found is not None and token in (None, found.token) else None

    def read(self, key: str, version: str = "") -> _Footer:
        """Read a footer that is not known."""
        self._new = True
        entry, tail = self.storage.read_tail(key)
        columns, facts = _parsed(self.storage, entry, tail)
        self.ranges.keep_tail(entry, tail)
        self._known[key] = _Footer(entry.token, entry.size, entry.modified_ns, columns, asdict(facts), version)
        return self._known[key]

    def read_current(self, table: str, partition: str, key: str) -> _Footer:
        """Read the footer of a partition, and see that a version in ``history/`` has its content."""
        self._new = True
        entry, tail = self.storage.read_tail(key)
        columns, facts = _parsed(self.storage, entry, tail)
        version = history.version_key(table, partition, facts.written, facts.digest)
        token = self.storage.token(version)
        if token is None:  # of a table whose versions are made when they are needed
            self.storage.copy(key, version)
            found = self.read(version)
            facts, columns = Facts(**found.facts), found.columns  # it may have been replaced before it was copied
        else:
            self._known[version] = _Footer(token, entry.size, entry.modified_ns, columns, asdict(facts))
            self.ranges.keep_tail(entry._replace(key=version, token=token), tail)
        self._asked.add(version)
        self._known[key] = _Footer(entry.token, entry.size, entry.modified_ns, columns, asdict(facts), version)
        return self._known[key]

    def write(self) -> None:
        """Keep what was read; of what nobody asked for only as much again."""
        if not self._new:
            return
        others = [key for key in self._known if key not in self._asked][: len(self._asked) + 1000]
        kept = {key: asdict(self._known[key]) for key in (*self._asked, *others) if key in self._known}
        with suppress(OSError):  # a cache
            write_text(self._place, json.dumps(kept))


def _parsed(storage: ObjectStorage, entry: Entry, tail: bytes) -> tuple[list[str], Facts]:
    """Columns and facts of a Parquet file from its end; where the footer is longer than what was read, the file is opened."""
    try:
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if length <= len(tail) and tail[-4:] == b"PAR1":
            meta = pq.read_metadata(io.BytesIO(b"PAR1" + tail))
        else:
            with storage.open(entry.key) as file:
                meta = pq.read_metadata(file)
        return meta.schema.to_arrow_schema().names, facts_in(meta)
    except UserError:
        raise
    except ValueError as error:  # ArrowInvalid is one too
        raise UserError(damaged(storage, entry.key, error)) from None


def current_versions(lake: Lake, tables: Iterable[str]) -> dict[str, dict[str, str]]:
    """The key in ``history/`` of every partition's present content."""
    now = entries(lake, tables)
    footers = {table: _Footers(lake.storage, table) for table, parts in now.items() if parts}
    found: dict[str, dict[str, str]] = {table: {} for table in now}

    def look(table: str, partition: str, entry: Entry) -> tuple[str, str, str]:
        footer = footers[table].known(entry.key, entry.token) or footers[table].read_current(table, partition, entry.key)
        return table, partition, footer.version

    for table, partition, version in _all_at_once(look, ((t, p, e) for t, parts in now.items() for p, e in parts.items())):
        found[table][partition] = version
    for each in footers.values():
        each.write()
    Ranges(lake.storage).tidy()
    return {table: dict(sorted(parts.items())) for table, parts in found.items()}


def version_files(storage: ObjectStorage, keys: Keys) -> dict[str, dict[str, PartitionFile]]:
    """The files at ``keys``, which are versions: they never change."""
    footers = {table: _Footers(storage, table) for table, parts in keys.items() if parts}

    def look(table: str, partition: str, key: str) -> tuple[str, str, PartitionFile]:
        footer = footers[table].known(key) or footers[table].read(key)
        facts = Facts(**footer.facts)
        return table, partition, PartitionFile(storage.shown(key), facts, tuple(footer.columns), footer.size, footer.modified_ns)

    found: dict[str, dict[str, PartitionFile]] = {table: dict.fromkeys(parts) for table, parts in keys.items()}
    for table, partition, file in _all_at_once(look, ((t, p, k) for t, parts in keys.items() for p, k in parts.items())):
        found[table][partition] = file
    for each in footers.values():
        each.write()
    return found


def _all_at_once(look: Any, each: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(lambda arguments: look(*arguments), list(each))


# -- ranges -----------------------------------------------------------------------------------------------------------


class Ranges:
    """Ranges of objects as they were read, in the scratch folder: ``<object>-<content>/<start>-<end>``. Safe for threads and
    processes; a disk without room keeps none."""

    def __init__(self, storage: ObjectStorage):
        self.storage, self.folder = storage, storage.scratch / "ranges"

    def read(self, key: str, token: str, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``. Raises ObjectChanged where the object was replaced, FileNotFoundError where it is gone."""
        folder = self._folder(key, token)
        for kept in _names(folder):
            first, _, last = kept.partition("-")
            if int(first) <= start and end <= int(last):
                with suppress(OSError), open(folder / kept, "rb") as file:  # removed since
                    file.seek(start - int(first))
                    if len(data := file.read(end - start)) == end - start:
                        return data
        data = self.storage.read_range(key, start, end, token)
        self._keep(folder, start, data)
        return data

    def keep_tail(self, entry: Entry, tail: bytes) -> None:
        """Keep the end of an object that was read anyway, from where DuckDB begins to read it."""
        start = -(-(entry.size - len(tail)) // _ALIGNED) * _ALIGNED
        length = int.from_bytes(tail[-8:-4], "little") + 8
        footer = (entry.size - length) // _ALIGNED * _ALIGNED
        if start <= footer:
            self._keep(self._folder(entry.key, entry.token), start, tail[start - entry.size + len(tail) :])

    def _keep(self, folder: Path, start: int, data: bytes) -> None:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(folder).free > _FREE:
                with replacing(folder / f"{start}-{start + len(data)}") as aside:
                    aside.write_bytes(data)

    def _folder(self, key: str, token: str) -> Path:
        return self.folder / hashlib.sha256(f"{key}\0{token}".encode()).hexdigest()[:24]

    def tidy(self) -> None:
        """Remove what nobody has read for :data:`KEPT_FOR_S`; looks once a day."""
        mark = self.folder / ".tidied"
        with suppress(OSError):
            if not self.folder.is_dir() or mark.exists() and time.time() - mark.stat().st_mtime < 24 * 3600:
                return
            mark.touch()
            for folder in self.folder.iterdir():
                if folder.is_dir() and time.time() - max(f.stat().st_atime for f in (folder, *folder.iterdir())) > KEPT_FOR_S:
                    shutil.rmtree(folder, ignore_errors=True)


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


# -- what DuckDB is given ---------------------------------------------------------------------------------------------


class LakeFiles(AbstractFileSystem):
    """The objects of one lake to read, by their addresses: ``connection.register_filesystem(LakeFiles(storage))``.

    Addresses outside of the lake are not found.
    """

    cachable = False

    def __init__(self, storage: ObjectStorage):
        super().__init__()
        self.protocol = storage.address.partition("://")[0]
        self.storage, self.ranges = storage, Ranges(storage)
        self._footers: dict[str, _Footers] = {}
        self._lock = threading.Lock()

    def entry(self, path: str) -> Entry:
        """What is known of the object at address ``path``."""
        key = str(path).removeprefix(f"{self.storage.address}/")
        if key == str(path) or ".." in key.split("/"):
            raise FileNotFoundError(2, "SQL reads the objects of this lake only", str(path))
        folder, _, rest = key.partition("/")
        if folder != history.HISTORY:  # may be replaced at any time
            entry, tail = self.storage.read_tail(key)
            self.ranges.keep_tail(entry, tail)
            return entry
        table = rest.partition("/")[0]
        with self._lock:
            footers = self._footers.get(table) or self._footers.setdefault(table, _Footers(self.storage, table))
        found = footers.known(key) or footers.read(key)
        return Entry(key, found.size, found.modified_ns, found.token)

    def open(self, path: str, mode: str = "rb", **_: Any) -> ObjectReader:
        """The object, for reading."""
        if mode != "rb":
            raise PermissionError(13, "SQL writes nothing into the lake", str(path))
        return ObjectReader(self.ranges, self.entry(path))

    def size(self, path: str) -> int:
        """Bytes."""
        return self.entry(path).size

    def modified(self, path: str) -> datetime:
        """When the object was written, by the store's clock."""
        return datetime.fromtimestamp(self.entry(path).modified_ns / 1e9, UTC)

    def glob(self, path: str, **_: Any) -> list[str]:
        """The addresses that ``path``, which may be a pattern, fits."""
        plain = str(path)
        if not any(sign in plain for sign in "*?["):
            return [plain]
        prefix = plain[: min(plain.find(sign) for sign in "*?[" if sign in plain)].rpartition("/")[0]
        if not f"{prefix}/".startswith(f"{self.storage.address}/") or ".." in prefix.split("/"):
            return []
        found = self.storage.list(prefix.removeprefix(self.storage.address).strip("/"))
        return [shown for e in found if fnmatch.fnmatchcase(shown := self.storage.shown(e.key), plain)]


class ObjectReader:
    """One object as a file to read; DuckDB uses each in one thread at a time."""

    def __init__(self, ranges: Ranges, entry: Entry):
        self._ranges, self._object, self._at = ranges, entry, 0
        self.size = entry.size
        self.closed = False

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the object."""
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence])
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes, fewer at the end."""
        end = self.size if size < 0 else min(self.size, self._at + size)
        if end <= self._at:
            return b""
        data = self._ranges.read(self._object.key, self._object.token, self._at, end)
        self._at = end
        return data

    def close(self) -> None:
        """Nothing is held open."""
        self.closed = True
