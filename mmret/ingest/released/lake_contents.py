"""Answers whether a lake has a picture, a path or a pair already, for an import into it. Spills to disk, so memory stays flat.

Filled from the lake's own tables on opening, about 300,000 rows a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from mmret.ingest.selection import DELETED, REPLACED
from mmret.ingest.spill import temporary_database
from mmret.lake import Lake


class LakeContents:
    """The contents of those partitions of a lake that were added to it; a context manager."""

    def __init__(self) -> None:
        self._database = temporary_database()
        for table in (
            "content (id BLOB PRIMARY KEY, licence TEXT)",
            "paths (key BLOB PRIMARY KEY, id BLOB)",
            "pairs (id BLOB PRIMARY KEY)",
        ):
            self._database.execute(f"CREATE TABLE {table} WITHOUT ROWID")

    def add_partition(self, lake: Lake, partition: str, root: str) -> None:
        """Add the pictures, paths below ``root`` and pairs of a partition that is complete."""
        images = lake.read("images", partition, ["image_id", "licence"]).to_pylist() if lake.facts("images", partition) else []
        self.add_pictures((row["image_id"], row["licence"]) for row in images)
        manifest = lake.read("corpus_manifest", partition, ["root", "path", "image_id", "reason"]).to_pylist()
        there = (row for row in manifest if row["root"] == root and row["reason"] not in (DELETED, REPLACED))
        self.add_paths(root, ((row["path"], row["image_id"]) for row in there))
        if lake.facts("pairs", partition) is not None:
            for pair in lake.read("pairs", partition, ["pair_id"])["pair_id"].to_pylist():
                self.add_pair(pair)

    def add_pictures(self, pictures: Iterable[tuple[str, str | None]]) -> None:
        """Add pictures that the lake has: (image_id, licence)."""
        self._database.executemany(
            "INSERT OR IGNORE INTO content VALUES (?, ?)", ((bytes.fromhex(i), text) for i, text in pictures)
        )

    def add_paths(self, root: str, paths: Iterable[tuple[str, str | None]]) -> None:
        """Add files below ``root`` that were looked at: (path, image_id), the id None if the file could not be read."""
        self._database.executemany(
            "INSERT OR REPLACE INTO paths VALUES (?, ?)",
            ((_key(root, path), image_id and bytes.fromhex(image_id)) for path, image_id in paths),
        )

    def add_pair(self, pair_id: str) -> bool:
        """Add a pair; returns whether it was new."""
        return self._database.execute("INSERT OR IGNORE INTO pairs VALUES (?)", (bytes.fromhex(pair_id),)).rowcount == 1

    def has_picture(self, image_id: str) -> bool:
        return self._database.execute("SELECT 1 FROM content WHERE id = ?", (bytes.fromhex(image_id),)).fetchone() is not None

    def has_path(self, root: str, path: str) -> bool:
        """Whether the file was looked at, even if it could not be read."""
        return self._database.execute("SELECT 1 FROM paths WHERE key = ?", (_key(root, path),)).fetchone() is not None

    def picture(self, root: str, path: str) -> tuple[str, str | None] | None:
        """Id and licence of the picture at ``path`` below ``root``; None if the lake does not have it."""
        found = self._database.execute(
            "SELECT content.id, licence FROM paths JOIN content ON content.id = paths.id WHERE key = ?", (_key(root, path),)
        ).fetchone()
        return found and (found[0].hex(), found[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()


def _key(root: str, path: str) -> bytes:
    return hashlib.blake2b(f"{root}\x1f{path}".encode(), digest_size=16).digest()
