"""How a file of separated values is to be read: separator, header line or none, and which column is the picture.

Every separator is tried on the head of the file, and the one whose columns make sense wins: a header that names a picture and a
caption, or, without a header, a column of file names and one of words. What captions contain cannot mislead that, as it does
a count of separators. Cost: the head is split a few times.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmret.ingest.addresses import is_address
from mmret.ingest.rows import IMAGE_SUFFIXES
from mmret.ingest.tables.columns import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    ON_THE_WEB,
    meaning,
    unique_names,
    weak_image_columns,
    why_none,
)
from mmret.ingest.tables.records import ENOUGH, is_picture_name, share

SEPARATORS = ("\t", ",", ";", "|")
_FIRST = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".psv": "|", ".token": "\t"}
_TITLE_LINES = 5  # above a header
_SPANNED = 20  # lines of a quoted text in the head
_NAME_FIRST = re.compile(rf"\S+({'|'.join(map(re.escape, IMAGE_SUFFIXES))})(#\d+)?[: ]+[^\W\d_]", re.IGNORECASE)
_NUMBERED_IMAGE = re.compile(r"(.+\.[A-Za-z0-9]{2,5})#\d+")


@dataclass(frozen=True)
class Dialect:
    """How to read one file. ``columns`` are the names of its columns, each once; ``image`` is the place of the picture's."""

    separator: str
    columns: tuple[str, ...]
    image: int
    header: bool = True
    padded: bool = False
    """Whether there are blanks around the separators."""
    numbered: bool = False
    """Whether pictures are called ``name.jpg#0``, a number for each of their captions."""
    suffixed: bool = False
    """Whether names of pictures end in a suffix of pictures, so that a line which begins a record can be told."""
    spaced: bool = False
    """Whether names of pictures have blanks in them."""
    above: int = 0
    """Lines above the header that are none of the table: a title, a comment."""
    own_names: bool = False
    """Whether suffix, separator and names are those that were always read: then a line stays a row of its own."""

    @property
    def caption_last(self) -> bool:
        return len(self.columns) - 1 != self.image and self.columns[-1] in meaning(self.columns).caption


def recognise_dialect(lines: Sequence[str], suffix: str) -> Dialect | str:
    """The dialect of a file that begins with ``lines`` (whole lines), or one sentence that says why it is no table of pictures."""
    lines = [line.rstrip("\r\n") for line in lines if line.strip(" \r\n")]
    if lines and re.fullmatch(r"sep=.", lines[0], re.IGNORECASE):
        lines = lines[1:]
    if not lines:
        return "is empty"
    first = _FIRST.get(suffix)
    order = sorted(SEPARATORS, key=lambda separator: separator != first)
    if found := _at_first_line(lines, order, suffix):
        return found
    for above in range(1, min(_TITLE_LINES, len(lines) - 1) + 1) if first or lines[0].startswith("#") else ():
        below = _at_first_line(lines[above:], order, suffix)
        if isinstance(below, Dialect) and below.header:
            fits = _fit(_whole_records(lines[above + 1 :], below.separator), below)[0]
            return replace(below, above=above, own_names=False) if fits >= ENOUGH else _why_not(lines, order)
    return _why_not(lines, order)


def _at_first_line(lines: list[str], order: list[str], suffix: str) -> Dialect | str | None:
    """The dialect of ``lines`` if the first of them is the header or a record; a sentence where it names no files; else None."""
    whole = {separator: _whole_records(lines, separator) for separator in order}
    headed = [dialect for separator in order if (dialect := _with_header(whole[separator], separator, suffix))]
    if headed:
        best = max(headed, key=lambda dialect: _fit(whole[dialect.separator][1:], dialect))
        addresses = [parts[best.image] for line in lines[1:] if len(parts := split(line, best.separator)) > best.image]
        return f"names no files: {ON_THE_WEB}" if share(addresses, is_address) > ENOUGH else best
    bare = [dialect for separator in order if (dialect := _without_header(whole[separator], separator))]
    return max(bare, key=lambda dialect: _fit(whole[dialect.separator], dialect)) if bare else None


def split(line: str, separator: str) -> list[str]:
    """The fields of one line, quote marks read as in CSV where they make sense and taken as they stand where they do not."""
    return quoted(line, separator) or line.split(separator)


def quoted(text: str, separator: str, padded: bool = False, escape: str | None = None) -> list[str] | None:
    """The fields of one record by the rules of CSV, or None where a quote mark stands where the rules allow none."""
    csv.field_size_limit(2**31 - 1)
    rules = {"escapechar": escape, "doublequote": False} if escape else {}
    try:
        rows = list(csv.reader([text], delimiter=separator, strict=True, skipinitialspace=padded, **rules))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def unnumbered(text: str) -> str:
    """``name.jpg`` of ``name.jpg#3``."""
    found = _NUMBERED_IMAGE.fullmatch(text.strip())
    return found[1] if found else text


def _whole_records(lines: list[str], separator: str) -> list[str]:
    """``lines``, those joined that a quoted text spans; a quote mark that closes nowhere near joins none."""
    records: list[str] = []
    at = 0
    while at < len(lines):
        end = at + 1
        if lines[at].count('"') % 2:
            while end < min(len(lines), at + _SPANNED) and quoted("\n".join(lines[at:end]), separator) is None:
                end += 1
            if quoted("\n".join(lines[at:end]), separator) is None:
                end = at + 1
        records.append("\n".join(lines[at:end]))
        at = end
    return records


