"""An object of an object store as a file for random access. It reads the ranges that are asked for, all of one content.

Opening reads the last 68 KB, where Parquet keeps what it is asked for first: one request instead of three.
"""

from __future__ import annotations

import io
from typing import Any

from mmret.storage.protocol import ObjectChanged
from mmret.storage.refusals import telling

_TAIL = 68 * 2**10  # DuckDB looks for a footer in the last 64 KB, from a multiple of 4 KB on


class Positioned(io.RawIOBase):
    """Where a reader stands in ``size`` bytes that others fetch for it."""

    def __init__(self, size: int):
        super().__init__()
        self._size, self._at = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at


class ObjectFile(Positioned):
    """Reading only. Raises FileNotFoundError where there is no object, ObjectChanged where it was replaced meanwhile."""

    def __init__(self, store: Any, key: str, address: str):
        with telling(address):
            meta, self._tail = meta_and_tail(store, key)
        super().__init__(meta["size"])
        self._store, self._key, self._address, self._token = store, key, address, meta["e_tag"]

    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        if end <= self._at:
            return b""
        kept = self._size - len(self._tail)
        data = self._tail[self._at - kept : end - kept] if self._at >= kept else self._fetch(self._at, end)
        self._at = end
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _fetch(self, start: int, end: int) -> bytes:
        with telling(self._address):
            return range_of(self._store, self._key, start, end, self._token, f"{self._address}/{self._key}")


def range_of(store: Any, key: str, start: int, end: int, token: str, shown: str) -> bytes:
    """Bytes ``start`` to ``end`` of the content that ``token`` names. Raises ObjectChanged where it was replaced."""
    from obstore.exceptions import PreconditionError

    try:
        return bytes(store.get(key, options={"range": (start, end), "if_match": token}).bytes())
    except PreconditionError:
        raise ObjectChanged(f"{shown} was replaced while it was read: read it again") from None


def meta_and_tail(store: Any, key: str) -> tuple[dict[str, Any], bytes]:
    """What the store tells of an object, and its last 68 KB."""
    from obstore.exceptions import NotSupportedError

    try:
        found = store.get(key, options={"range": {"suffix": _TAIL}})
        return found.meta, bytes(found.bytes())
    except NotSupportedError:  # Azure has no ranges from the end
        meta = store.head(key)
        found = store.get(key, options={"range": (max(0, meta["size"] - _TAIL), meta["size"]), "if_match": meta["e_tag"]})
        return meta, bytes(found.bytes())
