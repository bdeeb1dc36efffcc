"""The interface of every kind of source: it lists rows without reading a picture, and opens the file of a row."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Protocol

from mmret.ingest.decode import Unreadable
from mmret.ingest.remarks import Remarks

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

IMAGE_COLUMNS = ("image", "file_name", "path", "image_path")
CAPTION_COLUMNS = ("caption", "text")
LICENCE_COLUMNS = ("licence", "license", "item_licence")
SOURCE_COLUMNS = ("source", "url")


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
    image = _first(columns, IMAGE_COLUMNS)
    if image is None:
        raise Unreadable("bad_manifest_row", f"no image column: found {', '.join(map(str, columns)) or 'nothing'}")
    path = columns[image]
    if not isinstance(path, str) or not path.strip() or not encodable(path):
        raise Unreadable("bad_manifest_row", f"{image} is not a path: {repr(path)[:100]}")
    return Row(path=path, **text_columns(columns, image))


def text_columns(columns: Mapping[str, Any], image: str | None = None) -> dict[str, str | None]:
    """caption, licence, source and extra of one record; ``image`` is the column that named the picture.

    Raises Unreadable (``bad_manifest_row``) for a caption that is neither text, a number nor a list of texts.
    """
    caption, licence = _first(columns, CAPTION_COLUMNS), _first(columns, LICENCE_COLUMNS)
    source = _first(columns, SOURCE_COLUMNS)
    used = {image, licence, source}
    text = columns[caption] if caption else None
    if isinstance(text, list):  # several captions of one picture: the first is used, all are kept in extra
        text = next((t for t in text if isinstance(t, str) and t.strip()), None)
    else:
        used.add(caption)
    if isinstance(text, dict | bytes):
        raise Unreadable("bad_manifest_row", f"{caption} is not a text but a {type(text).__name__}")
    rest = {str(name): value for name, value in columns.items() if name not in used}
    return {
        "caption": None if text is None else str(text),
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
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
        except ValueError:
            text = json.dumps(_finite(value), ensure_ascii=False, default=str)
    except RecursionError:
        raise Unreadable("bad_manifest_row", "nested too deeply") from None
    return text.encode("utf-8", "replace").decode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _first(columns: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if columns.get(name) is not None), None)


def _as_text(columns: Mapping[str, Any], name: str | None) -> str | None:
    if name is None:
        return None
    value = columns[name]
    return clean_text(value if isinstance(value, str) else to_json(value))
