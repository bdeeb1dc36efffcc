"""Where the pictures and texts of a tar lie, found in one pass over its headers (about 50,000 members a second).

Reading goes on behind an end mark, as ``tar --ignore-zeros`` does, for tars are often joined with ``cat``; behind a damaged place
it goes on at the next header. What lies between is a remark with its place and length. Memory: flat, 32 MiB at most.
"""

from __future__ import annotations

import os
import posixpath
import sqlite3
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mmret.atomic import replacing
from mmret.ingest.folders.captions import LONGEST, text_name
from mmret.ingest.object_store.path import ObjectPath, kept_beside
from mmret.ingest.remarks import Remarks
from mmret.ingest.rows import IMAGE_SUFFIXES, encodable
from mmret.ingest.spill import temporary_database

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 2**20
_LONGEST_HEADER = 16 * 2**20
_MAGIC, _MAGIC_AT = b"ustar", 257
_LINKS = 8  # of a chain of links
_GROUP = 200  # members of one key; more share a beginning by chance
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_KEPT_S = 30 * 24 * 3600  # that an index which nobody uses is kept
_READ_ERRORS = (tarfile.TarError, OSError, EOFError, ValueError, RecursionError, OverflowError)


@dataclass(frozen=True, slots=True)
class Member:
    """A picture or a text of a tar: its bytes lie at ``offset``. With a ``reason`` it is a picture that cannot be taken."""

    name: str
    offset: int
    size: int
    reason: str | None = None
    detail: str | None = None
    text: bytes | None = None
    """What a text holds, where the tar is far away: reading it again would read all that lies between too."""


