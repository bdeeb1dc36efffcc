"""Object stores for tests that need no server: obstore's own store in memory, shared by all lakes of this process."""

from pathlib import Path
from typing import Any

import pytest

from mmret.storage.local import LocalStorage


def in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make every address of an object store one in memory, beginning empty; skips where obstore is not installed.

    Lance knows no such store: its tables lie in a local folder, and are listed and removed as if they were objects.
    """
    obstore = pytest.importorskip("obstore.store")
    from mmret.storage.objects import ObjectStorage

    stores: dict[str, Any] = {}

    def beside(storage: ObjectStorage) -> LocalStorage:
        return LocalStorage(tmp_path / "lance-of" / storage.scratch.name)

    def with_lance(name: str) -> None:
        verb = getattr(ObjectStorage, name)

        def chosen(storage: ObjectStorage, prefix: str = "", *given: Any, **named: Any) -> Any:
            if prefix.partition("/")[0] == "lance":
                return getattr(beside(storage), name)(prefix, *given, **named)
            return verb(storage, prefix, *given, **named)

        monkeypatch.setattr(ObjectStorage, name, chosen)

    for name in ("list", "folders", "delete_below"):
        with_lance(name)
    monkeypatch.setenv("MMRET_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(ObjectStorage, "_opened", lambda s, seconds: stores.setdefault(s.address, obstore.MemoryStore()))
    monkeypatch.setattr(ObjectStorage, "lance_place", lambda s, name="": (beside(s).lance_place(name)[0], None))
