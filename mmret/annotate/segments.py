"""The files in which answers lie: Arrow IPC, sorted by key, each written once under a random name and never changed.

In a local folder they are mapped as they lie. Of those in an object store a machine keeps copies in its scratch folder: of a large
one only the keys (16 bytes an answer), until one of its answers is wanted. So a look-up costs one listing and what is new since the
last. Copies of files that were merged away are dropped.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mmret.atomic import replacing
from mmret.errors import UserError
from mmret.storage import Entry, Storage
from mmret.threads import in_order

ANSWERS = pa.schema(
    [
        ("key", pa.binary(16)),
        ("written", pa.int64()),  # ns since 1970; of two answers to one key the later counts
        ("text", pa.large_string()),
        ("finish_reason", pa.string()),
        ("tokens_in", pa.int32()),
        ("tokens_out", pa.int32()),
        ("query_id", pa.string()),  # the pictures that the request was about; null in files of older lakes
        ("target_id", pa.string()),
    ]
)
ABOUT = ("query_id", "target_id")
_SMALL_BYTES = 2**20
"""A file in an object store is fetched whole up to this size; of a larger one the keys alone, while they are all that is needed."""
_FETCHES = 16
"""Files fetched at a time: a fetch is waiting for the network."""
_KEPT_S = 3600
"""How long the copy of a file that is gone stays: another process may just have made it."""


class Gone(Exception):
    """The file was merged away since it was listed."""


class Segment(NamedTuple):
    """One file: its key in the storage, and its size in bytes."""

    key: str
    size: int

    @property
    def rows(self) -> int:
        """Number of answers, by the file's name."""
        return int(self.key.rpartition("/")[2].partition("-")[0])


class Segments:
    """The files below ``folder`` of a local storage."""

    def __init__(self, storage: Storage, folder: str):
        self.storage, self.folder = storage, folder

    def kinds(self) -> list[str]:
        return self.storage.folders(self.folder)

    def of(self, kind: str) -> list[Segment]:
        """The files of a kind, in order of their names."""
        return [Segment(e.key, e.size) for e in self._listed(kind)]

    def keys(self, segment: Segment) -> np.ndarray:
        """The keys of its answers, sorted: (rows,) of 16 bytes. Raises Gone."""
        return keys_of(self.table(segment))

    def table(self, segment: Segment) -> pa.Table:
        """Its answers, mapped: rows of ANSWERS. Raises Gone, and UserError where the file is damaged."""
        return _mapped(Path(self.storage.shown(segment.key)), self.storage.shown(segment.key))

    def prepare(self, segments: Sequence[Segment]) -> None:
        """Fetch what a look at their keys needs."""

    def write(self, kind: str, table: pa.Table) -> Segment:
        """Store rows of ANSWERS, on disk when this returns."""
        key = self._name(kind, table)
        with self.storage.replacing(key) as aside:
            size = _write(aside, sorted_by_key(table), sync=True)
        return Segment(key, size)

    def delete(self, segments: Iterable[Segment]) -> None:
        self.storage.delete([segment.key for segment in segments])

    def _listed(self, kind: str) -> list[Entry]:
        return [e for e in self.storage.list(f"{self.folder}/{kind}", below=False) if e.key.endswith(".arrow")]

    def _name(self, kind: str, table: pa.Table) -> str:
        return f"{self.folder}/{kind}/{table.num_rows:09d}-{uuid.uuid4().hex[:16]}.arrow"


