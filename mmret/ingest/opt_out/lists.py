"""Reads opt-out lists: text, CSV or TSV, JSON lines. A line that cannot be read stops everything, before anything is computed.

A text has one entry a line, ``#`` begins a comment. A table has columns ``image_id``, ``sha256``, ``md5``, ``url``, ``path`` or
``entry`` (any of them), and others that are not looked at. Cost: some microseconds a line.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmret.errors import UserError
from mmret.ingest.opt_out.entries import Entry, Kind, OptOuts, address
from mmret.ingest.rows import IMAGE_SUFFIXES
from mmret.ingest.tables.columns import plain_name
from mmret.paths import local_path

_SHOWN = 3
_LONGEST = 4096
_COLUMNS: dict[str, Kind | None] = {
    "image_id": "image_id",
    "sha256": "sha256",
    "md5": "md5",
    **dict.fromkeys(("url", "image_url", "source", "domain"), "url"),
    **dict.fromkeys(("path", "file_name", "file"), "path"),
    **dict.fromkeys(("entry", "pattern", "id"), None),
}
"""What a table's columns hold; None: anything that a line of a text may be."""
_HEX = re.compile(r"[0-9a-fA-F]{20,}")
_HOST = re.compile(r"(?:\*\.)?(?:[\w-]+\.)+[a-z]{2,}(?::\d+)?", re.IGNORECASE)
_PREFIXES: dict[str, Kind] = {"image_id": "image_id", "sha256": "sha256", "md5": "md5", "url": "url", "path": "path"}
_DIGITS = {"image_id": 32, "sha256": 64, "md5": 32}


class _BadLine(ValueError):
    """What is wrong with a line, for a person."""


def read_opt_outs(lists: Sequence[str]) -> OptOuts:
    """All entries of the files ``lists``. Raises UserError for a file that cannot be read, and for lines that cannot, all at once.

    >>> bool(read_opt_outs(profile.corpus.opt_out))
    """
    entries: list[Entry] = []
    bad: list[str] = []
    for name in lists:
        path = local_path(name, "corpus.opt_out:")
        for number, found in _lines(path):
            if isinstance(found, _BadLine):
                bad.append(f"{path.name} line {number}: {found}")
            else:
                entries += found
    if bad:
        more = f"; and {len(bad) - _SHOWN:,} more" if len(bad) > _SHOWN else ""
        raise UserError(
            f"opt-out list with {len(bad):,} lines that cannot be read: {'; '.join(bad[:_SHOWN])}{more}. Nothing was changed: "
            "mend them, or put # in front of what is to be a comment"
        )
    return OptOuts.of(entries)


def _lines(path: Path) -> Iterator[tuple[int, list[Entry] | _BadLine]]:
    if path.is_dir():
        raise UserError(f"corpus.opt_out: {path} is a folder; name the files in it")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"corpus.opt_out: there is no file {path}. Pictures that it opts out must not come back by accident: bring it back, "
            "or name the lists that count with --set 'corpus.opt_out=[...]'"
        ) from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        data = data.decode("utf-16", "replace").encode()
    elif b"\0" in data[:4096]:
        raise UserError(f"corpus.opt_out: {path} is no text; a list is text, CSV or JSON lines")
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        yield from _of_table(path, lines, "\t" if suffix == ".tsv" else ",")
        return
    read = _of_json if suffix in (".jsonl", ".ndjson", ".json") else _of_text
    for number, line in enumerate(lines, 1):
        yield number, _guarded(read, line)


def _guarded(read: Any, line: Any) -> list[Entry] | _BadLine:
    try:
        return list(read(_decoded(line) if isinstance(line, bytes) else line))
    except _BadLine as why:
        return why


def _decoded(line: bytes) -> str:
    try:
        return line.rstrip(b"\r").decode()
    except UnicodeDecodeError:
        raise _BadLine(f"is not UTF-8 ({line[:40]!r})") from None


def _of_text(line: str) -> Iterator[Entry]:
    text = re.sub(r"(^|\s)#.*", "", line).strip()
    if text:
        yield _entry(text)


def _of_json(line: str) -> Iterator[Entry]:
    if not line.strip() or line.lstrip().startswith("#"):
        return
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise _BadLine(f"is no JSON ({_short(line)}); a list in JSON has one object or text a line") from None
    yield from _of_record(found.items()) if isinstance(found, dict) else [_entry(_text_of(found))]


