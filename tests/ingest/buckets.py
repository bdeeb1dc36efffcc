"""Buckets for tests that need no server: obstore's own store over local folders, with what it is asked for counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mmret.storage import StorageUnreachable


class Buckets:
    """``s3://NAME/...`` is the folder ``root/NAME/...``. ``asked`` counts requests by verb, ``read`` bytes by key; after
    ``dead_after`` reads (None: never) the store does not answer any more, or raises another ``failure``."""

    def __init__(self, root: Path):
        self.root = root
        self.asked: Counter[str] = Counter()
        self.read: Counter[str] = Counter()
        self.dead_after: int | None = None
        self.failure: Exception = StorageUnreachable("the store cannot be reached")

    def folder(self, address: str) -> Path:
        return self.root / address.removeprefix("s3://")


class _Store:
    def __init__(self, buckets: Buckets, store: Any):
        self._buckets, self._store = buckets, store

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self._store, verb)

        def counted(*given: Any, **named: Any) -> Any:
            buckets = self._buckets
            buckets.asked[verb] += 1
            if verb == "get" and buckets.dead_after is not None and buckets.asked["get"] > buckets.dead_after:
                raise buckets.failure
            found = call(*given, **named)
            if verb == "get":
                start, end = found.range
                buckets.read[given[0]] += end - start
            return found

        return counted


def open_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Buckets:
    """Make every address of an object store one of a bucket in ``tmp_path``; skips where obstore is not installed."""
    stores = pytest.importorskip("obstore.store")
    from mmret.storage.objects import ObjectStorage

    made = Buckets(tmp_path / "buckets")

    def opened(storage: ObjectStorage, seconds: float) -> _Store:
        return _Store(made, stores.LocalStore(made.folder(storage.address), mkdir=True))

    monkeypatch.setattr(ObjectStorage, "_opened", opened)
    monkeypatch.setenv("MMRET_SCRATCH", str(tmp_path / "scratch"))
    return made