class CachedSegments(Segments):
    """Those in an object store, with copies in ``storage.scratch``."""

    def __init__(self, storage: Storage, folder: str):
        super().__init__(storage, folder)
        self._tidied: set[str] = set()

    def of(self, kind: str) -> list[Segment]:
        found = super().of(kind)
        if kind not in self._tidied:
            self._tidied.add(kind)
            self._drop_copies(kind, {Path(s.key).name for s in found})
        return found

    def keys(self, segment: Segment) -> np.ndarray:
        if segment.size <= _SMALL_BYTES or self._copy(segment).exists():
            return keys_of(self.table(segment))
        path = self._copy(segment).with_suffix(".keys")
        with suppress(FileNotFoundError):
            return np.fromfile(path, dtype="S16")
        try:
            with self.storage.open(segment.key) as file:
                only_keys = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=[0]))
                keys = keys_of(only_keys.read_all()).copy()
        except FileNotFoundError:
            raise Gone from None
        except pa.ArrowInvalid as error:
            raise _damaged(self.storage.shown(segment.key), error) from None
        with replacing(path) as aside:
            keys.tofile(aside)
        return keys

    def table(self, segment: Segment) -> pa.Table:
        path = self._copy(segment)
        with suppress(Gone, UserError):  # a copy that a crash of the machine has spoilt is fetched again
            return _mapped(path, str(path))
        try:
            data = self.storage.read(segment.key)
        except FileNotFoundError:
            raise Gone from None
        with replacing(path) as aside:
            aside.write_bytes(data)
        return _mapped(path, self.storage.shown(segment.key))

    def prepare(self, segments: Sequence[Segment]) -> None:
        wanted = [s for s in segments if not (self._copy(s).exists() or self._copy(s).with_suffix(".keys").exists())]
        if len(wanted) > 1:
            for _ in in_order(self._try_keys, wanted, _FETCHES):
                pass

    def write(self, kind: str, table: pa.Table) -> Segment:
        key = self._name(kind, table)
        with replacing(self._copy(Segment(key, 0))) as aside:
            size = _write(aside, sorted_by_key(table), sync=False)
            self.storage.write(key, aside.read_bytes())
        return Segment(key, size)

    def delete(self, segments: Iterable[Segment]) -> None:
        segments = list(segments)
        super().delete(segments)
        for segment in segments:
            self._copy(segment).unlink(missing_ok=True)
            self._copy(segment).with_suffix(".keys").unlink(missing_ok=True)

    def _try_keys(self, segment: Segment) -> None:
        with suppress(Gone):  # whoever wanted it lists again
            self.keys(segment)

    def _copy(self, segment: Segment) -> Path:
        return self.storage.scratch / segment.key

    def _drop_copies(self, kind: str, there: set[str]) -> None:
        folder = self.storage.scratch / self.folder / kind
        for path in [*folder.glob("[!.]*.arrow"), *folder.glob("[!.]*.keys")]:
            with suppress(FileNotFoundError):
                if path.with_suffix(".arrow").name not in there and time.time() - path.stat().st_mtime > _KEPT_S:
                    path.unlink()


def segments_of(storage: Storage, folder: str) -> Segments:
    """The files of answers below ``folder``."""
    return Segments(storage, folder) if storage.is_local else CachedSegments(storage, folder)


def sorted_by_key(table: pa.Table) -> pa.Table:
    """``table`` by key, of one key the latest first."""
    return table.sort_by([("key", "ascending"), ("written", "descending")]).combine_chunks()


def keys_of(table: pa.Table) -> np.ndarray:
    """The key column, (rows,) of 16 bytes, without a copy."""
    column = table.column("key").combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return np.frombuffer(column.buffers()[1], dtype="S16", count=len(column), offset=column.offset * 16)


def _write(path: Path, table: pa.Table, sync: bool) -> int:
    with path.open("wb") as file:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        file.flush()
        if sync:
            os.fsync(file.fileno())
        return file.tell()


def _mapped(path: Path, shown: str) -> pa.Table:
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
            for name in ABOUT if "query_id" not in table.schema.names else ():
                table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
            return table
    except FileNotFoundError:
        raise Gone from None
    except pa.ArrowInvalid as error:
        raise _damaged(shown, error) from None


def _damaged(shown: str, error: Exception) -> UserError:
    return UserError(f"{shown} is damaged ({error}); delete it: the answers it held will be asked for again")
