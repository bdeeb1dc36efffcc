"""Reads what others have put below an address of an object store: listed page by page, read in parts, never written.

A lake's own objects are read by :mod:`mmret.storage.objects`; these may have any names, be empty or change at any time. A listing
costs a request per 1000 objects, everything else one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from mmret.errors import UserError
from mmret.storage.addresses import ObjectAddress
from mmret.storage.objects import ObjectStorage
from mmret.storage.protocol import Entry, ObjectChanged
from mmret.storage.refusals import telling

_PAGE = 1000


class Part(NamedTuple):
    """The beginning of an object, or all of it, and what the store says of it."""

    entry: Entry
    data: bytes


class ObjectReader:
    """The objects below ``place``. Thread-safe. Raises UserError and StorageUnreachable as a storage does."""

    def __init__(self, place: ObjectAddress):
        self._storage = ObjectStorage(place)
        self.address = self._storage.address
        self.scratch = self._storage.scratch

    @property
    def _store(self) -> Any:
        return self._storage._store

    def entries(self) -> Iterator[Entry]:
        """All objects at any depth, hidden and empty ones too, in no order."""
        with telling(self.address):
            try:
                for page in self._store.list(chunk_size=_PAGE):
                    yield from map(_entry, page)
            except ValueError as error:
                if isinstance(error, UserError) or "pars" not in str(error):
                    raise
                said = str(error).partition("\n")[0]
                raise UserError(
                    f"{self.address} holds a key that the client of object stores cannot ask for ({said:.200}): copy it to another "
                    "name, without empty parts (//), . and .."
                ) from None

    def entry(self, key: str) -> Entry | None:
        """What the store says of one object; None where there is none, or none can have this name."""
        with telling(self.address):
            try:
                return _entry(self._store.head(key))
            except (FileNotFoundError, NotADirectoryError):
                return None
            except ValueError as error:
                if _is_name(error):
                    return None
                raise

    def start(self, key: str, size: int) -> Part:
        """At most the first ``size`` bytes of an object. Raises FileNotFoundError."""
        with telling(self.address):
            try:
                found = self._store.get(key)
            except ValueError as error:
                if _is_name(error):
                    raise FileNotFoundError(2, "no object can have this name", key) from None
                raise
            entry = _entry(found.meta)
            if entry.size <= size:
                return Part(entry, bytes(found.bytes()))
            return Part(entry, self.part(key, 0, size, entry.token))

    def part(self, key: str, start: int, end: int, token: str | None = None) -> bytes:
        """Bytes ``start`` to ``end``, fewer at the object's end. Raises ObjectChanged where the content is not ``token``'s."""
        from obstore.exceptions import PreconditionError

        if end <= start:
            return b""
        options: dict[str, Any] = {"range": (start, end)} | ({"if_match": token} if token else {})
        with telling(self.address):
            try:
                return bytes(self._store.get(key, options=options).bytes())
            except PreconditionError:
                raise ObjectChanged(f"{self.address}/{key} was replaced while it was read: read it again") from None


def time_of(entry: Entry) -> int:
    """Nanoseconds since 1970 that change with the content: the second of the last change, and digits of its ETag below that.

    Stores tell times to the second only, so two contents of one size and second would look alike without.
    """
    digits = int.from_bytes(hashlib.blake2b((entry.token or "").encode(), digest_size=8).digest(), "big") % 10**9
    return entry.modified_ns // 10**9 * 10**9 + digits


def _entry(found: Any) -> Entry:
    return Entry(found["path"], found["size"], int(found["last_modified"].timestamp() * 1e9), found["e_tag"])


def _is_name(error: ValueError) -> bool:
    """Whether the store's library refuses the name itself."""
    return not isinstance(error, UserError) and "pars" in str(error)
