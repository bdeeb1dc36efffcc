"""WebDataset tars: samples are files that share a key (the name up to its first dot), captions texts or JSON beside the picture.

A tar is indexed by one pass over its headers and its pictures are then read where they lie; nothing is unpacked.
:mod:`mmret.ingest.folders.captions` has the rule by which one of several texts is the caption.
"""

from __future__ import annotations

import os
import posixpath
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from mmret.ingest.folders.captions import LONGEST, TextFile, TextName, columns_of_texts, text_name
from mmret.ingest.folders.tar_index import Member, TarIndex, key_of
from mmret.ingest.object_store.path import ObjectPath, open_part
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.remarks import Note, Remarks
from mmret.ingest.rows import Row, text_columns

Described = Callable[[str], Mapping[str, Any] | None]
"""Function of a member's key that returns what a table beside the tar says of it."""


class TarSource:
    """One uncompressed tar. Row paths are member names; size is the member's, the time is the tar's. Thread-safe."""

    def __init__(self, path: Path | ObjectPath):
        self.root, self._path = str(path), path
        self.remarks = Remarks()
        self._lock = threading.Lock()
        self._indexed: TarIndex | None = None

    def rows(self) -> Iterator[Row]:
        self.remarks.clear()
        yield from self.list(self.remarks.add)

    def list(self, note: Note, described: Described = lambda key: None) -> Iterator[Row]:
        """The rows of the tar. A caption of ``described`` is used where the tar itself has none."""
        index = self._index()
        mtime_ns = self.time_ns()
        listed = 0
        with self._path.open("rb") as file:
            for listed, picture in enumerate(index.pictures(), 1):  # noqa: B007
                if picture.reason:
                    yield Row(picture.name).refuse(picture.reason, picture.detail or "")
                    continue
                row = Row(picture.name, size=picture.size, mtime_ns=mtime_ns)
                try:
                    yield replace(row, **self._text_columns(file, picture.name, described, note))
                except Unreadable as why:
                    yield row.refuse(why.reason, why.detail)
        for remark in index.remarks:
            note(remark.remark, remark.path, remark.detail, remark.count)
        count, first = index.text_without_picture()
        note("text_without_picture", first, "no picture of the tar has its key", count)
        count, first = index.repeated_texts()
        note("duplicate_text", first, "another text of the tar has this name: one of them counts", count)
        if not listed:
            note("tar_without_pictures", None, "none of its members is a picture")

    def open(self, path: str) -> tuple[BinaryIO, int]:
        index = self._index()
        with self._lock:
            found = index.find(path)
        if found is None:
            raise Unreadable("missing_file", f"{os.path.basename(self.root)} has no such member")
        return open_part(self._path, found.offset, found.size), found.size

    def size_of(self, path: str) -> int | None:
        """Size of the picture called ``path``, or None where the tar has none."""
        index = self._index()
        with self._lock:
            found = index.find(path)
        return found and found.size

    def time_ns(self) -> int:
        """Time of the tar's last change."""
        return self._path.stat().st_mtime_ns

    def _text_columns(self, file: BinaryIO, picture: str, described: Described, note: Note) -> dict[str, str | None]:
        plain = posixpath.normpath(picture)
        key = key_of(plain)
        with self._lock:
            members = self._index_made().texts(picture)
        texts = [TextFile(m.name, _about(m.name, plain), partial(_read, file, m)) for m in members]
        columns = {**(described(key) or {})}
        try:
            own = columns_of_texts(texts, note)
        except Unreadable as why:
            if not columns.get("caption"):
                raise
            note("unread_text", why.detail, "the table beside the tar has the caption")
            own = {}
        return text_columns(columns | {name: value for name, value in own.items() if value is not None})

    def _index(self) -> TarIndex:
        with self._lock:
            return self._index_made()

    def _index_made(self) -> TarIndex:
        if self._indexed is None:
            self._indexed = TarIndex(self._path)
        return self._indexed


def _about(name: str, picture: str) -> TextName:
    """What the text ``name`` is to ``picture``: a word between the key and the suffix is its label, as in ``000.ocr.txt``."""
    about = text_name(posixpath.normpath(name))
    assert about is not None
    key = key_of(picture)
    if about.label == "" and about.owner not in (picture, posixpath.splitext(picture)[0], key):
        return TextName(key, about.owner[len(key) + 1 :].lower())
    return about


def _read(file: BinaryIO, member: Member) -> bytes:
    if member.text is not None:
        return member.text
    file.seek(member.offset)
    return file.read(min(member.size, LONGEST + 1))
