"""Reads JSON tables of pictures: lines of objects, one array of them, COCO's captions, Karpathy's splits, names with captions.

A line that is no JSON is a bad record; an array that breaks off ends with one. Memory: one record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from mmret.ingest.addresses import is_address
from mmret.ingest.object_store.path import ObjectPath
from mmret.ingest.tables.coco import coco_captions, first_names
from mmret.ingest.tables.columns import ON_THE_WEB, meaning, why_none
from mmret.ingest.tables.json_stream import JsonStream
from mmret.ingest.tables.records import SAMPLE, Note, Record, image_column, is_picture_name, rename, together
from mmret.ingest.tables.text_files import (
    CERTAIN,
    UNREADABLE,
    encoding_of,
    numbered_lines,
    open_bytes,
    open_text,
    plain_suffix,
    read_head,
)

_EVERY_LIST = "*"
_LOOKED_AT = 10_000  # elements or lines, until the first hundred that are objects
LONGEST_JSON_LINE = 16 * 2**20  # bytes; a longer line is a bad record, not a reason to fill the memory


@dataclass(frozen=True)
class JsonTable:
    """The reader of a file. ``names`` gives its first pictures where the reader itself is slow to begin."""

    read: Callable[[Note], Iterator[Record]]
    names: Callable[[], list[str]] | None = None


def recognise_json(path: Path | ObjectPath) -> JsonTable | str:
    """The table in a file, or one sentence that says why it is no table of pictures."""
    head = read_head(path)
    encoding = json_encoding(head)
    text = head.decode("utf-8-sig" if encoding == "utf-8" else encoding, "replace").strip()
    if not text:
        return "is empty"
    if text[0] == "[" and text[1:].lstrip()[:1] in ("{", "]", ""):
        return _table(lambda: _array(path, encoding), path)
    lines = plain_suffix(path) != ".json"
    if text[0] == "{" and not _is_line(text, lines, ended=len(head) < 2**17):
        return _recognise_object(path, encoding)
    return _table(lambda: json_lines(path, encoding), path, lines=True)


def json_encoding(head: bytes) -> str:
    """The encoding of JSON that begins with ``head``: never a guess, other than UTF-16 without its mark."""
    encoding = encoding_of(head)
    return encoding if encoding in CERTAIN or encoding.startswith("utf-16") else "utf-8"


def _table(read: Callable[[], Iterator[Record]], path: Path | ObjectPath, lines: bool = False) -> JsonTable | str:
    sample = list(islice(read(), 1))
    objects = list(islice((record for record in islice(read(), _LOOKED_AT) if isinstance(record[1], dict)), SAMPLE))
    renamed, sentence = image_column(objects)
    if sentence:
        return sentence
    if not sample:
        return "is empty: it has no element"
    if not objects:
        return f"holds no object with columns: line {sample[0][0]} is {sample[0][1]}"
    if lines:
        return JsonTable(lambda note: rename(read(), renamed))
    return JsonTable(lambda note: together(rename(read(), renamed), path.name, note))


def _is_line(text: str, lines: bool, ended: bool) -> bool:
    """Whether the first line is an object that is a record (JSON lines), not an object that holds all of them.

    ``lines``: the file's name says so; ``ended``: ``text`` is the whole file.
    """
    first, _, rest = text.partition("\n")
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return lines and first.strip() != "{"
    return bool(rest.strip()) or (ended and (lines or (not why_none(value) and not _is_column(value))))


def json_lines(path: Path | ObjectPath, encoding: str = "utf-8") -> Iterator[Record]:
    """Every line that is not empty."""
    number = 0
    try:
        with open_bytes(path) as file:
            lines = _recoded(path, encoding) if encoding not in ("utf-8", "utf-8-sig") else _byte_lines(file)
            for number, line in lines:
                if line is None:
                    yield number, f"line of more than {LONGEST_JSON_LINE} bytes"
                    continue
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if not line.strip():
                    continue
                try:
                    record = _loads_line(line.decode())
                except UnicodeDecodeError as error:
                    yield number, f"not UTF-8: {error.reason} at byte {error.start}"
                except (ValueError, RecursionError) as error:
                    yield number, f"not JSON: {error}"
                else:
                    yield number, _record(record, garbled=False)
    except UNREADABLE as error:
        yield number + 1, f"the file cannot be read from here on: {error}"


def _loads_line(line: str) -> Any:
    """The value of a line, also where a comma stands behind it as in an array."""
    try:
        return json.loads(line)
    except ValueError:
        bare = line.rstrip().removesuffix(",")
        if not bare.endswith("}") or bare == line.rstrip():
            raise
        return json.loads(bare)


def _byte_lines(file: Any) -> Iterator[tuple[int, bytes | None]]:
    number = 0
    while line := file.readline(LONGEST_JSON_LINE):
        number += 1
        if len(line) == LONGEST_JSON_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(LONGEST_JSON_LINE)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, line


def _recoded(path: Path | ObjectPath, encoding: str) -> Iterator[tuple[int, bytes | None]]:
    with open_text(path, encoding) as file:
        for number, line in numbered_lines(file):
            yield number, line and line.lstrip("\ufeff").encode("utf-8", "replace")


def _array(path: Path | ObjectPath, encoding: str, inside: str | None = None) -> Iterator[Record]:
    """The elements of an array, counted; with ``inside``, of that member of the top object, or of each that is a table."""
    number = 0
    try:
        with open_text(path, encoding) as file:
            stream = JsonStream(file)
            for value in _elements(stream, inside):
                number += 1
                yield number, _record(value, stream.garbled)
            if inside is None and stream.next_sign():
                yield number + 1, "something stands behind the end of the array"
    except (ValueError, *UNREADABLE) as error:
        yield number + 1, _broken(error)


def _elements(stream: JsonStream, inside: str | None) -> Iterator[Any]:
    if inside is None:
        yield from stream.elements()
        return
    for name in stream.members():
        if stream.next_sign() != "[" or inside not in (name, _EVERY_LIST):
            stream.skip()
            continue
        table = inside == name
        for number, element in enumerate(stream.elements()):
            if number == 0 and not table:
                table = isinstance(element, dict) and not why_none(element)
            if table:
                yield element


def _values(path: Path | ObjectPath, encoding: str) -> Iterator[Record]:
    """Objects one behind the other, each over any number of lines."""
    number = 0
    try:
        with open_text(path, encoding) as file:
            stream = JsonStream(file)
            while stream.next_sign():
                number += 1
                value = stream.value()
                yield number, _record(value, stream.garbled)
    except (ValueError, *UNREADABLE) as error:
        yield number, _broken(error)


def _record(value: Any, garbled: bool) -> dict[str, Any] | str:
    if garbled:
        return "not UTF-8"
    return value if isinstance(value, dict) else f"not an object but a {type(value).__name__}"


def _broken(error: Exception) -> str:
    return f"the file cannot be read from here on: {getattr(error, 'msg', error)}"


def _recognise_object(path: Path | ObjectPath, encoding: str) -> JsonTable | str:
    """One object that holds everything: COCO, Karpathy's splits, a list under a name, or captions by file name."""
    outline: dict[str, Any] = {}
    lists: dict[str, dict[str, Any]] = {}  # the first element of each list of objects
    several = False
    try:
        with open_text(path, encoding) as file:
            stream = JsonStream(file)
            for name in stream.members():
                is_list = stream.next_sign() == "["
                first = _first_of(stream, name)
                outline[name] = [first] * 2 if is_list and not isinstance(first, dict) else first
                if is_list and isinstance(first, dict):
                    lists[name] = first
                    if name in ("images", "annotations") or not why_none(first):
                        break
                if len(outline) >= SAMPLE:
                    break
            else:
                several = stream.next_sign() == "{"
    except (ValueError, RecursionError, *UNREADABLE) as error:
        if not outline:
            return f"is no JSON: {getattr(error, 'msg', error)}"
    if several:
        return _table(lambda: _values(path, encoding), path)
    images, annotations = lists.get("images"), lists.get("annotations")
    if images is not None and "sentences" in images:
        return JsonTable(lambda note: _karpathy(path, encoding))
    if any(not why_none(first) for first in lists.values()):
        return _table(lambda: _array(path, encoding, _EVERY_LIST), path)
    if annotations is not None or (images is not None and _mentions(path, b'"annotations"')):
        if _mentions(path, b'"caption"'):
            read = partial(coco_captions, path, encoding)
            return JsonTable(lambda note: read(), partial(first_names, path, encoding))
        return "holds annotations without captions (boxes, masks or points): captions are in a file of their own"
    values = list(outline.values())
    if outline and (all(map(is_picture_name, outline)) or all(isinstance(v, dict) and not why_none(v) for v in values)):
        return JsonTable(lambda note: _by_name(path, encoding))
    found = ", ".join(list(outline)[:12])
    if any(is_address(value) or (isinstance(value, list) and is_address(value[0])) for value in outline.values()):
        return f"names no picture files (found {found}): {ON_THE_WEB}"
    if _is_column(outline):
        return "holds its columns one behind the other: write a list with an object for each picture (orient='records' in pandas)"
    lacking = next((why_none(first) for first in lists.values()), None)
    return lacking or f"holds no list of pictures with captions: found {found}"


