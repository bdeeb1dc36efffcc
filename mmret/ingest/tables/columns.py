"""The names that tables of pictures give their columns, and which of a table's columns are the picture, its caption and so on.

Names count in any case and with blanks or dashes for underscores. A table that has one of the project's own names
(``IMAGE_COLUMNS``, ``CAPTION_COLUMNS``) is read by these alone; only without them do the names of other tools count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

IMAGE_COLUMNS = ("image", "file_name", "path", "image_path")
CAPTION_COLUMNS = ("caption", "text")
LICENCE_COLUMNS = ("licence", "license", "item_licence")
SOURCE_COLUMNS = ("source", "url")

_OTHER_IMAGE = (
    *("filename", "filepath", "file_path", "image_file", "image_filename", "image_file_name", "image_name", "image_filepath"),
    *("img", "img_path", "img_name", "img_file", "img_filename", "imagepath", "imagefile", "imagename"),
)
_OTHER_CAPTION = (
    *("captions", "title", "sentence", "sentences", "description", "comment", "alt_text", "alttext", "alt"),
    *("raw_caption", "image_caption", "caption_text", "conversations", "messages"),
)
NAMES_IF_FILES = (
    *("image_id", "file", "name", "key", "id", "filenames", "photo", "images", "file_names"),
    *("index", "", "unnamed:_0", "__index_level_0__"),  # the index of a table of pandas
)
"""Columns that are the picture only where they hold names of picture files: numbers and keys are called so too."""
_ADDRESSES = ("url", "image_url", "img_url", "image_urls", "photo_url", "image_link", "urls")
_LANGUAGES = "en|eng|english|de|fr|es|it|pt|nl|pl|ru|uk|cs|sv|da|fi|no|tr|ar|he|fa|hi|zh|cn|ja|jp|ko|vi|th"
_DERIVED = re.compile(
    rf"(?!(?:has|is|no|n|num|nb|len|max|min|with|without)_)(?:[a-z0-9]+_)+captions?|(?:captions?|text|description|alt_text)_(?:{_LANGUAGES})"
)
"""``blip_caption``, ``caption_en``: captions where a table has no column that is simply called so."""
_ANSWERS = frozenset(("response", "answer", "answers", "completion", "output", "chosen", "reply", "target", "edited_image"))
"""Columns beside which a ``prompt`` is a question about the picture, not what it shows."""
_NUMBERED = re.compile(r"(?:captions?|sentences?|text|description)[_.]?\d+")


@dataclass(frozen=True)
class Meaning:
    """Columns of a table by what they mean, those of a kind in the order in which they are tried."""

    image: tuple[str, ...] = ()
    caption: tuple[str, ...] = ()
    licence: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    numbered: bool = False
    """Whether ``caption`` are several captions of one picture: ``caption_0`` ... ``caption_4``."""
    derived: bool = False
    """Whether ``caption`` are columns whose names merely speak of captions: ``blip_caption``, ``caption_en``, ``prompt``."""


@lru_cache(maxsize=256)
def meaning(columns: tuple[str, ...]) -> Meaning:
    """What the columns of a table mean.

    >>> meaning(("Image Path", "TEXT", "size"))
    Meaning(image=('Image Path',), caption=('TEXT',), licence=(), source=(), numbered=False, derived=False)
    """
    plain: dict[str, list[str]] = {}
    for column in columns:
        plain.setdefault(plain_name(column), []).append(column)

    def own_or(own: tuple[str, ...], other: tuple[str, ...] = ()) -> tuple[str, ...]:
        exact = tuple(name for name in own if name in columns)
        return exact or _pick(plain, own) or _pick(plain, other)

    caption = own_or(CAPTION_COLUMNS, _OTHER_CAPTION)
    numbered = () if caption else tuple(c for c in columns if _NUMBERED.fullmatch(plain_name(c)))
    derived = () if caption or numbered else tuple(c for c in columns if _DERIVED.fullmatch(plain_name(c)))
    if not (caption or numbered or derived or _ANSWERS & plain.keys()):
        derived = tuple(plain.get("prompt", ()))
    return Meaning(
        image=own_or(IMAGE_COLUMNS, _OTHER_IMAGE),
        caption=caption or numbered or derived,
        licence=own_or(LICENCE_COLUMNS),
        source=own_or(SOURCE_COLUMNS),
        numbered=bool(numbered),
        derived=bool(derived),
    )


def plain_name(column: str) -> str:
    """``column`` without quote marks and a byte-order mark, in lower case, blanks and dashes as underscores."""
    return re.sub(r"[\s\-]+", "_", column.strip(" \t\r\n\"'\ufeff")).casefold()


def unique_names(names: Iterable[str]) -> list[str]:
    """``names``, a repeated one as ``name.1``: no column hides another.

    >>> unique_names(["image", "caption", "caption"])
    ['image', 'caption', 'caption.1']
    """
    seen: dict[str, int] = {}
    taken = []
    for name in names:
        taken.append(f"{name}.{seen[name]}" if name in seen else name)
        seen[name] = seen.get(name, 0) + 1
    return taken


def weak_image_columns(columns: Iterable[str]) -> list[str]:
    """Those of ``columns`` that are the picture if they hold names of picture files."""
    by_name = {plain_name(column): column for column in columns}
    return [by_name[name] for name in NAMES_IF_FILES if name in by_name]


def why_none(columns: Iterable[str]) -> str | None:
    """One sentence that says which column a table of pictures lacks; None where it has what it needs."""
    columns = tuple(columns)
    means = meaning(columns)
    found = ", ".join(columns[:20]) + (f" and {len(columns) - 20} more" if len(columns) > 20 else "")
    if not means.image and means.caption and any(plain_name(column) in _ADDRESSES for column in columns):
        return f"has no image column: found {found}; {ON_THE_WEB}"
    for kind, names, has in (("image", IMAGE_COLUMNS, means.image), ("caption", CAPTION_COLUMNS, means.caption)):
        if not has:
            return f"has no {kind} column: found {found}; expected one called {' or '.join(names)}"
    return None


ON_THE_WEB = (
    "its pictures are addresses on the web: fetch them first (img2dataset does), then give the folder that this writes, "
    "or have them fetched: urls: before the table's name"
)


def _pick(plain: dict[str, list[str]], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(column for name in names for column in plain.get(name, ()))
