"""The objects of one source: a snapshot of their listing once it was asked for, and until then one look-up each.

Listing a source asks for each name several times and a manifest for each of its pictures, which would be a request each. Cost: a
request per 1000 objects, some 100,000 a second to take in; 32 MiB of memory, the rest in a temporary file.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mmret.ingest.object_store.lost import losing
from mmret.ingest.object_store.read_ahead import BLOCK, open_ahead
from mmret.ingest.spill import temporary_database
from mmret.storage.addresses import ObjectAddress, object_address
from mmret.storage.object_reader import ObjectReader, time_of
from mmret.storage.protocol import Entry

WHOLE = 8 * BLOCK
"""Bytes up to which an object is read in one request."""


class Found(NamedTuple):
    """What is known of an object, under the names that a file's state has."""

    st_size: int
    st_mtime_ns: int
    token: str


class ObjectPlace:
    """What lies below an address. Thread-safe."""

    def __init__(self, address: ObjectAddress):
        self.address = str(address)
        self._reader = ObjectReader(address)
        self._lock = threading.Lock()
        self._listing = None
        self._looked_up = lru_cache(maxsize=4096)(self._look_up)

    def list(self) -> None:
        """Take the snapshot, if there is none yet."""
        with self._lock:
            if self._listing is not None:
                return
            database = temporary_database()
            database.execute(
                "CREATE TABLE objects (folder TEXT, name TEXT, size INTEGER, time INTEGER, token TEXT, PRIMARY KEY (folder, name)) "
                "WITHOUT ROWID"
            )
            database.execute("CREATE TABLE folders (folder TEXT, name TEXT, PRIMARY KEY (folder, name)) WITHOUT ROWID")
            known: set[str] = set()
            with losing():
                for entry in self._reader.entries():
                    folder, name = posixpath.split(entry.key)
                    if name:
                        values = (folder, name, entry.size, time_of(entry), entry.token)
                        database.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", values)
                    if len(known) > 10_000:
                        known.clear()
                    while folder and folder not in known:
                        known.add(folder)
                        above, name = posixpath.split(folder)
                        database.execute("INSERT OR IGNORE INTO folders VALUES (?, ?)", (above, name))
                        folder = above
            # what consoles put for a folder
            database.execute(
                "DELETE FROM objects WHERE size = 0 AND EXISTS "
                "(SELECT 1 FROM folders f WHERE f.folder = objects.folder AND f.name = objects.name)"
            )
            self._listing = database

    def names(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of the objects and of the folders directly in ``folder``, in order, as the snapshot has them."""
        self.list()
        found = [
            [name for (name,) in self._ask(f"SELECT name FROM {table} WHERE folder = ? ORDER BY name", folder)]
            for table in ("objects", "folders")
        ]
        return found[0], found[1]

    def found(self, key: str) -> Found | None:
        """What is known of the object; None where there is none."""
        if self._listing is None:
            return self._looked_up(key)
        rows = self._ask("SELECT size, time, token FROM objects WHERE folder = ? AND name = ?", *posixpath.split(key))
        return Found(*rows[0]) if rows else None

    def is_folder(self, key: str) -> bool:
        """Whether objects lie below ``key``."""
        self.list()
        return not key or bool(self._ask("SELECT 1 FROM folders WHERE folder = ? AND name = ?", *posixpath.split(key)))

    def open(self, key: str, found: Found | None = None) -> tuple[BinaryIO, int]:
        """The object from its first byte on, and its size. Raises FileNotFoundError."""
        with losing():
            if found is not None and found.st_size > WHOLE:
                return self.open_parts(key, found), found.st_size
            entry, data = self._reader.start(key, WHOLE)
        if entry.size > WHOLE:
            return self.open_parts(key, _found(entry)), entry.size
        return io.BytesIO(data), entry.size

    def open_parts(self, key: str, found: Found) -> io.BufferedReader:
        """The object for random access."""
        return open_ahead(lambda start, end: self.part(key, start, end, found), found.st_size)

    def part(self, key: str, start: int, end: int, found: Found | None = None) -> bytes:
        """Bytes from ``start`` to ``end``, of the content that was ``found``."""
        with losing():
            return self._reader.part(key, start, end, found and found.token)

    def kept(self, key: str, found: Found, kind: str) -> Path:
        """Where this machine keeps what was made of this content of an object."""
        digest = hashlib.sha256(f"{key}\n{found.token}\n{found.st_size}".encode()).hexdigest()[:24]
        return self._reader.scratch / "sources" / f"{digest}.{kind}"

    def _look_up(self, key: str) -> Found | None:
        with losing():
            entry = self._reader.entry(key)
        return entry and _found(entry)

    def _ask(self, query: str, *values: str) -> list[tuple[object, ...]]:
        with self._lock:
            return self._listing.execute(query, [value.encode("utf-8", "replace").decode() for value in values]).fetchall()


def _found(entry: Entry) -> Found:
    return Found(entry.size, time_of(entry), entry.token)


def place_of(text: str) -> tuple[ObjectPlace, str]:
    """Where the source ``text`` lies: the place and the key of its object in it, "" where the address is one of a folder.

    Costs a request. Raises UserError for an address that is not understood or a store that refuses.
    """
    address = object_address(text, "the source")
    above, _, name = address.prefix.rpartition("/")
    if name:
        place = ObjectPlace(address._replace(prefix=above))
        found = place.found(name)
        if found is not None and found.st_size:
            return place, name
    return ObjectPlace(address), ""


def signature_of(text: str) -> str | None:
    """16 hex digits that change with the objects of a source; None where there are none. A request per 1000 objects."""
    from mmret.hashing import fingerprint

    place, key = place_of(text)
    if key:
        found = place.found(key)
        return found and fingerprint(found.st_size, found.st_mtime_ns)
    count = total = 0
    for entry in place._reader.entries():
        if any(part.startswith(".") for part in entry.key.split("/")):
            continue
        seen = hashlib.blake2b(f"{entry.key}\0{entry.size}\0{time_of(entry)}".encode(), digest_size=16).digest()
        count, total = count + 1, total + int.from_bytes(seen, "big")
    return fingerprint(count, total % 2**128) if count else None


def walked(place: ObjectPlace) -> Iterator[tuple[str, list[str], list[str]]]:
    """(folder, names of folders in it, names of objects), parents first; folders taken out of the list are not entered."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        names, inner = place.names(folder)
        yield folder, inner, names
        waiting += [posixpath.join(folder, name) for name in reversed(inner)]
