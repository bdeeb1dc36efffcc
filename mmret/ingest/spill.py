"""Sets and maps of a whole corpus that spill to a temporary file, so that memory stays flat however large it grows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

_CACHE_KIB = 32 * 1024


def temporary_database() -> sqlite3.Connection:
    """A private SQLite database that is deleted when closed; at most 32 MiB of it are held in memory."""
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE_KIB}", "locking_mode=EXCLUSIVE"):
        database.execute(f"PRAGMA {pragma}")
    database.execute("BEGIN")  # never committed: a transaction a statement would write its pages each time
    return database


class SpillMap:
    """A map of strings in which the first value of a key stays. ``items`` are loaded when the first key is asked for."""

    def __init__(self, items: Iterable[tuple[str, str]]):
        self._items: Iterable[tuple[str, str]] | None = items
        self._database = temporary_database()
        self._database.execute("CREATE TABLE items (item BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")

    def setdefault(self, item: str, value: str) -> str | None:
        """Add ``value`` for ``item`` unless there is one, which is then returned; else None."""
        self._load()
        key = _bytes(item)
        found = self._database.execute("SELECT value FROM items WHERE item = ?", (key,)).fetchone()
        if found is None:
            self._database.execute("INSERT INTO items VALUES (?, ?)", (key, _bytes(value)))
        return found and found[0].decode("utf-8", "surrogateescape")

    def get(self, item: str) -> str | None:
        """The value of ``item``, or None where there is none."""
        self._load()
        found = self._database.execute("SELECT value FROM items WHERE item = ?", (_bytes(item),)).fetchone()
        return found and found[0].decode("utf-8", "surrogateescape")

    def _load(self) -> None:
        if self._items is not None:
            pairs = ((_bytes(key), _bytes(first)) for key, first in self._items)
            self._database.executemany("INSERT OR IGNORE INTO items VALUES (?, ?)", pairs)
            self._items = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()


class SpillDict:
    """A map of strings to JSON values that can tell which of them were taken; some 100,000 additions a second."""

    def __init__(self) -> None:
        self._database = temporary_database()
        self._database.execute("CREATE TABLE items (at INTEGER PRIMARY KEY, item BLOB UNIQUE, value TEXT, taken INTEGER DEFAULT 0)")
        self.is_empty = True

    def put(self, item: str, value: object) -> None:
        """Keep ``value``, in place of the one that is there."""
        self._put("INSERT INTO items (item, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", item, value)

    def add(self, item: str, value: object) -> None:
        """Keep ``value`` unless there is one already."""
        self._put("INSERT OR IGNORE INTO items (item, value) VALUES (?, ?)", item, value)

    def get(self, item: str) -> Any:
        """The value, or None where there is none."""
        if self.is_empty:
            return None
        found = self._database.execute("SELECT value FROM items WHERE item = ?", (_bytes(item),)).fetchone()
        return found and json.loads(found[0])

    def take(self, item: str) -> Any:
        """The value, which now counts as taken, or None."""
        found = self._database.execute("UPDATE items SET taken = 1 WHERE item = ? RETURNING value", (_bytes(item),)).fetchall()
        return json.loads(found[0][0]) if found else None

    def left(self) -> tuple[int, str | None, Any]:
        """How many were never taken, and the first of them with its value."""
        count = self._database.execute("SELECT count(*) FROM items WHERE NOT taken").fetchone()[0]
        first = self._database.execute("SELECT item, value FROM items WHERE NOT taken ORDER BY at LIMIT 1").fetchone()
        return (count, bytes(first[0]).decode("utf-8", "surrogateescape"), json.loads(first[1])) if first else (0, None, None)

    def _put(self, statement: str, item: str, value: object) -> None:
        self._database.execute(statement, (_bytes(item), json.dumps(value, default=str)))
        self.is_empty = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()


def _bytes(item: str) -> bytes:
    return item.encode("utf-8", "surrogateescape")