def _of_table(path: Path, lines: list[bytes], delimiter: str) -> Iterator[tuple[int, list[Entry] | _BadLine]]:
    header: list[str] | None = None
    for number, line in enumerate(lines, 1):
        try:
            text = _decoded(line)
            if not text.strip() or text.lstrip().startswith("#"):
                continue
            cells = next(csv.reader([text], delimiter=delimiter, strict=True))
        except (_BadLine, csv.Error) as why:
            yield number, _BadLine(str(why))
            continue
        if header is None:
            header = [plain_name(name) for name in cells]
            if not set(header) & set(_COLUMNS):
                raise UserError(
                    f"corpus.opt_out: {path} has no column of an opt-out list: found {', '.join(cells)[:200]}; it needs "
                    "image_id, sha256, md5, url, path or entry in its first line"
                )
            continue
        if len(cells) != len(header):
            yield number, _BadLine(f"has {len(cells)} cells and the first line {len(header)}")
            continue
        yield number, _guarded(_of_record, list(zip(header, cells, strict=True)))


def _of_record(cells: Iterable[tuple[str, Any]]) -> Iterator[Entry]:
    found = False
    for name, value in cells:
        if (column := plain_name(str(name))) in _COLUMNS and value not in (None, "") and (text := _text_of(value).strip()):
            yield _entry(text, _COLUMNS[column])
            found = True
    if not found:
        raise _BadLine("has none of image_id, sha256, md5, url, path, entry")


def _text_of(value: Any) -> str:
    if not isinstance(value, str):
        raise _BadLine(f"has {_short(json.dumps(value))} where a text is expected")
    return value


def _entry(text: str, kind: Kind | None = None) -> Entry:
    """The entry that ``text`` is. Raises _BadLine."""
    if len(text) > _LONGEST:
        raise _BadLine(f"has {len(text):,} signs; an entry is no longer than {_LONGEST:,}")
    if odd := next((c for c in text if unicodedata.category(c) == "Cc"), None):
        raise _BadLine(f"has a control character ({odd!r})")
    prefix, colon, rest = text.partition(":")
    if colon and prefix.lower() in _PREFIXES and not rest.startswith("//"):
        kind, text = _PREFIXES[prefix.lower()], rest.strip()
        if not text:
            raise _BadLine(f"has nothing behind {prefix}:")
        return Entry(kind, f"{kind}:{_checked(text, kind)}")
    kind = kind or _kind_of(text)
    if kind in ("image_id", "md5"):  # a bare text of 32 digits is either
        return Entry(kind, f"{kind}:{_checked(text, kind)}")
    return Entry(kind, _checked(text, kind))


def _kind_of(text: str) -> Kind:
    if text[0] in "{[\"'":
        raise _BadLine(f"is JSON or quoted ({_short(text)}): name the list .jsonl, or write the bare text")
    if _HEX.fullmatch(text):
        if (kind := {32: "digest", 64: "sha256"}.get(len(text))) is None:
            raise _BadLine(
                f"has {len(text)} hex digits: an image id or an MD5 has 32, a SHA-256 64 (a path of this name is written path:NAME)"
            )
        return kind
    if "://" in text:
        return "url"
    host = text.partition("/")[0]
    if _HOST.fullmatch(host) and not host.lower().endswith(IMAGE_SUFFIXES):
        return "place"
    return "path"


def _checked(text: str, kind: Kind) -> str:
    if digits := _DIGITS.get(kind):
        if not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", text):
            raise _BadLine(f"{_short(text)} is no {kind}: that is {digits} hex digits")
        return text.lower()
    if kind == "digest":
        return text.lower()
    if kind == "url":
        if re.search(r"\s", text):
            raise _BadLine(f"{_short(text)} has blanks inside an address")
        try:
            host = address(text)[0]
        except ValueError as why:
            raise _BadLine(f"{_short(text)} is no address ({why})") from None
        if not host or not re.fullmatch(r"(?:\*\.)?[\w.:\[\]-]+", host):
            raise _BadLine(f"{_short(text)} is no address: it names no host")
    if kind in ("path", "place"):
        if ".." in re.split(r"[/\\]", text):
            raise _BadLine(f"{_short(text)} leads out of its source with ..")
        if not re.sub(r"[*?/.\\\s]", "", text):
            raise _BadLine(f"{_short(text)} means every picture; to take a source out use --remove")
    return text


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