class TarIndex:
    """The members of one tar. Not for several threads at once."""

    def __init__(self, path: Path | ObjectPath):
        self.path = str(path)
        self.remarks = Remarks()
        self._name = path.name
        self._damaged = False
        self._keeps_texts = isinstance(path, ObjectPath)
        kept = kept_beside(path, "tar-index")
        if kept is not None and kept.is_file():
            self._open_kept(kept)
            return
        self._database = temporary_database()
        self._database.execute(
            "CREATE TABLE members (at INTEGER PRIMARY KEY, kind TEXT, name BLOB, plain BLOB, key BLOB, owner BLOB, "
            "offset INTEGER, size INTEGER, reason TEXT, detail BLOB, text BLOB)"
        )  # detail of a link is its target
        self._database.execute("CREATE INDEX by_name ON members (plain)")
        try:
            with path.open("rb") as file:
                self._scan(file)
        except OSError as error:
            self._refuse_rest(f"members from here on cannot be read: {error.strerror or error}")
            kept = None
        self._database.execute("CREATE INDEX by_key ON members (key)")
        self._database.execute("CREATE INDEX by_owner ON members (owner)")
        self._follow_links()
        if kept is not None:
            self._keep(kept)

    def _open_kept(self, kept: Path) -> None:
        os.utime(kept)
        self._database = sqlite3.connect(kept, isolation_level=None, check_same_thread=False)
        for remark in self._database.execute("SELECT remark, path, detail, count FROM remarks").fetchall():
            self.remarks.add(*remark)

    def _keep(self, kept: Path) -> None:
        self._database.execute("CREATE TABLE remarks (remark TEXT, path TEXT, detail TEXT, count INTEGER)")
        found = [(r.remark, r.path, r.detail, r.count) for r in self.remarks]
        self._database.executemany("INSERT INTO remarks VALUES (?, ?, ?, ?)", found)
        self._database.execute("COMMIT")
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as aside:
            self._database.execute("VACUUM INTO ?", (str(aside),))
        for other in kept.parent.glob(f"*{kept.suffix}"):
            with suppress(FileNotFoundError):
                if time.time() - other.stat().st_mtime > _KEPT_S:
                    other.unlink()

    def pictures(self) -> Iterator[Member]:
        """Every picture, and every place that cannot be read, in the order of the tar."""
        at = -1
        while found := self._rows("kind IN ('picture', 'refused') AND at > ? ORDER BY at LIMIT 1000", at):
            yield from (member for _, member in found)
            at = found[-1][0]

    def find(self, name: str) -> Member | None:
        """The picture called ``name``, as :meth:`pictures` calls it."""
        found = self._rows("plain = ? AND kind = 'picture' ORDER BY at", _bytes(posixpath.normpath(name)))
        return next((member for _, member in found if member.name == name), found[0][1] if found else None)

    def texts(self, picture: str) -> list[Member]:
        """The text members that belong to a picture: those of its own name first, then those of its key (WebDataset's samples).

        A text that is named after another picture of the same key is that one's. Of a text that repeats the last counts, as it does
        where members were appended; if the picture repeats too, tars were joined, and the first counts, as it does of pictures.
        """
        plain = posixpath.normpath(picture)
        own = (_bytes(plain), _bytes(posixpath.splitext(plain)[0]))
        named = self._rows("kind = 'text' AND owner IN (?, ?) ORDER BY owner != ?, at", *own, own[0])
        group = self._rows(f"key = ? ORDER BY at LIMIT {_GROUP + 1}", _bytes(key_of(plain)))
        of_key = []
        if len(group) <= _GROUP:
            others = {p for _, m in group if not text_name(m.name) for p in (m.name, posixpath.splitext(m.name)[0])}
            others = {posixpath.normpath(p) for p in others} - {key_of(plain)}
            texts = ((at, m, text_name(posixpath.normpath(m.name))) for at, m in group)
            of_key = [(at, m) for at, m, about in texts if about and about.owner not in others]
        order = reversed if self._repeats(plain) else iter
        found = {member.name: member for _, member in named}
        counted = {member.name: member for _, member in order([*named, *(m for m in of_key if m[1].name not in found)])}
        return [counted[name] for name in dict.fromkeys((*found, *(m.name for _, m in of_key)))]

    def repeated_texts(self) -> tuple[int, str | None]:
        """How many texts have the name of another text, one of which does not count, and the first of them."""
        query = (
            "FROM (SELECT name, count(*) - 1 AS more, min(at) AS at FROM members WHERE kind = 'text' GROUP BY name) WHERE more > 0"
        )
        count = self._database.execute(f"SELECT coalesce(sum(more), 0) {query}").fetchone()[0]
        first = self._database.execute(f"SELECT name {query} ORDER BY at LIMIT 1").fetchone()
        return count, first and _text(first[0])

    def _repeats(self, picture: str) -> bool:
        query = "SELECT 1 FROM members WHERE plain = ? AND reason = 'duplicate_name'"
        return self._database.execute(query, (_bytes(picture),)).fetchone() is not None

    def text_without_picture(self) -> tuple[int, str | None]:
        """How many texts have a key that no picture has, and the first of them."""
        query = (
            "FROM members t WHERE kind = 'text' AND NOT EXISTS "
            "(SELECT 1 FROM members p WHERE p.key = t.key AND p.kind IN ('picture', 'refused'))"
        )
        count = self._database.execute(f"SELECT count(*) {query}").fetchone()[0]
        first = self._database.execute(f"SELECT name {query} ORDER BY at LIMIT 1").fetchone()
        return count, first and _text(first[0])

    def close(self) -> None:
        self._database.close()

    def _rows(self, where: str, *values: object) -> list[tuple[int, Member]]:
        found = self._database.execute(f"SELECT at, name, offset, size, reason, detail, text FROM members WHERE {where}", values)
        return [
            (at, Member(_text(name), offset, size, reason, detail and _text(detail), text))
            for at, name, offset, size, reason, detail, text in found
        ]

    # -- the pass over the headers --------------------------------------------------------------------------------------

    def _scan(self, file: BinaryIO) -> None:
        length = file.seek(0, os.SEEK_END)
        at = 0
        while True:
            at, error = self._members_from(file, at, length)
            file.seek(at)
            block = file.read(_BLOCK)
            if error is None and block == bytes(_BLOCK):
                after = _skip_zeros(file, at, length)
                if after is None:
                    return
                if header_at(file, after):
                    self.remarks.add("joined_tars", None, f"members behind an end mark are read on, from byte {after}")
                    at = after
                    continue
                at, cause = after, "bytes behind the end mark are no members"
            else:
                cause = error or "cut or damaged before its end mark"
                kind = next((kind for magic, kind in _COMPRESSED.items() if at == 0 and block.startswith(magic)), None)
                self._refuse_rest(
                    f"{kind}-compressed: decompress it first" if kind else f"members from here on cannot be read: {cause}"
                )
                if kind:
                    return
            following = next_header(file, at + 1)
            end = length if following is None else following
            if end > at:
                go_on = "" if following is None else ", where members go on"
                self.remarks.add("unread_bytes_of_tar", None, f"{cause}: {end - at} bytes up to byte {end}{go_on}")
            if following is None:
                return
            at = following

    def _members_from(self, file: BinaryIO, start: int, length: int) -> tuple[int, str | None]:
        """Take the members from byte ``start`` on; returns where the first block that is no member begins, and what is wrong."""
        file.seek(start)
        at = start
        try:
            tar = tarfile.TarFile(fileobj=_Headers(file), mode="r")
            member = tar.next()
            while member is not None:
                if member.size < 0 or tar.offset <= at:
                    return at, "a member that ends before it begins"
                self._take(member, length, file)
                if tar.offset > length:
                    return length, "unexpected end of data"
                at = tar.offset
                tar.members = []  # tarfile would keep every header
                member = tar.next()
        except _READ_ERRORS as error:
            return at, str(error)
        return tar.offset, None

    def _take(self, member: tarfile.TarInfo, length: int, file: BinaryIO) -> None:
        name = member.name
        suffix = posixpath.splitext(name)[1].lower()
        if member.isdir():
            return
        if posixpath.basename(name).startswith("."):
            self.remarks.add("hidden", name, "hidden files are not read")
            return
        is_text = text_name(name) is not None
        if not is_text and suffix not in IMAGE_SUFFIXES:
            self.remarks.add("unknown_member", name, "neither a picture nor a text by its suffix")
            return
        plain = member.isreg() and not member.issparse()
        link = self._target(member)
        reason, detail = None, link
        if not encodable(name):
            name = os.fsencode(name).decode("utf-8", "backslashreplace")
            reason, detail = "bad_file_name", "the name is not UTF-8"
        elif is_outside(name):
            reason, detail = "unsafe_path", "the path leaves the tar"
        elif member.issym() or member.islnk():
            if link is None or is_outside(link):
                reason, detail = "unsafe_path", f"a link to {member.linkname}"
        elif not plain:
            reason, detail = "not_a_file", "a device or a sparse file"
        elif (beyond := member.offset_data + member.size - length) > 0:
            reason, detail = "unreadable", f"truncated: the tar ends {beyond} bytes early"
        elif not is_text and self._has_picture(name):
            reason, detail = "duplicate_name", "an earlier member of the tar has this name"
        if reason and is_text:
            self.remarks.add("unread_text", name, detail)
            return
        kind = "refused" if reason else "link" if link is not None else "text" if is_text else "picture"
        text = None
        if kind == "text" and self._keeps_texts and member.size <= LONGEST:
            file.seek(member.offset_data)
            text = file.read(member.size)
        self._insert(kind, name, member.offset_data, member.size, reason, detail, text)

    @staticmethod
    def _target(member: tarfile.TarInfo) -> str | None:
        """The member that a link points to, by its name in the tar."""
        if member.islnk():
            return member.linkname
        if member.issym():
            return posixpath.join(posixpath.dirname(member.name), member.linkname)
        return None

    def _follow_links(self) -> None:
        """Give every link the bytes of the member that it points to; what points to none is refused."""
        links = self._database.execute("SELECT at, name, detail FROM members WHERE kind = 'link'").fetchall()
        found: list[tuple[object, ...]] = []
        for at, name, target in links:
            place = self._place(_text(target), _LINKS)
            is_text = text_name(_text(name)) is not None
            if place is not None:
                found.append(("text" if is_text else "picture", *place, None, None, at))
            elif is_text:
                self.remarks.add("unread_text", _text(name), f"a link to {_text(target)}, which is no member")
                found.append(("gone", 0, 0, None, None, at))
            else:
                found.append(("refused", 0, 0, "unsafe_path", _bytes(f"a link to {_text(target)}"), at))
        update = "UPDATE members SET kind = ?, offset = ?, size = ?, reason = ?, detail = ? WHERE at = ?"
        self._database.executemany(update, found)

    def _place(self, target: str, left: int) -> tuple[int, int] | None:
        query = "SELECT kind, offset, size, detail FROM members WHERE plain = ? AND kind IN ('picture', 'text', 'link') LIMIT 1"
        found = self._database.execute(query, (_bytes(posixpath.normpath(target)),)).fetchone() if left else None
        if found is None:
            return None
        kind, offset, size, onward = found
        return self._place(_text(onward), left - 1) if kind == "link" else (offset, size)

    def _has_picture(self, name: str) -> bool:
        query = "SELECT 1 FROM members WHERE plain = ? AND name = ? AND kind = 'picture'"
        return self._database.execute(query, (_bytes(posixpath.normpath(name)), _bytes(name))).fetchone() is not None

    def _refuse_rest(self, detail: str) -> None:
        """One row says that the tar is damaged; where it is so in several places, the others are remarks."""
        if not self._damaged:
            self._insert("refused", self._name, 0, 0, "damaged_tar", detail)
        self._damaged = True

    def _insert(
        self, kind: str, name: str, offset: int, size: int, reason: str | None, detail: str | None, text: bytes | None = None
    ) -> None:
        plain = posixpath.normpath(name)
        about = text_name(plain)
        self._database.execute(
            "INSERT INTO members (kind, name, plain, key, owner, offset, size, reason, detail, text) VALUES (?,?,?,?,?,?,?,?,?,?)",
            (
                kind,
                _bytes(name),
                _bytes(plain),
                _bytes(key_of(plain)) if reason != "damaged_tar" else None,
                _bytes(about.owner) if about else None,
                offset,
                size,
                reason,
                None if detail is None else _bytes(detail),
                text,
            ),
        )


