"""The interface of every kind of source: it lists rows without reading a picture, and opens the file of a row."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Protocol

from mmret.ingest.addresses import is_address
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.remarks import Remarks
from mmret.ingest.tables.caption_values import captions_in, is_missing, written_list
from mmret.ingest.tables.columns import CAPTION_COLUMNS, meaning, plain_name

IMAGE_SUFFIXES = (
    ".png",
    ".apng",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".gif",
    ".webp",
    ".avif",
    ".bmp",
    ".tif",
    ".tiff",
    ".jp2",
    ".j2k",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".ico",
    ".heic",
    ".heif",
    ".mpo",
    ".jxl",
)
"""Suffixes of files that count as pictures where there is no manifest. JPEG XL is listed although it is not decoded, so that such
files become rejects and do not go unnoticed."""

_LONGEST_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One picture of a source, or one line of its manifest that is no picture and has a ``reason``.

    ``size`` (bytes) and ``mtime_ns`` tell whether the content has to be hashed again; rows of a source without files have neither.
    """

    path: str
    caption: str | None = None
    licence: str | None = None
    source: str | None = None
    extra: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    reason: str | None = None
    detail: str | None = None

    def refuse(self, reason: str, detail: str) -> Row:
        return replace(self, reason=reason, detail=detail)


class Reader(Protocol):
    """Opens the pictures of one source. Thread-safe; never opens what lies outside the source."""

    def open(self, path: str) -> tuple[BinaryIO, int]:
        """The picture that a row calls ``path``: a stream at its first byte, and its length. Raises Unreadable."""


class Source(Reader, Protocol):
    """A reader that can also list its rows. ``root`` is the name of the source in the corpus manifest."""

    root: str
    remarks: Remarks
    """What was noticed in the listing that was begun last, and is no row; complete once it has ended."""

    def rows(self) -> Iterator[Row]:
        """All rows in a fixed order; a generator, so that memory does not grow with the source."""


def row_of_columns(columns: Mapping[str, Any]) -> Row:
    """A row from one record of a manifest; columns without a meaning here go to ``extra``.

    Raises Unreadable (``bad_manifest_row``) where there is no image path, or a value of a kind that cannot be read.
    """
    named = meaning(tuple(columns)).image
    if not named:
        raise Unreadable("bad_manifest_row", f"no image column: found {', '.join(map(str, columns)) or 'nothing'}")
    image = _image_of(columns, named)
    path = _path_in(columns[image])
    if not isinstance(path, str) or is_missing(path) or not encodable(path):
        raise Unreadable("bad_manifest_row", f"{image} is not a path: {repr(columns[image])[:100]}")
    return Row(path=path, **text_columns(columns, image))


def text_columns(columns: Mapping[str, Any], image: str | None = None) -> dict[str, str | None]:
    """caption, licence, source and extra of one record; ``image`` is the column that named the picture.

    The caption is the first that says something (:mod:`mmret.ingest.tables.caption_values`); several captions are all kept in
    extra. Raises Unreadable (``bad_manifest_row``) for a caption that holds no text of any kind.
    """
    means = meaning(tuple(columns))
    caption, licence = _first_given(columns, means.caption), _first(columns, means.licence)
    source = _first(columns, means.source)
    used = {image, licence, source}
    text: str | None = None
    kept: dict[str, Any] = {}
    if caption is not None:
        value = columns[caption]
        text = next(iter(captions_in(value)), None)
        if isinstance(value, str) and (listed := written_list(value)) is not None:
            kept = {caption: listed}
        elif isinstance(value, str | int | float | bytes) and not means.numbered:
            used.add(caption)
    rest = {str(name): value for name, value in columns.items() if name not in used} | kept
    return {
        "caption": text,
        "extra": to_json(rest) if rest else None,
        "licence": _as_text(columns, licence),
        "source": _as_text(columns, source),
    }


def clean_text(text: str | None) -> str | None:
    """NFC, one space between words, no control characters; None where nothing visible is left.

    Joiners and direction marks stay: emoji and Arabic or Indic scripts need them.
    """
    if not text:
        return None
    if text.isascii() and text.isprintable():  # nothing to normalise or take out
        return " ".join(text.split()) or None
    words = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode()).split()
    kept = "".join(c for c in " ".join(words) if c != "\ufeff" and unicodedata.category(c) != "Cc")
    kept = " ".join(kept.split())
    return kept if any(unicodedata.category(c)[0] not in "CZ" for c in kept) else None


def encodable(text: str) -> bool:
    """Whether ``text`` can be stored: no lone surrogate (a file name that is not UTF-8) and no NUL."""
    try:
        return "\0" not in text.encode().decode()
    except UnicodeEncodeError:
        return False


def to_json(value: Any) -> str:
    """Strict JSON of anything a manifest may hold: non-finite numbers become null, unknown kinds their text.

    Raises Unreadable (``bad_manifest_row``) where it is nested too deeply.
    """
    try:
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_shown)
        except ValueError:
            text = json.dumps(_finite(value), ensure_ascii=False, default=_shown)
    except RecursionError:
        raise Unreadable("bad_manifest_row", "nested too deeply") from None
    return text.encode("utf-8", "replace").decode()


def _shown(value: Any) -> str:
    """A value that JSON does not have as text; a picture or a vector as bytes by its length only."""
    return f"{len(value)} bytes" if isinstance(value, bytes) and len(value) > _LONGEST_BYTES else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _image_of(columns: Mapping[str, Any], named: tuple[str, ...]) -> str:
    """The first of ``named`` that is given; where that is an address or a number, another that is the name of a picture's file."""
    first = next((name for name in named if not is_missing(columns[name])), named[0])
    value = str(columns[first])
    if len(named) == 1 or not (is_address(value) or value.strip().isdigit()):
        return first
    names = (
        n for n in named if isinstance(v := columns[n], str) and v.strip().lower().endswith(IMAGE_SUFFIXES) and not is_address(v)
    )
    return next(names, first)


def _path_in(value: Any) -> Any:
    """The path that a cell holds: itself, bytes of text, the only one of a list, or that of a picture without its bytes."""
    if isinstance(value, list | tuple) and len(value) == 1:
        return _path_in(value[0])
    if isinstance(value, Mapping) and not value.get("bytes"):
        return next((value[name] for name in ("path", "file_name", "filename") if value.get(name)), None)
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _first(columns: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if columns.get(name) is not None), None)


def is_title_of_file(column: str, value: Any) -> bool:
    """Whether a column that other programs write (``title``) holds the picture's file name, which is no caption."""
    if plain_name(column) in CAPTION_COLUMNS or not isinstance(value, str):
        return False
    return len(value.split()) == 1 and value.strip().lower().endswith(IMAGE_SUFFIXES)


def _first_given(columns: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first column with a caption in it; else the first that has an empty text."""
    given = (name for name in names if captions_in(columns[name]) and not is_title_of_file(name, columns[name]))
    return next(given, None) or next((name for name in names if isinstance(columns[name], str) and not columns[name].strip()), None)


def _as_text(columns: Mapping[str, Any], name: str | None) -> str | None:
    if name is None or is_missing(columns[name]):
        return None
    value = columns[name]
    return clean_text(value if isinstance(value, str) else to_json(value))