def _with_header(lines: list[str], separator: str, suffix: str) -> Dialect | None:
    fields = split(lines[0], separator)
    padded = len(fields) > 1 and any(field != field.lstrip() for field in fields[1:])
    if padded:
        fields = quoted(lines[0], separator, padded=True) or fields
    if len(fields) < 2 or any(is_picture_name(field) for field in fields):
        return None
    columns = tuple(unique_names(field.strip(" \t\"'\ufeff") if padded else field.strip("\ufeff") for field in fields))
    means = meaning(columns)
    values = _values(lines[1:], separator, len(columns))
    if means.image:
        places = [columns.index(name) for name in means.image]
        plain = (at for at in places if not share(values[at], lambda value: is_address(value) or value.strip().isdigit()) > ENOUGH)
        image = next(plain, places[0])
    else:
        weak = [columns.index(column) for column in weak_image_columns(columns)]
        image = next((at for at in weak if share(values[at], is_picture_name) >= ENOUGH), -1)
        if image < 0:
            return None
        columns = tuple("image" if at == image else column for at, column in enumerate(columns))
    if not meaning(columns).caption:
        return None
    usual = suffix in (".csv", ".tsv") and separator == _FIRST[suffix] and not padded
    own = any(name in columns for name in IMAGE_COLUMNS) and any(name in columns for name in CAPTION_COLUMNS)
    dialect = Dialect(separator, columns, image, padded=padded, own_names=usual and own)
    return _observed(dialect, values[image])


def _without_header(lines: list[str], separator: str) -> Dialect | None:
    width = Counter(len(split(line, separator)) for line in lines).most_common(1)[0]
    if width[1] >= ENOUGH * len(lines):
        dialect = _bare(lines, separator, width[0])
    else:  # separators in the captions
        dialect = _bare([separator.join(line.split(separator, 1)) for line in lines], separator, 2)
    return dialect


def _bare(lines: list[str], separator: str, width: int) -> Dialect | None:
    if width < 2:
        return None
    values = _values(lines, separator, width)
    names = [[unnumbered(value) for value in column] for column in values]
    image = next((at for at, column in enumerate(names) if share(column, is_picture_name) >= ENOUGH), -1)
    if image < 0 or not is_picture_name(names[image][0]):
        return None
    others = [at for at in range(width) if at != image and share(names[at], is_picture_name) < 1 - ENOUGH]
    if not others:
        return None
    caption = max(others, key=lambda at: sum(len(re.findall(r"[^\W\d_]+", value)) for value in values[at]))
    if not any(re.search(r"[^\W\d_]", value) for value in values[caption]):
        return None
    columns = tuple({image: "image", caption: "caption"}.get(at, f"column_{at + 1}") for at in range(width))
    return _observed(Dialect(separator, columns, image, header=False), values[image])


def _observed(dialect: Dialect, names: list[str]) -> Dialect:
    bare = [unnumbered(name) for name in names]
    return replace(
        dialect,
        numbered=share(names, _numbered_picture) >= ENOUGH,
        suffixed=share(bare, is_picture_name) >= ENOUGH,
        spaced=any(" " in name.strip() for name in names),
    )


def _numbered_picture(name: str) -> bool:
    return unnumbered(name) != name and is_picture_name(unnumbered(name))


def _values(lines: list[str], separator: str, width: int) -> list[list[str]]:
    """Values column by column; what stands behind the last column belongs to it."""
    rows = []
    for line in lines:
        fields = split(line, separator)
        if len(fields) > width:
            fields = line.split(separator, width - 1)
        if len(fields) == width:
            rows.append(fields)
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


def _fit(lines: list[str], dialect: Dialect) -> tuple[float, float]:
    """How well ``lines`` fit: the share with as many fields as there are columns, then that of file names among the pictures."""
    widths = [len(split(line, dialect.separator)) == len(dialect.columns) for line in lines]
    return (sum(widths) / len(widths) if widths else 1.0, float(dialect.suffixed))


def _why_not(lines: list[str], order: list[str]) -> str:
    """One sentence: the header's columns by the likeliest separator, and what is lacking."""
    best: tuple[tuple[int, int], list[str]] = ((0, 0), [lines[0]])
    for separator in order:
        fields = split(lines[0], separator)
        means = meaning(tuple(fields))
        best = max(best, ((bool(means.image) + bool(means.caption), len(fields)), fields), key=lambda found: found[0])
    fields = best[1]
    means = meaning(tuple(fields))
    if share(lines, lambda line: _NAME_FIRST.match(line) is not None) >= ENOUGH:
        return "begins its lines with names of pictures, but has no tab, comma, semicolon or pipe behind them: put a tab there"
    sentence = why_none([field.strip()[:60] for field in fields])
    addresses = any(is_address(field) for line in lines[:5] for separator in order for field in split(line, separator))
    if addresses and not means.image and ON_THE_WEB not in (sentence or ""):
        return f"names no picture files: {ON_THE_WEB}"
    return sentence or f"is no table with a value per column: it begins with {lines[0][:60]!r}"
