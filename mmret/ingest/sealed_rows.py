"""Tells, for sealing, which rows of the sources are sealed already as they are, and which sealed rows no source lists any more.

Rows are compared by path, size, time and text, so neither their order nor the shard they lie in matters. Cost: some 10 µs a row
and 40 bytes on disk; memory stays flat. Which sealed rows were not listed costs a second pass over the manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from mmret.ingest.rows import Row
from mmret.ingest.selection import DELETED, LEFT_OUT, NO_CAPTION, REPLACED, SELECTION_REASONS
from mmret.ingest.spill import temporary_database
from mmret.lake import IMPORT_PREFIX

COLUMNS = (
    "shard",
    "position",
    "root",
    "path",
    "image_id",
    "size",
    "mtime_ns",
    "caption",
    "licence",
    "source",
    "extra",
    "reason",
    "detail",
)
"""The columns that are read of the corpus manifest."""
_BATCH_ROWS = 16_384

SealedRow = dict[str, Any]
"""One row of the corpus manifest, with ``COLUMNS``."""


class SealedRows:
    """What is sealed; a context manager. ``read`` returns the corpus manifest, table by table, anew at each call.

    >>> with SealedRows(lambda: (lake.read("corpus_manifest", shard) for shard in lake.shards())) as sealed:
    ...     new = [row for row in source.rows() if not sealed.contains(source.root, row)]
    """

    def __init__(self, read: Callable[[], Iterable[pa.Table]]):
        self._read = read
        self._database = temporary_database()
        self._database.execute("CREATE TABLE listed (key BLOB PRIMARY KEY, known INTEGER, seen INTEGER) WITHOUT ROWID")
        for table in ("unreadable", "imported"):
            self._database.execute(f"CREATE TABLE {table} (key BLOB PRIMARY KEY) WITHOUT ROWID")
        self._known: Counter[str] = Counter()
        self._used: Counter[str] = Counter()
        self._matched: Counter[str] = Counter()
        self._left_out: set[str] = set()
        for rows in self._batches():
            if rows[0]["shard"].startswith(IMPORT_PREFIX):
                self._load_imported(rows)
                continue
            counted = [row for row in rows if row["reason"] != "unreadable"]
            self._known.update(row["root"] for row in counted)
            usable = (row for row in counted if row["reason"] in SELECTION_REASONS and row["caption"] is not None)
            self._used.update(row["root"] for row in usable)
            self._left_out |= {row["root"] for row in rows if row["reason"] in (DELETED, REPLACED)}
            self._database.executemany(
                "INSERT OR IGNORE INTO unreadable VALUES (?)",
                ((_key(row["root"], row["path"]),) for row in rows if row["reason"] == "unreadable"),
            )
            self._database.executemany(
                "INSERT INTO listed VALUES (?, 1, 0) ON CONFLICT DO UPDATE SET known = known + 1",
                ((_sealed_key(row),) for row in counted),
            )

    def rows_of(self, root: str) -> int:
        """How many rows of the source are sealed; those that could not be read are tried again and do not count."""
        return self._known[root]

    def used_rows_of(self, root: str) -> int:
        """How many of them have a picture and a caption."""
        return self._used[root]

    def all_listed(self, root: str) -> bool:
        """Whether every sealed row of the source has been listed just as it is."""
        return self._matched[root] >= self._known[root]

    def needs_comparison(self, root: str) -> bool:
        """Whether sealed rows of the source were not listed as they are, or were although they had been left out."""
        return not self.all_listed(root) or root in self._left_out

    def was_unreadable(self, root: str, path: str) -> bool:
        """Whether the row was sealed as one that could not be read."""
        return self._has("unreadable", root, path)

    def was_imported(self, root: str, path: str, image_id: str | None) -> bool:
        """Whether the file, with this content, came into the lake with released triplets."""
        return self._has("imported", root, path, image_id)

    def contains(self, root: str, row: Row) -> bool:
        """Whether the row is sealed just as it is. A manifest may name a file several times: each call counts as one more."""
        known, seen = self._database.execute(
            "INSERT INTO listed VALUES (?, 0, 1) ON CONFLICT DO UPDATE SET seen = seen + 1 RETURNING known, seen",
            (_row_key(root, row),),
        ).fetchone()
        if is_scene(root):
            return seen > 1 or known > 0
        if seen <= known:
            self._matched[root] += 1
            return True
        return False

    def compared(self, roots: Iterable[str]) -> Iterator[tuple[SealedRow, bool]]:
        """Sealed rows of ``roots`` that need a decision, and whether each was listed just as it is: those that were not, and
        those that were although they had been left out. To be iterated once, after the sources were listed.
        """
        wanted = set(roots)
        for rows in self._batches():
            for row in rows:
                if row["root"] not in wanted or row["shard"].startswith(IMPORT_PREFIX):
                    continue
                seen = row["reason"] != "unreadable" and self._take(_sealed_key(row))
                if not seen or row["reason"] in (DELETED, REPLACED):
                    yield row, seen

    def _load_imported(self, rows: list[SealedRow]) -> None:
        """Pictures of released triplets: they are what the release says, whatever a folder says of the same files."""
        images = (row for row in rows if row["reason"] is None)
        self._database.executemany(
            "INSERT OR IGNORE INTO imported VALUES (?)", ((_key(r["root"], r["path"], r["image_id"]),) for r in images)
        )

    def _has(self, table: str, *parts: object) -> bool:
        return self._database.execute(f"SELECT 1 FROM {table} WHERE key = ?", (_key(*parts),)).fetchone() is not None

    def _take(self, key: bytes) -> bool:
        return self._database.execute("UPDATE listed SET seen = seen - 1 WHERE key = ? AND seen > 0", (key,)).rowcount > 0

    def _batches(self) -> Iterator[list[SealedRow]]:
        for table in self._read():
            for batch in table.select(COLUMNS).to_batches(max_chunksize=_BATCH_ROWS):
                if batch.num_rows:
                    yield batch.to_pylist()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()


def is_scene(root: str) -> bool:
    """Whether ``root`` is a built-in corpus: its scenes have no files and are the same rows whatever its size."""
    return root.startswith("shapes:")


def text_key(caption: str | None, licence: str | None, source: str | None, extra: str | None) -> bytes:
    """16 bytes that depend on the texts of a row; not on the order in which its other columns were written."""
    if extra is not None:
        with suppress(ValueError):
            extra = json.dumps(json.loads(extra), sort_keys=True)
    return _key(caption, licence, source, extra)


def _as_listed(row: SealedRow) -> str | None:
    """The reason with which a source lists a row that was sealed as it is now, or left out since."""
    reason = row["reason"]
    if row["image_id"] is not None and (reason in SELECTION_REASONS or reason in LEFT_OUT):
        return None if row["caption"] is not None else NO_CAPTION
    return reason


def _sealed_key(row: SealedRow) -> bytes:
    reason = _as_listed(row)
    if is_scene(row["root"]):
        return _key("shapes:", row["path"], reason)
    text = text_key(row["caption"], row["licence"], row["source"], row["extra"])
    return _key(row["root"], row["path"], row["size"], row["mtime_ns"], reason, text)


def _row_key(root: str, row: Row) -> bytes:
    if is_scene(root):
        return _key("shapes:", row.path, row.reason)
    text = text_key(row.caption, row.licence, row.source, row.extra)
    return _key(root, row.path, row.size, row.mtime_ns, row.reason, text)


def _key(*parts: object) -> bytes:
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
