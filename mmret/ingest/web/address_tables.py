"""Reads tables of addresses, with a header or without one, and finds the column that holds the addresses of pictures.

Tables that describe pictures often name the page beside the picture: a wrong choice downloads pages. Costs a look at the first 200
lines; reading is a line at a time.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mmret.errors import UserError
from mmret.ingest.addresses import is_address
from mmret.ingest.object_store.path import ObjectPath
from mmret.ingest.rows import IMAGE_SUFFIXES
from mmret.ingest.tables.caption_values import is_missing
from mmret.ingest.tables.columns import meaning, plain_name, unique_names
from mmret.ingest.tables.manifest_files import read_manifest
from mmret.ingest.tables.records import Record
from mmret.ingest.tables.text_files import encoding_of, plain_suffix, read_head

TABLE_SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv", ".tab", ".txt")
_TEXT = TABLE_SUFFIXES[3:]
_SAMPLE = 200
_OF_PICTURES = (
    *("image_url", "image_urls", "img_url", "photo_image_url", "picture_url", "image", "img", "image_link", "image_src"),
    *("download_url", "original_url", "coco_url", "jpg_url", "file_url"),
)
"""Names of columns that hold addresses of pictures, the plainest first."""
_GENERAL = ("url", "urls", "uri", "link", "href", "src")


def address_in(value: Any) -> str:
    """The address in a cell, or ""; of a list the first."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return value.strip() if isinstance(value, str) else ""


def address_records(path: Path | ObjectPath) -> Iterator[Record]:
    """Lines of the table with their numbers. Raises UserError for a file of another kind."""
    suffix = plain_suffix(path)
    if suffix in _TEXT:
        return _text_records(path, suffix)
    if suffix in TABLE_SUFFIXES:
        return read_manifest(path)
    raise UserError(f"{path} is no table of addresses that can be read: those are {', '.join(TABLE_SUFFIXES)}")


def column_of_addresses(path: Path | ObjectPath) -> str:
    """The column that holds the addresses of pictures, by its name and its first values.

    Raises UserError where there is none, or several of which none is plainly that.
    """
    counts: Counter[str] = Counter()
    of_files: Counter[str] = Counter()
    seen: tuple[str, ...] = ()
    for _, record in islice(address_records(path), _SAMPLE):
        if isinstance(record, Mapping):
            seen = seen or tuple(map(str, record))
            for name, value in record.items():
                if is_address(address := address_in(value)):
                    counts[name] += 1
                    of_files[name] += _names_a_picture(address)
    if not counts:
        found = f"found {', '.join(seen[:20])}" if seen else "it has no row"
        raise UserError(f"{path} has no column of addresses (http:// or https://): {found}")
    most = max(counts.values())
    if named := _first_named(_OF_PICTURES, [name for name, n in counts.items() if n >= 0.5 * most]):
        return named
    near = [name for name, n in counts.items() if n >= 0.8 * most]
    near = [name for name in near if of_files[name] > 0.5 * counts[name]] or near
    if len(near) > 1 and not (named := _first_named(_GENERAL, near)):
        raise UserError(
            f"{path} has several columns of addresses, {', '.join(near[:20])}, and none is plainly that of the pictures: call that "
            "one image_url, or leave the others out"
        )
    return named or near[0]


def _names_a_picture(address: str) -> bool:
    try:
        return urlsplit(address).path.lower().endswith(IMAGE_SUFFIXES)
    except ValueError:
        return False


def _first_named(names: tuple[str, ...], columns: list[str]) -> str | None:
    by_name = {_letters(column): column for column in reversed(columns)}
    return next((by_name[_letters(name)] for name in names if _letters(name) in by_name), None)


def _letters(column: str) -> str:
    return re.sub(r"[_.]", "", plain_name(column))


def _text_records(path: Path | ObjectPath, suffix: str) -> Iterator[Record]:
    """Lines of separated text. Without a header, as CC3M and CC12M have none: an address, and the first other field as caption."""
    lines = _lines(path, suffix)
    head = list(islice(lines, _SAMPLE))
    known = [fields for _, fields in head if not isinstance(fields, str)]
    plain = [fields for fields in known if not fields[0].startswith("#") or any(map(is_address, fields))]
    places = Counter(at for fields in plain for at, field in enumerate(fields) if is_address(field))
    header = plain[0] if plain and _is_header(plain[0], max(places, key=lambda at: places[at], default=None)) else None
    if header is not None:
        names = unique_names(header)
    else:
        names = next((_bare_names(fields) for fields in plain if any(map(is_address, fields))), [])
    for number, fields in chain(head, lines):
        if isinstance(fields, str):
            yield number, fields
        elif (fields is header and len(fields) > 1) or _is_comment(fields, names):
            continue
        elif len(fields) > len(names):
            yield number, f"{len(fields)} fields instead of {len(names)}"
        else:
            yield number, dict(zip(names, fields, strict=False))


def _lines(path: Path | ObjectPath, suffix: str) -> Iterator[tuple[int, list[str] | str]]:
    """The fields of lines that are not empty, with the lines' numbers; a text that says so where the file cannot be read on."""
    with io.TextIOWrapper(path.open("rb"), encoding_of(read_head(path)), "replace", newline="") as file:
        csv.field_size_limit(2**24)
        first = file.readline().lstrip("\ufeff")
        separator = "\t" if "\t" in first or suffix != ".csv" else ","
        file.seek(0)
        reader = csv.reader(file, delimiter=separator, quoting=csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE)
        try:
            for fields in reader:
                if any(field.strip("\ufeff \t") for field in fields):
                    yield reader.line_num, [field.lstrip("\ufeff") for field in fields]
        except csv.Error as error:
            yield reader.line_num, f"cannot be read on: {error}"


def _is_header(fields: list[str], at: int | None) -> bool:
    """Whether the first line names columns. ``at``: where the lines have their address; there a header has a word, and a line of
    the table what was meant to be an address."""
    if at is None or any(map(is_address, fields)):
        return at is None
    here = fields[at].strip() if at < len(fields) else ""
    if ":/" in here or here.lower().endswith(IMAGE_SUFFIXES):
        return False
    return _names_columns(fields) or not (is_missing(here) or re.search(r"\S/|/\S", here))


def _names_columns(fields: list[str]) -> bool:
    means = meaning(tuple(fields))
    named = _first_named((*_OF_PICTURES, *_GENERAL), fields)
    return bool(named or means.image or means.caption or means.licence or means.source)


def _is_comment(fields: list[str], names: list[str]) -> bool:
    """``#`` begins a comment, a header or a line that was taken out, but captions begin with it too: a line with an address or
    with all its fields is one of the table."""
    if not fields[0].startswith("#") or any(map(is_address, fields)):
        return False
    first = fields[0].lstrip("# ")
    whole = 1 < len(fields) == len(names)
    return not whole or is_address(first) or _names_columns([first, *fields[1:]])


def _bare_names(fields: list[str]) -> list[str]:
    at = next(i for i, field in enumerate(fields) if is_address(field))
    names = [f"column_{i + 1}" for i in range(len(fields))]
    names[at] = "url"
    others = [i for i in range(len(fields)) if i != at]
    if others:
        names[others[0]] = "caption"
    return names
