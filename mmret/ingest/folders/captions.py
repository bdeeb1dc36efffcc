"""Which text is a picture's caption, among the text files that belong to it: side-cars in a folder, members of a tar.

A plain text comes first (``a.txt``), then one called caption (``a.caption.txt``, ``a.caption``), then a caption in ``a.json``. An
address is never a caption: it becomes the source. Each line of a text is a caption of its own, as COCO's are kept, unless the lines
are paragraphs or one wrapped text; the first is used and all are kept in ``extra``. Cost: one read of each text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mmret.ingest.addresses import is_only_an_address
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.remarks import Note
from mmret.ingest.rows import IMAGE_SUFFIXES, is_title_of_file
from mmret.ingest.tables.caption_values import captions_in
from mmret.ingest.tables.columns import LICENCE_COLUMNS, SOURCE_COLUMNS, meaning
from mmret.ingest.tables.encodings import MARKS
from mmret.ingest.tables.text_files import encoding_of, from_latin

LONGEST = 2**20
"""Bytes of a text file; a longer one is no caption."""
CAPTION_NAMES = ("caption", "captions", "cap", "text", "texts")
TEXT_SUFFIXES = (".txt", ".text", ".caption", ".captions", ".cap", ".json", ".url", ".license", ".licence")

_PLAIN = ("txt", "text")
_LABELS = (*CAPTION_NAMES, *LICENCE_COLUMNS, *SOURCE_COLUMNS)
_NESTED = (*CAPTION_NAMES, "raw", "sentence", "sentences", "annotations")
_NUMBER = r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"
_BOXES = re.compile(rf"\s*{_NUMBER}(?:[ \t,]+{_NUMBER}){{4,}}[ \t]*(?:\r?\n\s*{_NUMBER}(?:[ \t,]+{_NUMBER}){{4,}}[ \t]*)*\s*")
"""Five numbers a line at least: a class and a box, as YOLO writes them."""
_ENDS = tuple(".!?\"'”。！？")
_WRAPPED_AT = 40  # characters: shorter lines are captions, not a wrapped text


@dataclass(frozen=True)
class TextName:
    """What the name of a text file says: ``owner`` is the picture's name, with its suffix or not, ``label`` what the text is."""

    owner: str
    label: str  # "" for a plain text, "json", or the word before the suffix: caption, url, ...

    @property
    def rank(self) -> int:
        """Whose caption is used: 0 before 1 before 2."""
        if self.label == "":
            return 0
        return 1 if self.label in CAPTION_NAMES else 2 if self.label == "json" else 3


@dataclass(frozen=True)
class TextFile:
    """A text file of a picture, to be read. ``read`` raises Unreadable where that cannot be done."""

    name: str
    about: TextName
    read: Callable[[], bytes]


def text_name(name: str) -> TextName | None:
    """What a file called ``name`` is the text of; None where it is no text by its suffix.

    >>> text_name("002.url.txt"), text_name("g.v2.txt"), text_name("a.jpg.caption")
    (TextName(owner='002', label='url'), TextName(owner='g.v2', label=''), TextName(owner='a.jpg', label='caption'))
    """
    owner, dot, suffix = name.rpartition(".")
    suffix = suffix.lower()
    if not dot or not owner or f".{suffix}" not in TEXT_SUFFIXES:
        return None
    if suffix not in _PLAIN:
        return TextName(owner, suffix)
    inner, dot, label = owner.rpartition(".")
    return TextName(inner, label.lower()) if dot and inner and label.lower() in _LABELS else TextName(owner, "")


