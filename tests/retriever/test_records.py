"""What mmret embed reads: pictures and texts of tables, row by row, each with a reason where it cannot be embedded."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmret.retriever import records as module
from mmret.retriever.records import numbered_records, open_records
from tests.ingest.files import png, write


def texts(path: Path) -> list[tuple[str | None, str | None]]:
    return [(record.caption, record.reason) for record in open_records([str(path)], pictures=False, texts=True)]


def test_own_names_of_texts_come_first_then_those_of_queries_then_those_of_other_tools(tmp_path: Path):
    write(
        tmp_path,
        {"a.csv": "query,title\nasked,named\n", "b.csv": "caption,query\nsaid,asked\n,asked\n", "c.csv": "title,n\nnamed,1\n"},
    )
    assert texts(tmp_path / "a.csv") == [("asked", None)]
    assert texts(tmp_path / "b.csv") == [("said", None), ("asked", None)]
    assert texts(tmp_path / "c.csv") == [("named", None)]


def test_pictures_of_arrow_and_parquet_tables_need_no_caption(tmp_path: Path):
    table = pa.table({"image": [{"bytes": png(1), "path": "a.png"}, {"bytes": None, "path": "b.png"}], "label": [1, 2]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        first, second = open_records([str(tmp_path / name)], pictures=True, texts=False)
        assert (first.path, first.reason, first.read()) == ("a.png", None, png(1))
        assert (second.path, second.reason) == ("b.png", "no_picture")


def test_a_folder_that_is_named_like_a_table_is_a_folder(tmp_path: Path):
    (tmp_path / "photos.csv").mkdir()
    for name, colour in (("a", 1), ("b", 2)):
        (tmp_path / "photos.csv" / f"{name}.png").write_bytes(png(colour))
        (tmp_path / "photos.csv" / f"{name}.txt").write_text(name)
    found = list(open_records([str(tmp_path / "photos.csv")], pictures=True, texts=False))
    assert [(record.path, record.read()) for record in found] == [("a.png", png(1)), ("b.png", png(2))]
    assert texts(tmp_path / "photos.csv") == [("a", None), ("b", None)]


def test_rows_that_nobody_wants_are_not_read_and_the_others_keep_their_numbers(tmp_path: Path, monkeypatch):
    rows = [{"image": {"bytes": png(n), "path": f"{n}.png"}, "text": f"text {n}"} for n in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=5)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet", row_group_size=5)
    sources = [str(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    monkeypatch.setattr(module, "_WORTH_SKIPPING", 0)
    every = [(n, record.caption, record.read()) for n, record in numbered_records(sources, True, True)]
    assert [n for n, _, _ in every] == list(range(40)) and every[33] == (33, "text 13", png(13))
    wanted, found = [3], []
    for number, record in numbered_records(sources, True, True, lambda: wanted[0]):
        if record is not None:
            found.append((number, record.caption, record.read()))
        if number == 4:
            wanted[0] = 33
    read = [*range(5), *range(15, 20), *range(30, 40)]  # the last rows of each table say how many it has
    assert found == [every[n] for n in read]


def test_a_part_of_a_table_that_is_damaged_counts_where_it_is_passed_over(tmp_path: Path, monkeypatch):
    rows = [{"image": {"bytes": png(n), "path": f"{n}.png"}, "text": f"text {n}"} for n in range(20)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=5, compression="none", use_dictionary=False)
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(bytes(data))
    monkeypatch.setattr(module, "_WORTH_SKIPPING", 0)
    every = list(numbered_records([str(path)], True, True))
    assert [n for n, _ in every] == list(range(20)) and {r.reason for _, r in every[5:10]} == {"unreadable"}
    assert [n for n, _ in numbered_records([str(path)], True, True, lambda: 12)][-1] == 19


def test_rows_that_wait_hold_no_pictures(tmp_path: Path):
    data = [bytes([n]) + bytes(300_000) for n in range(60)]
    pq.write_table(pa.table({"image": data, "text": [f"text {n}" for n in range(60)]}), tmp_path / "a.parquet", row_group_size=20)
    tracemalloc.start()
    try:
        waiting = list(open_records([str(tmp_path / "a.parquet")], pictures=True, texts=True))
        assert tracemalloc.get_traced_memory()[0] < 1_000_000 < sum(map(len, data))
    finally:
        tracemalloc.stop()
    assert [record.read() for record in waiting] == data and {record.reason for record in waiting} == {None}
