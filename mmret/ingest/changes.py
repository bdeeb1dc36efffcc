"""Finds what became of sealed rows that a source no longer lists as they are: edited, renamed, given another picture, or gone.

Membership is sealed, texts are not. Of the rows that are listed differently those with the same path are compared first, then
those with the same content under another path; what is left of the listed rows is new, what is left of the sealed ones is missing.
Cost: nothing where every sealed row is listed as it is; otherwise one read of each file that was written to, and of new ones of the
very size of a picture that is missing. Memory stays flat: everything that waits lies in a temporary database.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

from mmret.curation.opted_out import OPTED_OUT
from mmret.ingest.object_store.read_ahead import reads_at_once
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.remarks import Remarks
from mmret.ingest.rows import Row
from mmret.ingest.sealed_rows import SealedRow, SealedRows, text_key
from mmret.ingest.selection import CAPTION_REMOVED, DELETED, LEFT_OUT, NO_CAPTION, REPLACED, SELECTION_REASONS
from mmret.ingest.spill import temporary_database
from mmret.lake.configuration import URL_LIST
from mmret.threads import in_order

_OPEN, _DONE, _OTHER_PICTURE, _MISSING = range(4)
"""States of a waiting row: undecided, decided, its path has another picture now, its file is not there."""
_CLOSED = ("damaged_tar", "unreadable", "unsafe_path", "not_a_file")
"""Reasons of listed rows below which others may lie unseen."""
_GONE = ("missing_file", "unsafe_path", "not_a_file")
"""Reasons of listed rows whose picture is not there."""
_LINES = "('bad_manifest_row', 'bad_address')"
"""Reasons of lines that are called by their number."""
_PAGE = 1000

Hashed = tuple[str | None, int | None, Unreadable | None]
"""Image id, size in bytes, and why the file cannot be read."""


class ListedRow(NamedTuple):
    """A row that is not sealed as it is listed, with what its file was found to hold if it was read already."""

    row: Row
    hashed: Hashed | None


@dataclass(frozen=True)
class _Sealed:
    """What a decision needs to know of a sealed row."""

    id: int
    path: str
    size: int | None
    mtime_ns: int | None
    image_id: str | None
    reason: str | None
    text: bytes
    captioned: int

    @property
    def is_live(self) -> bool:
        return self.reason in SELECTION_REASONS and self.image_id is not None

    def takes(self, row: Row) -> bool:
        """Whether ``row``, of the same content, can be this one."""
        return self.image_id is not None


class Changes:
    """Collects listed rows that are not sealed as they are, then decides about them; a context manager.

    >>> changes.wait(root, row)  # for every row that is not sealed as it is listed
    >>> changes.decide(root, sealed, hash_file, remarks, forget_missing=False)
    >>> for shard, fields in changes.updates(): ...
    >>> new = list(changes.new_rows(root))
    """

    def __init__(self) -> None:
        self._database = temporary_database()
        for table in (
            "listed (id INTEGER PRIMARY KEY, root TEXT, path TEXT, size INTEGER, kind TEXT, row BLOB, image_id TEXT, failure BLOB, "
            "state INTEGER)",
            "sealed (id INTEGER PRIMARY KEY, root TEXT, path TEXT, size INTEGER, mtime_ns INTEGER, image_id TEXT, reason TEXT, "
            "text BLOB, captioned INTEGER, shard TEXT, position INTEGER, state INTEGER, successor TEXT)",
            "updates (shard TEXT, position INTEGER, fields BLOB, PRIMARY KEY (shard, position))",
            "closed (root TEXT, path TEXT, PRIMARY KEY (root, path))",
            "returned (root TEXT, path TEXT, PRIMARY KEY (root, path))",
        ):
            self._database.execute(f"CREATE TABLE {table}")

    def wait(self, root: str, row: Row) -> None:
        """Add a listed row."""
        kind = "picture" if row.reason in (None, NO_CAPTION) else row.reason
        self._run(
            "INSERT INTO listed VALUES (NULL, ?, ?, ?, ?, ?, NULL, NULL, 0)",
            root,
            _plain(row.path),
            row.size,
            kind,
            pickle.dumps(astuple(row)),
        )

    def note_closed(self, root: str, row: Row) -> None:
        """Note a listed row below which others may lie that were not listed: a damaged tar, a folder that cannot be entered."""
        if row.reason in _CLOSED:
            whole = row.reason == "damaged_tar" and root.endswith("/" + row.path)
            self._run("INSERT OR IGNORE INTO closed VALUES (?, ?)", root, "" if whole else _plain(row.path))

    def compare(self, sealed: SealedRows, roots: Iterable[str], remarks: dict[str, Remarks]) -> None:
        """Take in the sealed rows of ``roots`` that were not listed as they are."""
        for row, listed in sealed.compared(roots):
            if listed:
                self._update(row["shard"], row["position"], _returned())
                self._run("INSERT OR IGNORE INTO returned VALUES (?, ?)", row["root"], row["path"])
                remarks[row["root"]].add("returned", row["path"])
            else:
                self._run(
                    "INSERT INTO sealed VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, NULL)",
                    *(row[name] for name in ("root", "path", "size", "mtime_ns", "image_id", "reason")),
                    text_key(row["caption"], row["licence"], row["source"], row["extra"]),
                    row["caption"] is not None,
                    row["shard"],
                    row["position"],
                )
        for index in ("listed (root, path)", "sealed (root, path)", "sealed (root, size)"):
            self._database.execute(f"CREATE INDEX IF NOT EXISTS {index.translate(_NAME)} ON {index}")

    def decide(self, root: str, hash_file: Callable[[Row], Hashed], remarks: Remarks, forget_missing: bool) -> None:
        """Decide about the rows of a source; ``hash_file`` reads the file of a row. Call :meth:`compare` first."""
        self._match_unread(root, remarks)
        self._match_read(root, hash_file, remarks)
        self._match_fetched(root, hash_file, remarks)
        self._match_renamed(root, hash_file, remarks)
        self._match_lines(root)
        self._settle(root, remarks, forget_missing)

    def updates(self) -> Iterator[tuple[str, dict[int, dict[str, Any]]]]:
        """Sealed rows to be changed: shard, and by position the columns with their new values."""
        for (shard,) in self._run("SELECT DISTINCT shard FROM updates ORDER BY shard").fetchall():
            found = self._run("SELECT position, fields FROM updates WHERE shard = ?", shard)
            yield shard, {position: pickle.loads(fields) for position, fields in found}

    def new_rows(self, root: str) -> Iterator[ListedRow]:
        """The rows of a source that are to be sealed, in the order they were listed."""
        for id_ in self._ids("SELECT id FROM listed WHERE root = ? AND state = 0", root):
            yield self._listed(id_)

    # -- the decisions, in order -------------------------------------------------------------------------------------------

    def _match_unread(self, root: str, remarks: Remarks) -> None:
        """Rows with the path of a sealed one, as far as no file has to be read."""
        for id_ in self._ids(
            "SELECT id FROM listed l WHERE root = ? AND state = 0 AND EXISTS "
            "(SELECT 1 FROM sealed s WHERE s.root = l.root AND s.path = l.path AND s.state = 0)",
            root,
        ):
            row = self._listed(id_).row
            there = self._sealed("root = ? AND path = ? AND state = 0", root, _plain(row.path))
            live = _live(there)
            if row.reason in (None, NO_CAPTION):
                same = (s for s in there if (s.size, s.mtime_ns) == (row.size, row.mtime_ns) and s.takes(row))
                if found := next(same, None):
                    self._keep(root, found, id_, row, remarks)
            elif found := next((s for s in there if s.reason == row.reason), None):
                self._keep(root, found, id_, row, remarks)
            elif live is None:
                if row.reason in _GONE and any(s.reason in LEFT_OUT for s in there):
                    self._drop(id_)  # left out already
            elif row.reason == "too_many_bytes" and (live.size, live.mtime_ns) == (row.size, row.mtime_ns):
                self._drop(id_, live)  # the limit has changed, not the file: the pictures' own stage refuses it
            elif row.reason in ("zero_bytes", "too_many_bytes"):
                self._state(live.id, _OTHER_PICTURE, row.reason)
            elif row.reason in _GONE:
                self._drop(id_)
                self._state(live.id, _MISSING, f"{row.reason}: {row.detail}")
            else:
                self._drop(id_, live)
                remarks.add("kept_as_sealed", row.path, f"{row.reason}: {row.detail}")

    def _match_read(self, root: str, hash_file: Callable[[Row], Hashed], remarks: Remarks) -> None:
        """Rows with the path of a sealed one whose file was written to since."""
        changed = self._ids(
            "SELECT id FROM listed l WHERE root = ? AND state = 0 AND kind = 'picture' AND EXISTS (SELECT 1 FROM sealed s "
            "WHERE s.root = l.root AND s.path = l.path AND s.state = 0 AND s.image_id IS NOT NULL)",
            root,
        )
        for id_, row, (image_id, _, failure) in self._hashed(root, changed, hash_file):
            there = self._sealed("root = ? AND path = ? AND state = 0", root, _plain(row.path))
            same = next((s for s in there if s.image_id == image_id and s.takes(row)), None)
            live = _live(there)
            if failure is not None and live is not None:
                self._drop(id_, live)
                remarks.add("kept_as_sealed", row.path, str(failure))
            elif same is not None:
                self._keep(root, same, id_, row, remarks)
            elif live is not None:
                self._state(live.id, _OTHER_PICTURE, image_id)

    def _match_renamed(self, root: str, hash_file: Callable[[Row], Hashed], remarks: Remarks) -> None:
        """Rows with the content of a sealed one that is not listed under its own path any more."""
        moved = self._ids(
            "SELECT id FROM listed l WHERE root = ? AND state = 0 AND kind = 'picture' AND EXISTS (SELECT 1 FROM sealed s "
            "WHERE s.root = l.root AND s.size = l.size AND s.state != 1 AND s.image_id IS NOT NULL)",
            root,
        )
        for id_, row, (image_id, _, failure) in self._hashed(root, moved, hash_file):
            if failure is None:
                there = self._sealed("root = ? AND size = ? AND image_id = ? AND state != 1", root, row.size, image_id)
                there = sorted(there, key=lambda s: (s.reason is not None, s.id))
                if found := next((s for s in there if s.takes(row)), None):
                    self._keep(root, found, id_, row, remarks)

    def _match_lines(self, root: str) -> None:
        """Lines of a manifest that are no rows: they are called by their number, which changes when lines are added above."""
        for id_ in self._ids(f"SELECT id FROM listed WHERE root = ? AND state = 0 AND kind IN {_LINES}", root):
            row = self._listed(id_).row
            of_lines = "(reason = 'bad_manifest_row' OR path LIKE '%:%')"  # an address that was asked for has the path of a file
            for found in self._sealed(f"root = ? AND state = 0 AND reason = ? AND {of_lines} LIMIT 1", root, row.reason):
                self._change(found.id, {"path": row.path, "detail": row.detail})
                self._drop(id_, found)

    def _match_fetched(self, root: str, hash_file: Callable[[Row], Hashed], remarks: Remarks) -> None:
        """Addresses whose picture could not be fetched, or was not to be, and of which something else is known by now."""
        if not root.startswith(URL_LIST):
            return
        unread = "root = ? AND path = ? AND state = 0 AND image_id IS NULL"
        ids = self._ids(
            "SELECT id FROM listed l WHERE root = ? AND state = 0 AND EXISTS (SELECT 1 FROM sealed s "
            "WHERE s.root = l.root AND s.path = l.path AND s.state = 0 AND s.image_id IS NULL)",
            root,
        )
        for id_, row, (image_id, size, failure) in self._hashed(root, ids, hash_file):
            there = self._sealed(f"{unread} LIMIT 1", root, _plain(row.path))
            if failure is not None or not there:
                continue
            new = {name: getattr(row, name) for name in ("mtime_ns", "caption", "licence", "source", "extra")} | {"size": size}
            if row.reason in (None, NO_CAPTION):
                new |= {"image_id": image_id, **_returned()}
                remarks.add("returned", row.path)
            else:
                new |= {"reason": row.reason, "detail": row.detail and _plain(row.detail)}
            self._change(there[0].id, new)
            self._drop(id_, there[0])

    def _settle(self, root: str, remarks: Remarks, forget_missing: bool) -> None:
        """Sealed rows whose path has another picture, or which are gone."""
        for id_ in self._ids("SELECT id FROM sealed WHERE root = ? AND state != 1", root):
            (found,) = self._sealed("id = ?", id_)
            state, successor = self._run("SELECT state, successor FROM sealed WHERE id = ?", id_).fetchone()
            if not found.is_live or found.reason == OPTED_OUT:  # which says that the picture is out, wherever its file is
                continue
            if state == _OPEN and self._run("SELECT 1 FROM returned WHERE root = ? AND path = ?", root, found.path).fetchone():
                state, successor = _OTHER_PICTURE, "the one it was before"
            if state == _OTHER_PICTURE:
                self._change(id_, {"reason": REPLACED, "detail": f"its file changed; sealed again as {successor}"})
                remarks.add("replaced", found.path)
            elif self._is_closed(root, found.path):
                remarks.add("kept_as_sealed", found.path, "the folder or tar it lies in cannot be read to its end")
            elif forget_missing:
                why = f" ({successor})" if successor else ""
                self._change(id_, {"reason": DELETED, "detail": f"it is gone from {root}{why}"})
                remarks.add("deleted", found.path, successor)
            else:
                remarks.add("missing", found.path, successor)

    # -- what a decision writes --------------------------------------------------------------------------------------------

    def _keep(self, root: str, found: _Sealed, listed: int, row: Row, remarks: Remarks) -> None:
        """``row`` is the sealed row ``found``: note what is new of it."""
        new: dict[str, Any] = {}
        if row.path != found.path:
            new["path"] = row.path
            remarks.add("renamed", row.path, f"sealed as {found.path}")
        if (row.size, row.mtime_ns) != (found.size, found.mtime_ns):
            new |= {"size": row.size, "mtime_ns": row.mtime_ns}
        if text_key(row.caption, row.licence, row.source, row.extra) != found.text:
            new |= {"caption": row.caption, "licence": row.licence, "source": row.source, "extra": row.extra}
        lost = row.reason == NO_CAPTION and bool(found.captioned)
        still_lacking = row.reason == NO_CAPTION and found.reason == CAPTION_REMOVED
        if found.reason in LEFT_OUT and not lost and not still_lacking:
            new |= _returned()
            self._run("INSERT OR IGNORE INTO returned VALUES (?, ?)", root, _plain(row.path))
            remarks.add("returned", row.path)
        elif row.reason is None and not found.captioned and found.is_live:
            new |= _returned()
            remarks.add("caption_added", row.path, _short(row.caption))
        if lost:
            new |= {"reason": CAPTION_REMOVED, "detail": "it had a caption when it was sealed"}
            remarks.add("caption_removed", row.path)
        if new:
            self._change(found.id, new)
        self._drop(listed, found)

    def _drop(self, listed: int, found: _Sealed | None = None) -> None:
        self._run("UPDATE listed SET state = 1 WHERE id = ?", listed)
        if found is not None:
            self._state(found.id, _DONE)

    def _state(self, sealed: int, state: int, successor: str | None = None) -> None:
        self._run("UPDATE sealed SET state = ?, successor = ? WHERE id = ?", state, successor, sealed)

    def _change(self, sealed: int, fields: dict[str, Any]) -> None:
        self._update(*self._run("SELECT shard, position FROM sealed WHERE id = ?", sealed).fetchone(), fields)

    def _update(self, shard: str, position: int, fields: dict[str, Any]) -> None:
        self._run("INSERT OR REPLACE INTO updates VALUES (?, ?, ?)", shard, position, pickle.dumps(fields))

    # -- the database ------------------------------------------------------------------------------------------------------

    def _hashed(self, root: str, ids: Iterable[int], hash_file: Callable[[Row], Hashed]) -> Iterator[tuple[int, Row, Hashed]]:
        def read(of: tuple[int, ListedRow]) -> Hashed:
            return of[1].hashed or hash_file(of[1].row)

        waiting = ((id_, self._listed(id_)) for id_ in ids)
        for (id_, listed), hashed in in_order(read, waiting, reads_at_once(root)):
            if listed.hashed is None:
                failure = None if hashed[2] is None else pickle.dumps(hashed[2])
                self._run("UPDATE listed SET image_id = ?, failure = ? WHERE id = ?", hashed[0], failure, id_)
            yield id_, listed.row, hashed

    def _listed(self, id_: int) -> ListedRow:
        fields, image_id, failure, size = self._run("SELECT row, image_id, failure, size FROM listed WHERE id = ?", id_).fetchone()
        found = None if image_id is None and failure is None else (image_id, size, failure and pickle.loads(failure))
        return ListedRow(Row(*pickle.loads(fields)), found)

    def _sealed(self, where: str, *values: Any) -> list[_Sealed]:
        found = self._run(f"SELECT id, path, size, mtime_ns, image_id, reason, text, captioned FROM sealed WHERE {where}", *values)
        return [_Sealed(*fields) for fields in found]

    def _is_closed(self, root: str, path: str) -> bool:
        above = ["", *(path[:at] for at, c in enumerate(path) if c == "/")]
        listed = ", ".join("?" * len(above))
        return self._run(f"SELECT 1 FROM closed WHERE root = ? AND path IN ({listed})", root, *above).fetchone() is not None

    def _ids(self, query: str, *values: Any) -> Iterator[int]:
        """Ids that ``query`` finds, in order, page by page: what is decided meanwhile may change what it finds."""
        last = 0
        while page := self._run(f"{query} AND id > ? ORDER BY id LIMIT {_PAGE}", *values, last).fetchall():
            yield from (id_ for (id_,) in page)
            last = page[-1][0]

    def _run(self, query: str, *values: Any) -> Any:
        return self._database.execute(query, values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()


CHANGES = (
    "caption_added",
    "caption_edited",
    "licence_edited",
    "columns_edited",
    "caption_removed",
    "renamed",
    "replaced",
    "returned",
    "deleted",
)
"""Remarks that say that sealed rows have changed."""
_NAME = str.maketrans(" (),", "____")


def _live(there: Iterable[_Sealed]) -> _Sealed | None:
    """The row whose picture the path had: one that opted out may have had it before."""
    live = [sealed for sealed in there if sealed.is_live]
    return next((sealed for sealed in live if sealed.reason != OPTED_OUT), live[0] if live else None)


def _returned() -> dict[str, Any]:
    """A row that is used again is a copy at first: the selection makes it the image if no other row is."""
    return {"reason": "duplicate", "detail": "same content as another picture"}


def _plain(path: str) -> str:
    """``path`` as SQLite can hold it: names that are not UTF-8 are refused elsewhere."""
    return path.encode("utf-8", "backslashreplace").decode()


def _short(text: str | None) -> str:
    return "none" if text is None else text if len(text) <= 60 else text[:59] + "…"


def row_after(row: SealedRow, fields: dict[str, Any], remarks: Remarks) -> SealedRow:
    """``row`` with ``fields`` changed; counts what its texts have become."""
    for name, remark in (("caption", "caption_edited"), ("licence", "licence_edited")):
        if name in fields and fields[name] != row[name] and "reason" not in fields:
            remarks.add(remark, fields.get("path", row["path"]), f"{_short(row[name])} → {_short(fields[name])}")
    if any(name in fields and fields[name] != row[name] for name in ("source", "extra")):
        remarks.add("columns_edited", fields.get("path", row["path"]), None)
    return {**row, **fields}
