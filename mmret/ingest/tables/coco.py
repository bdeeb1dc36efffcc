"""Reads captions as COCO writes them: a list of images and a list of annotations that name an image by its id.

Either list may come first, so both go to a temporary file and are joined there: memory stays flat, and 600,000 captions take some
five seconds. An image is one record with all its captions; an annotation of an image that the file does not have is a bad record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from mmret.ingest.object_store.path import ObjectPath
from mmret.ingest.spill import temporary_database
from mmret.ingest.tables.json_stream import JsonStream
from mmret.ingest.tables.records import SAMPLE, Record
from mmret.ingest.tables.text_files import UNREADABLE, open_text


def coco_captions(path: Path | ObjectPath, encoding: str) -> Iterator[Record]:
    """A record an image, in the file's order: its name as ``image``, its captions in the order of their list as ``caption``, the
    name of its licence as ``license``, its address as ``url``, and what else the file says of it."""
    database = temporary_database()
    try:
        database.execute("CREATE TABLE images (number INTEGER PRIMARY KEY, id TEXT, columns TEXT)")
        database.execute("CREATE TABLE captions (number INTEGER PRIMARY KEY, id TEXT, caption TEXT)")
        licences: dict[str | None, str] = {}
        broken: str | None = None
        try:
            with open_text(path, encoding) as file:
                _load(JsonStream(file), database, licences)
        except (ValueError, *UNREADABLE) as error:
            broken = f"the file cannot be read from here on: {getattr(error, 'msg', error)}"
        yield from _joined(database, licences)
        if broken:
            yield _count(database, "images") + _count(database, "captions") + 1, broken
    finally:
        database.close()


def first_names(path: Path | ObjectPath, encoding: str) -> list[str]:
    """The names of the file's first images, read no further than that."""
    try:
        with open_text(path, encoding) as file:
            stream = JsonStream(file)
            for name in stream.members():
                if name == "images" and stream.next_sign() == "[":
                    entries = islice(stream.elements(), SAMPLE)
                    return [e["file_name"] for e in entries if isinstance(e, dict) and isinstance(e.get("file_name"), str)]
                stream.skip()
    except (ValueError, *UNREADABLE):
        pass
    return []


def _load(stream: JsonStream, database: Connection, licences: dict[str | None, str]) -> None:
    for name in stream.members():
        if name not in ("images", "annotations", "licenses") or stream.next_sign() != "[":
            stream.skip()
            continue
        for entry in stream.elements():
            entry = "not UTF-8" if stream.garbled else entry
            if name == "licenses":
                if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                    licences[_key(entry.get("id"))] = entry["name"]
            elif name == "images":
                key = _key(entry.get("id")) if isinstance(entry, dict) else None
                database.execute("INSERT INTO images (id, columns) VALUES (?, ?)", (key, json.dumps(entry)))
            else:
                image = _key(entry.get("image_id")) if isinstance(entry, dict) else None
                caption = entry.get("caption") if isinstance(entry, dict) else entry
                database.execute("INSERT INTO captions (id, caption) VALUES (?, ?)", (image, json.dumps(caption)))


def _joined(database: Connection, licences: dict[str | None, str]) -> Iterator[Record]:
    database.execute("CREATE INDEX by_id ON captions (id, number)")
    database.execute("CREATE INDEX by_image ON images (id)")
    for number, key, text in database.execute("SELECT number, id, columns FROM images ORDER BY number"):
        image = json.loads(text)
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
            yield number, f"an image without a file_name: {text:.100}"
            continue
        captions = database.execute("SELECT caption FROM captions WHERE id = ? ORDER BY number", (key,)).fetchall()
        name, licence = image.pop("file_name"), image.pop("license", None)
        urls = [image.pop(column) for column in ("coco_url", "flickr_url") if column in image]
        columns = {"image": name, "caption": [json.loads(caption) for (caption,) in captions]}
        columns |= {"license": licences.get(_key(licence), licence)} if licence is not None else {}
        columns |= {"url": urls[0]} if urls else {}
        yield number, columns | {column: value for column, value in image.items() if column not in columns}
    images = _count(database, "images")
    orphans = "SELECT number, id, caption FROM captions WHERE id IS NULL OR id NOT IN (SELECT id FROM images WHERE id IS NOT NULL)"
    for number, key, caption in database.execute(orphans + " ORDER BY number"):
        yield images + number, f"annotation {number} is of image {key or 'unknown'}, which the file does not have: {caption:.100}"


def _key(identity: Any) -> str | None:
    """Ids are numbers in one list and texts in the other often enough."""
    if identity is None or isinstance(identity, bool | list | dict):
        return None
    return str(identity).encode("utf-8", "backslashreplace").decode()


def _count(database: Connection, table: str) -> int:
    return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
