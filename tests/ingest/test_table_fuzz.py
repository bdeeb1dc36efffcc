"""Damaged tables of every kind: a reader never stops with an exception, and gives each of its records a number of its own.

``MMRET_FUZZ_CASES`` sets how many damaged files are tried; the default takes some seconds.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmret.errors import UserError
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.rows import row_of_columns
from mmret.ingest.tables.manifest_files import Manifest, read_manifest, recognise
from mmret.ingest.tables.picture_table import PictureTable
from tests.ingest.files import png

CASES = int(os.environ.get("MMRET_FUZZ_CASES", "240"))
INSERTED = (
    b'"',
    b"\0",
    b"\n",
    b"\r",
    b",",
    b"\t",
    b"[",
    b"]",
    b"{",
    b"}",
    b":",
    b"\\",
    b"\xff",
    b"null",
    b"NaN",
    b"1e999",
    b'"\\ud800"',
)


def sound_files() -> Iterator[tuple[str, bytes]]:
    """One small file of every kind: suffix and content."""
    held = pa.table({"image": [{"bytes": png(i), "path": f"{i}.png"} for i in range(6)], "text": ["x", "y", "z", "é", "v", None]})
    named = pa.table({"image": [f"{i}.png" for i in range(6)], "caption": ["x"] * 6, "n": [1.0] * 6})
    for table in (held, named):
        out = io.BytesIO()
        pq.write_table(table, out, row_group_size=2)
        yield ".parquet", out.getvalue()
        for new in (pa.ipc.new_stream, pa.ipc.new_file):
            out = io.BytesIO()
            with new(out, table.schema) as writer:
                writer.write_table(table, max_chunksize=2)
            yield ".arrow", out.getvalue()
    images = [{"id": i, "file_name": f"{i}.jpg", "license": 1} for i in range(4)]
    captions = [{"image_id": i % 4, "caption": "c"} for i in range(9)]
    coco = {"licenses": [{"id": 1, "name": "CC0"}], "images": images, "annotations": captions}
    split = {"images": [{"filepath": "v", "filename": "a.jpg", "sentences": [{"raw": "x"}]}] * 3}
    turns = [{"image": "a.jpg", "conversations": [{"from": "gpt", "value": "x"}]}] * 4
    for value in (coco, split, turns, {"a.jpg": "x", "b.jpg": ["y", "z"]}):
        yield ".json", json.dumps(value, indent=1).encode()
    yield ".jsonl", b"\n".join(json.dumps({"image": f"{i}.jpg", "caption": ["x", "y"]}).encode() for i in range(5))
    yield ".csv", 'image,caption,n\na.jpg,"x, y",1\nb.jpg,"café\nz",2\nc.jpg,"x""y",3\n'.encode()
    yield ".tsv", 'image\tcaption\na.jpg\tx\nb.jpg\t"y\n'.encode("utf-16")
    yield ".txt", b"a.jpg#0\tx\na.jpg#1\ty\nb.jpg#0\tz\n"
    yield ".csv.gz", gzip.compress(b"image,caption\n" + b"a.jpg,x\n" * 50)


SOUND = tuple(sound_files())


def damage(draw: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(draw.randint(0, 6)):
        at, kind = draw.randrange(len(data) + 1), draw.randrange(5)
        if kind == 0:
            data[at % len(data)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at:at] = draw.choice(INSERTED)
        elif kind == 2:
            del data[at : at + draw.randint(1, 20)]
        elif kind == 3:
            del data[at:]
        else:
            copied = draw.randrange(len(data) + 1)
            data[at:at] = data[copied : copied + draw.randint(1, 30)]
        data = data or bytearray(b"x")
    return bytes(data)


def read_all(path: Path) -> None:
    found = recognise(path)
    if isinstance(found, str):
        assert found and "\n" not in found
        try:
            list(read_manifest(path))
        except UserError:
            return
    elif found.embedded:
        table = PictureTable(path)
        for row in table.rows():
            try:
                table.open(row.path)[0].close()
            except Unreadable:
                continue
    else:
        read_records(found)


def read_records(manifest: Manifest) -> None:
    numbers = []
    for number, record in manifest.records():
        numbers.append(number)
        if isinstance(record, dict):
            try:
                row_of_columns(record)
            except Unreadable:
                continue
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("part", range(4))
def test_damaged_tables_never_stop_a_reader(tmp_path: Path, part: int):
    for case in range(part, CASES, 4):
        draw = random.Random(case)
        suffix, content = draw.choice(SOUND)
        if draw.random() < 0.15:
            suffix = draw.choice(SOUND)[0]
        path = tmp_path / f"table{suffix}"
        path.write_bytes(damage(draw, content))
        try:
            read_all(path)
        except UserError:
            continue
        except Exception as error:
            raise AssertionError(f"case {case}, a {suffix} file: {error!r}") from error


def test_every_sound_file_is_recognised(tmp_path: Path):
    for number, (suffix, content) in enumerate(SOUND):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(content)
        assert isinstance(recognise(path), Manifest), (suffix, recognise(path))
