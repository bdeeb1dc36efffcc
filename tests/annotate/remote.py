"""A storage that behaves as an object store does to the answers (no locks, copies in a scratch folder), in a local folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa

from mmret.storage.local import LocalStorage
from mmret.storage.protocol import Entry


class Remote(LocalStorage):
    """Counts what it is asked. ``scratch`` is of this machine."""

    is_local = False

    def __init__(self, root: Path, scratch: Path):
        super().__init__(root)
        self.scratch = scratch
        self.asked: Counter[str] = Counter()

    def read(self, key: str) -> bytes:
        self.asked["read"] += 1
        return super().read(key)

    def open(self, key: str) -> pa.NativeFile:
        self.asked["open"] += 1
        return super().open(key)

    def list(self, prefix: str = "", below: bool = True) -> list[Entry]:
        self.asked["list"] += 1
        return super().list(prefix, below)