class _Headers:
    """A tar's file as tarfile reads it, with a limit on one read: a header of gigabytes is damage."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def key_of(name: str) -> str:
    """WebDataset's key of a member: its name up to the first dot of its last part."""
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.split(".", 1)[0])


def is_outside(path: str) -> bool:
    """Whether ``path`` is absolute (on any system) or climbs above where it starts."""
    if "\0" in path or path.startswith(("/", "\\")) or (path[1:2] == ":" and path[:1].isalpha() and path[2:3] in ("/", "\\")):
        return True
    plain = posixpath.normpath(path.replace("\\", "/"))
    return plain == ".." or plain.startswith("../")


def header_at(file: BinaryIO, offset: int) -> bool:
    """Whether a member's header with a right checksum begins at ``offset``."""
    file.seek(offset)
    try:
        tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def next_header(file: BinaryIO, start: int) -> int | None:
    """The offset of the first header from ``start`` on, by its magic and checksum; None where there is none."""
    at = start
    while True:
        file.seek(at + _MAGIC_AT)
        chunk = file.read(_CHUNK)
        found = chunk.find(_MAGIC)
        while found >= 0:
            if header_at(file, at + found):
                return at + found
            found = chunk.find(_MAGIC, found + 1)
        if len(chunk) < _CHUNK:
            return None
        at += _CHUNK - len(_MAGIC) + 1


def _skip_zeros(file: BinaryIO, start: int, length: int) -> int | None:
    """The offset of the block with the first byte from ``start`` on that is not zero; None where all are."""
    at = start
    while at < length:
        file.seek(at)
        chunk = file.read(_CHUNK)
        if not chunk:
            return None
        rest = chunk.lstrip(b"\0")
        if rest:
            return at + (len(chunk) - len(rest)) // _BLOCK * _BLOCK
        at += len(chunk)
    return None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return bytes(data).decode("utf-8", "surrogateescape")
