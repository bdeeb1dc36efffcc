"""WebDataset tars: samples are files that share a key (the name up to its first dot), captions ``.txt`` or ``.json``.

A tar is indexed by one pass over its headers (about 50,000 members a second) and its pictures are then read where they
lie; nothing is unpacked. Memory: one small tuple a member of the tar at hand.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from mmret.ingest.decode import Unreadable
from mmret.ingest.remarks import Remarks
from mmret.ingest.rows import IMAGE_SUFFIXES, Row, encodable, text_columns

_CAPTION_BYTES = 2**20


@dataclass
class _Index:
    places: dict[str, tuple[int, int]] = field(default_factory=dict)  # image name: offset, size
    captions: dict[str, tuple[int, int]] = field(default_factory=dict)  # key + ".txt" or ".json": offset, size
    refused: dict[int, tuple[str, str, str]] = field(default_factory=dict)  # place in order: name, reason, detail
    order: list[str | None] = field(default_factory=list)  # image names; None: see refused


class TarSource:
    """One uncompressed tar. Row paths are member names; size is the member's, the time is the tar's."""

    def __init__(self, path: Path):
        self.root = str(path)
        self.remarks = Remarks()
        self._lock = threading.Lock()
        self._indexed: _Index | None = None

    def rows(self) -> Iterator[Row]:
        index = self._index()
        mtime_ns = os.stat(self.root).st_mtime_ns
        with open(self.root, "rb") as file:
            for at, name in enumerate(index.order):
                if name is None:
                    refused, reason, detail = index.refused[at]
                    yield Row(refused).refuse(reason, detail)
                    continue
                row = Row(name, size=index.places[name][1], mtime_ns=mtime_ns)
                try:
                    yield replace(row, **self._text_columns(file, index, _key(name)))
                except Unreadable as why:
                    yield row.refuse(why.reason, why.detail)

    def open(self, path: str) -> tuple[BinaryIO, int]:
        place = self._index().places.get(path)
        if place is None:
            raise Unreadable("missing_file", f"{os.path.basename(self.root)} has no such member")
        file = open(self.root, "rb")  # noqa: SIM115  closed by the caller
        file.seek(place[0])
        return file, place[1]

    def _text_columns(self, file: BinaryIO, index: _Index, key: str) -> dict[str, str | None]:
        columns: dict[str, Any] = {}
        if place := index.captions.get(key + ".json"):
            try:
                columns = json.loads(caption_text(_read(file, place)))
            except (ValueError, RecursionError) as error:
                raise Unreadable("bad_caption", f"{key}.json is not JSON: {error}") from None
            if not isinstance(columns, dict):
                raise Unreadable("bad_caption", f"{key}.json is not an object")
        if place := index.captions.get(key + ".txt"):
            columns = {**columns, "caption": caption_text(_read(file, place))}
        return text_columns(columns)

    def _index(self) -> _Index:
        with self._lock:
            if self._indexed is None:
                self._indexed = self._scan()
            return self._indexed

    def _scan(self) -> _Index:
        index = _Index()

        def refuse(name: str, reason: str, detail: str) -> None:
            index.refused[len(index.order)] = (name, reason, detail)
            index.order.append(None)

        try:
            with tarfile.open(self.root, "r:") as tar:
                for member in tar:
                    tar.members = []  # tarfile would keep every header
                    _take(index, member, refuse)
                tar.fileobj.seek(tar.offset)  # tarfile takes a damaged header for the end
                if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise EOFError("cut or damaged before its end mark")
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            refuse(os.path.basename(self.root), "damaged_tar", f"members from here on cannot be read: {error}")
        return index


def _take(index: _Index, member: tarfile.TarInfo, refuse: Any) -> None:
    name = member.name
    suffix = posixpath.splitext(name)[1].lower()
    if member.isdir() or posixpath.basename(name).startswith(".") or suffix not in (*IMAGE_SUFFIXES, ".txt", ".json"):
        return
    plain = member.isreg() and not member.issparse()
    if suffix in (".txt", ".json"):
        if plain and not is_outside(name):
            index.captions[_key(name) + suffix] = (member.offset_data, member.size)
    elif not encodable(name):
        refuse(os.fsencode(name).decode("utf-8", "backslashreplace"), "bad_file_name", "the name is not UTF-8")
    elif is_outside(name):
        refuse(name, "unsafe_path", "the path leaves the tar")
    elif member.issym() or member.islnk():
        refuse(name, "unsafe_path", f"a link to {member.linkname}")
    elif not plain:
        refuse(name, "not_a_file", "a device or a sparse file")
    elif name in index.places:
        refuse(name, "duplicate_name", "an earlier member of the tar has this name")
    else:
        index.places[name] = (member.offset_data, member.size)
        index.order.append(name)


def is_outside(path: str) -> bool:
    """Whether ``path`` is absolute (on any system) or climbs above where it starts."""
    if "\0" in path or path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", path):
        return True
    plain = posixpath.normpath(path.replace("\\", "/"))
    return plain == ".." or plain.startswith("../")


def caption_text(data: bytes) -> str:
    """The text of a caption file: UTF-8 with or without a byte-order mark. Raises Unreadable (``bad_caption``)."""
    if len(data) > _CAPTION_BYTES:
        raise Unreadable("bad_caption", f"more than {_CAPTION_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable("bad_caption", f"not UTF-8: {error.reason} at byte {error.start}") from None


def _read(file: BinaryIO, place: tuple[int, int]) -> bytes:
    file.seek(place[0])
    return file.read(min(place[1], _CAPTION_BYTES + 1))


def _key(name: str) -> str:
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.split(".", 1)[0])
