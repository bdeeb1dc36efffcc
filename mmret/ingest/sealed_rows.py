"""Answers, for sealing, which rows of the sources are sealed already and which pictures have become images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import pyarrow as pa

from mmret.ingest.rows import Row
from mmret.ingest.spill import temporary_database

COLUMNS = ("root", "path", "image_id", "size", "mtime_ns", "reason")


class SealedRows:
    """The rows of ``known`` (a table with ``COLUMNS``) and the images accepted since; a context manager.

    Rows are compared by (root, path, size, time, reason): if a missing caption or file has appeared since, that is a new row.
    Where only the time has changed, the content decides.
    """

    def __init__(self, known: pa.Table):
        self._database = temporary_database()
        self._database.execute("CREATE TABLE listed (key BLOB PRIMARY KEY, known INTEGER, seen INTEGER) WITHOUT ROWID")
        self._database.execute("CREATE TABLE content (key BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("CREATE TABLE accepted (image_id BLOB PRIMARY KEY, path TEXT) WITHOUT ROWID")
        for batch in known.select(COLUMNS).to_batches(max_chunksize=16_384):
            self._load(batch.to_pylist())

    def contains(self, root: str, row: Row) -> bool:
        """Whether the row is sealed already. A manifest may name a file several times: each call counts as one more of them."""
        known, seen = self._database.execute(
            "INSERT INTO listed VALUES (?, 0, 1) ON CONFLICT DO UPDATE SET seen = seen + 1 RETURNING known, seen",
            (_listed(root, row.path, row.size, row.mtime_ns, row.reason),),
        ).fetchone()
        return seen > 1 or known > 0 if _is_scene(root) else seen <= known

    def contains_content(self, root: str, row: Row, image_id: str | None) -> bool:
        """Whether a row that is new by size or time was sealed before with the same content."""
        key = _listed(root, row.path, row.size, row.mtime_ns, row.reason)
        if self._database.execute("SELECT 1 FROM listed WHERE key = ? AND known > 0", (key,)).fetchone():
            return False  # sealed as it is: this is one more mention of it
        content = _content(root, row.path, image_id, row.reason)
        return self._database.execute("SELECT 1 FROM content WHERE key = ?", (content,)).fetchone() is not None

    def accept(self, image_id: str, path: str) -> str | None:
        """Make ``path`` the image of this content, unless there is one: returns the path of that one, else None."""
        first = self._database.execute("SELECT path FROM accepted WHERE image_id = ?", (bytes.fromhex(image_id),)).fetchone()
        if first is None:
            self._database.execute("INSERT INTO accepted VALUES (?, ?)", (bytes.fromhex(image_id), path))
        return first and first[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()

    def _load(self, rows: list[dict]) -> None:
        self._database.executemany(
            "INSERT INTO listed VALUES (?, 1, 0) ON CONFLICT DO UPDATE SET known = known + 1",
            ((_listed(r["root"], r["path"], r["size"], r["mtime_ns"], r["reason"]),) for r in rows if r["reason"] != "unreadable"),
        )  # tried again, but sealed again only if it can be read now
        self._database.executemany(
            "INSERT OR IGNORE INTO content VALUES (?)",
            ((_content(r["root"], r["path"], r["image_id"], r["reason"]),) for r in rows),
        )
        self._database.executemany("INSERT OR IGNORE INTO accepted VALUES (?, ?)", _accepted(rows))


def _accepted(rows: list[dict]) -> Iterator[tuple[bytes, str]]:
    for row in rows:
        if row["reason"] is None:
            yield bytes.fromhex(row["image_id"]), row["path"]


def _listed(root: str, path: str, size: int | None, mtime_ns: int | None, reason: str | None) -> bytes:
    if _is_scene(root):
        root, size, mtime_ns = "shapes:", None, None
    return _key(root, path, size, mtime_ns, None if reason == "duplicate" else reason)


def _content(root: str, path: str, image_id: str | None, reason: str | None) -> bytes:
    return _key("shapes:" if _is_scene(root) else root, path, image_id, None if reason == "duplicate" else reason)


def _is_scene(root: str) -> bool:
    """Whether ``root`` is a built-in corpus: its scenes have no files and are the same rows whatever its size."""
    return root.startswith("shapes:")


def _key(*parts: object) -> bytes:
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).digest()
