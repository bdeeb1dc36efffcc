"""Reads files of separated values record by record, whatever their dialect; a quote mark that is never closed costs no line.

A record is read by the rules of CSV where they hold: every quote mark closes, and the fields are as many as the columns. Where they
do not, the line is taken as it stands, quote marks and all, as most writers of TSV mean it. A quoted text may span lines, but not
lines that are records themselves. Cost: 100,000 to 300,000 lines a second; memory one record, at most ``_MOST_LINES`` lines.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmret.ingest.object_store.path import ObjectPath
from mmret.ingest.tables.columns import unique_names
from mmret.ingest.tables.dialects import Dialect, quoted, recognise_dialect, split, unnumbered
from mmret.ingest.tables.records import Note, Record, is_picture_name, together
from mmret.ingest.tables.text_files import (
    CERTAIN,
    LONGEST_LINE,
    UNREADABLE,
    encoding_of,
    mend_line,
    numbered_lines,
    open_text,
    plain_suffix,
    read_head,
)

_MOST_LINES = 10_000  # of one quoted text
_RECORDS_SWALLOWED = 3  # lines that might be records, where names of pictures have no suffix to tell and commas are common in texts


def recognise_separated(path: Path | ObjectPath) -> tuple[Dialect, str] | str:
    """Dialect and encoding of a file, or one sentence that says why it is no table of pictures."""
    head = read_head(path)
    encoding = encoding_of(head)
    text = head.decode("utf-8-sig" if encoding == "utf-8" else encoding, "replace")
    lines = text.splitlines()
    if len(lines) > 1 and not text.endswith(("\n", "\r")) and head.count(0) < len(head) and len(text) > 2**15:
        lines = lines[:-1]  # cut by the end of the head
    dialect = recognise_dialect(lines[:2000], plain_suffix(path))
    return dialect if isinstance(dialect, str) else (dialect, encoding)


def headed(path: Path | ObjectPath) -> tuple[Dialect, str]:
    """Dialect and encoding of a file whose header names no picture: a table of texts, separated as its suffix says."""
    head = read_head(path)
    encoding = encoding_of(head)
    text = head.decode("utf-8-sig" if encoding == "utf-8" else encoding, "replace")
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = "\t" if plain_suffix(path) == ".tsv" else ","
    return Dialect(separator, tuple(unique_names(split(first, separator))), image=-1, own_names=True), encoding


def read_separated(path: Path | ObjectPath, dialect: Dialect, encoding: str, note: Note) -> Iterator[Record]:
    """Every record of the file: the number of its first line, and its columns or what is wrong with it."""
    if encoding not in CERTAIN:
        note("guessed_encoding", path.name, f"read as {encoding}; save it as UTF-8 to be certain")
    with open_text(path, encoding) as file:
        lines = _Lines(file, path.name, encoding, note)
        records = _records(lines, dialect, path.name, note)
        yield from records if dialect.own_names else together(records, path.name, note)
        if lines.broken:
            yield lines.number + 1, lines.broken


class _Lines:
    """Lines of a file that can be put back: (number, text), or the number and None where the line is no text."""

    def __init__(self, file: Any, name: str, encoding: str, note: Note):
        self._lines = numbered_lines(file)
        self._back: deque[tuple[int, str | None, str]] = deque()
        self._name, self._encoding, self._note = name, encoding, note
        self.number = 0
        self.broken: str | None = None

    def __iter__(self) -> Iterator[tuple[int, str | None, str]]:
        return self

    def __next__(self) -> tuple[int, str | None, str]:
        """Number, text and, where that is None, what is wrong with the line."""
        if self._back:
            return self._back.popleft()
        try:
            self.number, line = next(self._lines)
        except UNREADABLE as error:
            self.broken = f"the file cannot be read from here on: {error}"
            raise StopIteration from None
        if line is None:
            return self.number, None, f"line of more than {LONGEST_LINE} characters"
        text, guessed = mend_line(line, self._encoding)
        if text is None:
            return self.number, None, f"not {'UTF-8' if self._encoding.startswith('utf-8') else self._encoding}"
        if guessed:
            self._note("guessed_encoding", f"{self._name}:{self.number}", "not UTF-8, read as windows-1252")
        return self.number, text, ""

    def put_back(self, lines: list[tuple[int, str | None, str]]) -> None:
        self._back.extendleft(reversed(lines))


def _records(lines: _Lines, dialect: Dialect, name: str, note: Note) -> Iterator[Record]:
    header, above = dialect.header, dialect.above
    for number, text, wrong in lines:
        if text is not None and (not text.strip(" \r\n") or (number == 1 and re.fullmatch(r"sep=.\s*", text, re.IGNORECASE))):
            continue
        if above:
            above -= 1
            note("line_above_header", f"{name}:{number}", f"no line of the table: {(text or '').strip()[:60]}")
        elif header:
            header = False
        elif text is None:
            yield number, wrong
        else:
            yield number, _record(number, text, lines, dialect, name, note)


def _record(number: int, line: str, lines: _Lines, dialect: Dialect, name: str, note: Note) -> dict[str, Any] | str:
    width, text = len(dialect.columns), line.rstrip("\r\n")
    fields = text.split(dialect.separator) if '"' not in text else _quoted(text, dialect)
    if fields is None and _opens(text, dialect):
        fields = _spanning(line, lines, dialect)
        if fields is None:
            note("unbalanced_quote", f"{name}:{number}", "a quote mark that does not close: the line is taken as it stands")
    if fields is None or len(fields) != width:
        fields = _as_it_stands(number, text, fields, dialect, name, note)
    if len(fields) != width:
        return f"{len(fields)} columns, the header has {width}" if dialect.header else f"{len(fields)} columns, others have {width}"
    if dialect.padded:
        fields = [field.strip(" ") for field in fields]
    record = dict(zip(dialect.columns, fields, strict=True))
    if dialect.numbered:
        record[dialect.columns[dialect.image]] = unnumbered(fields[dialect.image])
    return record


def _quoted(text: str, dialect: Dialect) -> list[str] | None:
    """Fields by the rules of CSV, or by those of programs that write a backslash before a quote mark, or with a blank before it."""
    fields = quoted(text, dialect.separator, dialect.padded)
    if fields is not None and len(fields) == len(dialect.columns):
        return fields
    others = [quoted(text, dialect.separator, padded=True)]
    if fields is None:
        trimmed = re.sub(rf'"[ \t]+(?={re.escape(dialect.separator)}|$)', '"', text)  # blanks behind a closing quote mark
        others.append(quoted(trimmed, dialect.separator, padded=True))
    if '\\"' in text:
        others.append(quoted(text, dialect.separator, escape="\\"))
    return next((found for found in others if found is not None and len(found) == len(dialect.columns)), fields)


def _opens(text: str, dialect: Dialect) -> bool:
    """Whether a quoted field begins in ``text`` and does not end there."""
    return quoted(text + '"', dialect.separator, dialect.padded) is not None


def _spanning(line: str, lines: _Lines, dialect: Dialect) -> list[str] | None:
    """Fields of a record that goes on in the lines that follow, which are then taken; else None, and they are put back."""
    taken: list[tuple[int, str | None, str]] = []
    records = 0
    size = len(line)
    whole = [line]
    for following in lines:
        taken.append(following)
        after = following[1]
        if after is None or len(taken) > _MOST_LINES or (size := size + len(after)) > LONGEST_LINE:
            break
        looks = _looks_like_record(after, dialect)
        records = records + 1 if looks and records == len(taken) - 1 else records
        every = records == len(taken)  # every line so far could be a record of its own
        if every and (dialect.suffixed or dialect.separator != "," or records >= _RECORDS_SWALLOWED):
            break
        whole.append(after)
        if '"' in after:
            fields = quoted("".join(whole).rstrip("\r\n"), dialect.separator, dialect.padded)
            if fields is not None and len(fields) == len(dialect.columns):
                return fields
    lines.put_back(taken)
    return None


def _looks_like_record(text: str, dialect: Dialect) -> bool:
    fields = text.rstrip("\r\n").split(dialect.separator)
    if len(fields) < len(dialect.columns):
        return False
    name = unnumbered(fields[dialect.image].strip(' "'))
    if " " in name and not dialect.spaced:
        return False
    return is_picture_name(name) if dialect.suffixed else bool(name) and len(fields) == len(dialect.columns)


def _as_it_stands(number: int, text: str, by_rule: list[str] | None, dialect: Dialect, name: str, note: Note) -> list[str]:
    """Fields of a line that the rules of CSV do not fit: what is surplus belongs to a caption in the last column, or is empty."""
    width = len(dialect.columns)
    fields = text.split(dialect.separator)
    if by_rule is not None and len(by_rule) > width and not any(field.strip() for field in by_rule[width:]):
        note("surplus_columns", f"{name}:{number}", "empty columns behind the last")
        return by_rule[:width]
    if by_rule is None:
        joined = text.split(dialect.separator, width - 1)
    else:
        joined = [*by_rule[: width - 1], dialect.separator.join(by_rule[width - 1 :])]
    if len(joined) == width < len(by_rule or fields) and dialect.caption_last and _begins_record(joined, dialect):
        note("separator_in_caption", f"{name}:{number}", "separators without quote marks, taken as part of the caption")
        fields = joined
    elif by_rule is not None:
        fields = by_rule
    return [field[1:-1] if re.fullmatch(r'"[^"]*"', field) else field for field in fields]


def _begins_record(fields: list[str], dialect: Dialect) -> bool:
    return is_picture_name(unnumbered(fields[dialect.image]))