def without_image_suffix(name: str) -> str:
    """``name`` without the suffix of a picture, if it has one."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else name


def columns_of_texts(files: Iterable[TextFile], note: Note) -> dict[str, Any]:
    """The columns that a picture's text files give, as a record of a manifest has them; the files in order of precedence.

    ``caption`` is a text, or a list of all that were found, the one to be used first. Raises Unreadable (``bad_caption``) where a
    text cannot be read and none of the others has a caption.
    """
    columns: dict[str, Any] = {}
    captions: list[tuple[str, list[str]]] = []
    unread: list[tuple[str, Unreadable]] = []
    last_resort: list[tuple[str, list[str]]] = []
    for file in sorted(files, key=lambda f: f.about.rank):
        label = file.about.label
        try:
            text = _text_of(file, note)
            found = _columns_of_json(text, file.name) if label == "json" else {}
        except Unreadable as why:
            unread.append((file.name, why))
            continue
        if label == "json":
            captions.append((file.name, found.pop("caption", [])))
            columns |= {name: value for name, value in found.items() if name not in columns}
        elif is_only_an_address(text):
            columns.setdefault("source" if label in CAPTION_NAMES or label == "" else label, text.strip())
        elif _BOXES.fullmatch(text):
            note("numbers_as_text", file.name, "lines of numbers (boxes, polygons, key points) are no caption")
        elif label == "" or label in CAPTION_NAMES:
            captions.append((file.name, lines_as_captions(text)))
        else:
            columns.setdefault(label, text.strip())
            last_resort += [(file.name, lines_as_captions(text))] if label not in _LABELS else []
    captions = [(name, texts) for name, texts in captions if texts]
    if not captions and last_resort:
        captions = last_resort[:1]
        note("caption_of_unknown_text", captions[0][0], "the picture has no other text, so this one is its caption")
    if unread and not captions:
        raise unread[0][1]
    for name, why in unread:
        note("unread_text", name, why.detail)
    every = list(dict.fromkeys(text for _, texts in captions for text in texts))
    if every:
        columns["caption"] = every[0] if len(every) == 1 else every
    if len(every) > 1:
        note("more_captions", captions[0][0], f"{len(every)} captions: the first is used, all are kept in extra")
    return columns


def lines_as_captions(text: str) -> list[str]:
    """Each line of ``text`` that is not empty; the whole text where its lines are paragraphs or one wrapped sentence.

    >>> lines_as_captions("a red car\\na car in rain\\n")
    ['a red car', 'a car in rain']
    """
    lines = [line.strip() for line in text.strip().splitlines()]
    if len(lines) > 1 and ("" in lines or _is_wrapped(lines)):
        return [text.strip()]
    return list(dict.fromkeys(line for line in lines if line))


def captions_below(value: Any, depth: int = 0) -> list[str]:
    """The captions in a JSON value: a text, a list of texts, or an object that has them under a name for captions, at any depth."""
    if isinstance(value, str):
        return [text.strip() for text in captions_in(value)]
    if depth < 4 and isinstance(value, list):
        return [text for item in value for text in captions_below(item, depth + 1)]
    if depth < 4 and isinstance(value, dict):
        return [text for name in _NESTED if name in value for text in captions_below(value[name], depth + 1)]
    return []


def _columns_of_json(text: str, name: str) -> dict[str, Any]:
    """The columns of a JSON text, its captions as a list under ``caption``. Raises Unreadable (``bad_caption``)."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable("bad_caption", f"{name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        if value is not None and not isinstance(value, str | list):
            raise Unreadable("bad_caption", f"{name} is not an object, a text or a list of texts")
        return {"caption": captions_below(value)}
    means = meaning(tuple(value))
    named = () if means.derived else (c for c in means.caption if not is_title_of_file(c, value[c]))
    own = next(((c, found) for c in named if (found := _captions_of_column(value[c]))), None)
    if own is not None:
        return {column: item for column, item in value.items() if column != own[0]} | {"caption": own[1]}
    nested = next((found for item in value.values() if isinstance(item, dict | list) and (found := _named_captions(item))), [])
    return value | {"caption": nested}


def _captions_of_column(value: Any) -> list[str]:
    """Of a column that is called caption, where a number is a caption too and a JSON object of languages has one each."""
    if isinstance(value, bool | int | float):
        return [str(value)]
    found = captions_below(value)
    return found or captions_below(list(value.values())) if isinstance(value, dict) else found


def _named_captions(item: Any) -> list[str]:
    return [] if isinstance(item, list) and any(isinstance(part, str) for part in item) else captions_below(item, 1)


def _text_of(file: TextFile, note: Note) -> str:
    data = file.read()
    if len(data) > LONGEST:
        raise Unreadable("bad_caption", f"{file.name} has more than {LONGEST} bytes")
    encoding = encoding_of(data)
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        latin = from_latin(data) if encoding == "utf-8" else None
        if latin is None:
            where = f"{error.reason} at byte {error.start}" if isinstance(error, UnicodeDecodeError) else str(error)
            raise Unreadable("bad_caption", f"{file.name} is not {encoding} ({where}): save it as UTF-8") from None
        text, encoding = latin, "windows-1252"
    if encoding != "utf-8" and not data.startswith(tuple(mark for mark, _ in MARKS)):
        note("guessed_encoding", file.name, f"read as {encoding}; save it as UTF-8 to be certain")
    return text


def _is_wrapped(lines: list[str]) -> bool:
    """Whether an editor broke one text into these lines: it begins and ends as a sentence, and every line is full and goes on in
    the next."""
    width = max(map(len, lines))
    inner = zip(lines, lines[1:], strict=False)
    return (
        len(lines) > 2
        and lines[0][0].isupper()
        and lines[-1][-1] in _ENDS
        and all(
            len(line) >= _WRAPPED_AT and len(line) + 1 + len(after.split()[0]) > width and not after[0].isupper()
            for line, after in inner
        )
    )