def _first_of(stream: JsonStream, name: str) -> Any:
    """The value that begins here; of an array its first element, and the others only if that does not tell what the file is."""
    if stream.next_sign() != "[":
        return stream.value()
    elements = stream.elements()
    first = next(elements, None)
    if not isinstance(first, dict) or (name not in ("images", "annotations") and why_none(first)):
        for _ in elements:
            pass
    return first


def _is_column(record: dict[str, Any]) -> bool:
    """Whether the picture of ``record`` is not one but all of them: columns written one behind the other."""
    value = next((record[name] for name in meaning(tuple(record)).image), None)
    return (isinstance(value, list) and len(value) != 1) or (isinstance(value, dict) and not value.keys() & {"path", "bytes"})


def _mentions(path: Path | ObjectPath, words: bytes) -> bool:
    """Whether ``words`` stand anywhere in the file: about 1 GB/s."""
    with open_bytes(path) as file:
        before = b""
        while chunk := file.read(2**20):
            if words in before + chunk:
                return True
            before = chunk[-len(words) :]
    return False


def _karpathy(path: Path | ObjectPath, encoding: str) -> Iterator[Record]:
    for number, record in _array(path, encoding, "images"):
        if isinstance(record, dict) and isinstance(record.get("filename"), str):
            folder = record.pop("filepath", None)
            name = record.pop("filename")
            sentences = record.pop("sentences", None) or []
            texts = [s.get("raw") if isinstance(s, dict) else s for s in sentences] if isinstance(sentences, list) else sentences
            record = {"image": f"{folder}/{name}" if isinstance(folder, str) and folder else name, "caption": texts, **record}
        yield number, record


def _by_name(path: Path | ObjectPath, encoding: str) -> Iterator[Record]:
    number = 0
    try:
        with open_text(path, encoding) as file:
            stream = JsonStream(file)
            for name in stream.members():
                value = stream.value()
                number += 1
                yield number, _record({"image": name, **(value if isinstance(value, dict) else {"caption": value})}, stream.garbled)
    except (ValueError, *UNREADABLE) as error:
        yield number + 1, _broken(error)
