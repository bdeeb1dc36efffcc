"""Parquet and Arrow tables, with paths or with the pictures themselves: every row ends as a row or with a reason."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmret.errors import UserError
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.rows import row_of_columns
from mmret.ingest.sources import open_reader, open_source
from mmret.ingest.tables import picture_table
from mmret.ingest.tables.columnar import Columnar
from mmret.ingest.tables.manifest_files import Manifest, recognise
from mmret.ingest.tables.picture_table import PictureTable
from tests.ingest.files import jpeg, png

PICTURES = [png(1), jpeg(2), png(3), png(4)]
CAPTIONS = ["one", "two", None, "four"]


def save(path: Path, table: pa.Table, rows_a_group: int = 2) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows_a_group)
    elif path.name.endswith("stream.arrow"):
        with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows_a_group)
    else:
        with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows_a_group)
    return path


def content(reader, path: str) -> bytes:
    stream, size = reader.open(path)
    with stream:
        return stream.read(size)


SHAPES = {
    "struct": ("image", [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(PICTURES)]),
    "binary": ("jpg", PICTURES),
    "large": ("img_bytes", pa.array(PICTURES, pa.large_binary())),
    "list": ("images", [[{"bytes": data, "path": None}] for data in PICTURES]),
    "unnamed": ("content", PICTURES),
}


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow", "a.feather"])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_pictures_in_a_table_are_a_source_and_found_again_after_sealing(tmp_path: Path, name: str, shape: str):
    column, values = SHAPES[shape]
    path = save(tmp_path / name, pa.table({"id": [5, 6, 7, 8], column: values, "text": CAPTIONS, "license": ["CC0"] * 4}))
    found = recognise(path)
    assert isinstance(found, Manifest) and found.embedded
    source = open_source(str(path))
    rows = list(source.rows())
    assert [(row.path, row.caption, row.licence, row.size) for row in rows] == [
        (str(i), caption, "CC0", len(data)) for i, (caption, data) in enumerate(zip(CAPTIONS, PICTURES, strict=True))
    ]
    assert json.loads(rows[1].extra) == {"id": 6} | ({"image": {"path": "1.png"}} if shape == "struct" else {})
    assert rows[0].mtime_ns == os.stat(path).st_mtime_ns
    for reader in (source, open_reader(source.root)):
        assert [content(reader, str(i)) for i in (0, 1, 2, 3, 1, 0, 3)] == [PICTURES[i] for i in (0, 1, 2, 3, 1, 0, 3)]
    for wrong in ("4", "-1", "x", "", "1/2"):
        with pytest.raises(Unreadable, match="missing_file"):
            source.open(wrong)


def test_rows_without_a_picture_or_with_several_have_a_reason(tmp_path: Path):
    images = [[{"bytes": PICTURES[0], "path": None}], [], None, [{"bytes": b"a", "path": None}] * 2, [{"bytes": None, "path": "x"}]]
    path = save(tmp_path / "a.parquet", pa.table({"images": images, "text": ["t"] * 5}))
    assert [(row.path, row.reason) for row in PictureTable(path).rows()] == [
        ("0", None),
        *((str(i), "missing_file") for i in range(1, 5)),
    ]
    assert "several pictures" in list(PictureTable(path).rows())[3].detail
    with pytest.raises(Unreadable, match="missing_file"):
        PictureTable(path).open("2")


def test_what_holds_no_pictures_is_a_manifest_or_a_sentence(tmp_path: Path):
    paths = save(tmp_path / "a.parquet", pa.table({"image": [{"bytes": None, "path": "a.png"}], "text": ["t"]}))
    assert [row_of_columns(record).path for _, record in recognise(paths).records()] == ["a.png"]
    thumbnails = pa.table({"file_name": ["a.png"], "thumbnail": [png(1)], "hash": [b"BM12"], "text": ["t"]})
    found = recognise(save(tmp_path / "t.parquet", thumbnails))
    assert isinstance(found, Manifest) and not found.embedded
    as_bytes = save(tmp_path / "b.parquet", pa.table({"image": [b"a.png"], "text": [b"t"]}))
    assert [row_of_columns(record).path for _, record in recognise(as_bytes).records()] == ["a.png"]
    labelled = save(tmp_path / "c.parquet", pa.table({"image": [{"bytes": PICTURES[0], "path": "a.png"}], "label": [3]}))
    assert "has no caption column: found image, label" in recognise(labelled)
    for name in ("d.parquet", "d.arrow"):
        (tmp_path / name).write_bytes(b"neither")
        assert "cannot be read as" in recognise(tmp_path / name)
        with pytest.raises(UserError, match="cannot be read as"):
            PictureTable(tmp_path / name)
    with pytest.raises(UserError, match="holds no pictures"):
        PictureTable(as_bytes)
    (tmp_path / "old.feather").write_bytes(b"FEA1" + bytes(20))
    assert "version 1" in recognise(tmp_path / "old.feather")


def test_a_damaged_row_group_costs_its_own_rows_only(tmp_path: Path):
    names = [f"{'abcdefgh' * 20}{i}.png" for i in range(8)]
    path = save(tmp_path / "a.parquet", pa.table({"image": names, "caption": ["t"] * 8}))
    place = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[place : place + 40] = bytes(range(200, 240))
    path.write_bytes(data)
    records = list(recognise(path).records())
    assert [number for number, _ in records] == list(range(1, 9))
    assert [isinstance(record, str) for _, record in records] == [False, False, True, True, False, False, False, False]
    whole = save(tmp_path / "stream.arrow", pa.table({"image": names, "caption": ["t"] * 8})).read_bytes()
    (tmp_path / "stream.arrow").write_bytes(whole[: len(whole) * 2 // 3])
    records = list(recognise(tmp_path / "stream.arrow").records())
    assert 1 < len(records) < 8 and "cannot be read from here on" in records[-1][1]


def test_values_that_python_cannot_hold_and_repeated_names_cost_no_other_row(tmp_path: Path):
    texts = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xffb"))
    table = pa.Table.from_arrays([pa.array(["a.png", "b.png"]), texts, pa.array(["x", "y"])], ["image", "caption", "caption"])
    records = [record for _, record in Columnar(save(tmp_path / "file.arrow", table)).records()]
    assert "the value of caption cannot be read" in records[0]
    assert records[1] == {"image": "b.png", "caption": "b", "caption.1": "y"}


def test_lengths_of_a_damaged_arrow_file_are_not_followed(tmp_path: Path):
    path = save(
        tmp_path / "file.arrow", pa.table({"image": ["a.png", "b.png", "c.png"], "caption": ["x", "y", "z"]}), rows_a_group=3
    )
    data = path.read_bytes()
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 1, 2, 3))
    assert data.count(offsets) == 1
    for wrong in ((0, 1, 2**30, 2**30), (0, 1, 2**30, 3)):
        path.write_bytes(data.replace(offsets, b"".join(n.to_bytes(4, "little") for n in wrong)))
        records = [record for _, record in recognise(path).records()]
        assert records[0] == {"image": "a.png", "caption": "x"}
        assert all("the value of caption cannot be read" in record for record in records[1:]) and len(records) == 3


def test_threads_read_each_their_own_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(picture_table, "_WINDOW_BYTES", 500)
    values = [{"bytes": bytes([255, 216, 255]) + str(i).encode() * 50, "path": None} for i in range(60)]
    source = PictureTable(save(tmp_path / "a.parquet", pa.table({"image": values, "text": ["t"] * 60}), rows_a_group=7))
    start = threading.Barrier(4)

    def read(seed: int) -> bool:
        start.wait()
        order = [(seed * 17 + i * 7) % 60 for i in range(60)]
        return all(content(source, str(i)) == values[i]["bytes"] for i in order)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


def test_a_folder_with_such_a_table_lists_its_pictures(tmp_path: Path):
    (tmp_path / "data").mkdir()
    values = [{"bytes": data, "path": None} for data in PICTURES]
    save(tmp_path / "data/train-00000-of-00001.parquet", pa.table({"image": values, "text": ["t"] * 4}))
    source = open_source(str(tmp_path))
    assert [row.path for row in source.rows()] == [f"data/train-00000-of-00001.parquet/{i}" for i in range(4)]
    assert content(open_reader(source.root), "data/train-00000-of-00001.parquet/2") == PICTURES[2]


def test_a_row_of_a_picture_table_that_cannot_be_read_costs_no_other(tmp_path: Path):
    images = [{"bytes": data, "path": None} for data in PICTURES]
    days = pa.array([10**8, 1, 10**8, 2], pa.date32())  # no date of Python's is so far away
    table = pa.table({"image": images, "text": ["a", "b", "c", "d"], "day": days})
    rows = list(PictureTable(save(tmp_path / "file.arrow", table, rows_a_group=4)).rows())
    assert [(row.path, row.caption, row.reason, row.size) for row in rows] == [
        (str(n), None if n in (0, 2) else "abcd"[n], "bad_manifest_row" if n in (0, 2) else None, len(PICTURES[n]))
        for n in range(4)
    ]
    assert "the value of day cannot be read" in rows[0].detail
    odd = pa.table({"image": images[:3], "text": pa.array([["a"], None, ["c"]]), "n": [1, 2, 3]})
    assert [row.caption for row in PictureTable(save(tmp_path / "a.parquet", odd)).rows()] == ["a", None, "c"]


def test_a_listing_closes_its_table_however_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    closed = []

    class Watched(Columnar):
        def close(self) -> None:
            closed.append(self)
            super().close()

    images = [{"bytes": data, "path": None} for data in PICTURES]
    source = PictureTable(save(tmp_path / "a.parquet", pa.table({"image": images, "text": CAPTIONS})))
    monkeypatch.setattr(picture_table, "Columnar", Watched)
    assert len(list(source.rows())) == 4 and len(closed) == 1
    begun = source.rows()
    next(begun)
    begun.close()
    assert len(closed) == 2


def test_pictures_without_names_beside_their_bytes_are_read(tmp_path: Path):
    table = pa.table({"image": [{"bytes": data} for data in PICTURES], "text": CAPTIONS})
    rows = list(PictureTable(save(tmp_path / "a.parquet", table)).rows())
    assert [(row.caption, row.reason) for row in rows] == [(caption, None) for caption in CAPTIONS]


def test_a_table_whose_paths_lead_to_files_is_a_manifest_and_its_pictures_are_remarked(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(PICTURES[0])
    table = pa.table({"file_name": ["a.png"], "image": [{"bytes": png(9), "path": None}], "text": ["t"]})
    found = recognise(save(tmp_path / "t.parquet", table))
    noted: list[tuple[object, ...]] = []
    assert [record for _, record in found.records(lambda *said: noted.append(said))] == [{"file_name": "a.png", "text": "t"}]
    assert noted == [("thumbnails", "t.parquet", "the files that its paths name are used, not the pictures in the column image")]
