"""Invariants: every line of a manifest and every picture it does not name is a row; nothing outside a source is opened;
a source that cannot be read says what is accepted; captions of any script and length survive."""

from __future__ import annotations

import io
import json
import os
import tarfile
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmret.errors import UserError
from mmret.ingest.decode import Unreadable
from mmret.ingest.rows import Row, clean_text
from mmret.ingest.sources import open_reader, open_source, open_sources
from tests.ingest.files import captioned, jsonl, png, tar, write


def rows(source: Path | str) -> dict[str, Row]:
    listed = list(open_source(str(source)).rows())
    assert len({row.path for row in listed}) == len(listed)
    return {row.path: row for row in listed}


def reasons(source: Path | str) -> dict[str, str | None]:
    return {path: row.reason for path, row in rows(source).items()}


def read(source: Path | str, path: str) -> bytes:
    opened = open_source(str(source))
    for reader in (opened, open_reader(opened.root)):
        stream, size = reader.open(path)
        with stream:
            data = stream.read(size)
    return data


@pytest.mark.parametrize("name", ["captions.jsonl", "manifest.csv", "metadata.parquet", "anything.tsv", "x.ndjson"])
def test_every_kind_of_manifest_lists_the_same(tmp_path: Path, name: str):
    write(tmp_path, {"images/a.png": png(1), "images/b.png": png(2)})
    records = [
        dict(file_name="images/a.png", text='käse, "ripe"', license="CC0", url="https://x/a", n="1"),
        dict(file_name="images/b.png", text="two\nlines", license="", url="", n=""),
    ]
    if name.endswith(("jsonl", "ndjson")):
        write(tmp_path, {name: "\ufeff" + jsonl(*records)})
    elif name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(records), tmp_path / name)
    else:
        import csv

        out = io.StringIO()
        writer = csv.DictWriter(out, records[0], delimiter="\t" if name.endswith("tsv") else ",")
        writer.writeheader()
        writer.writerows(records)
        write(tmp_path, {name: "\ufeff" + out.getvalue()})
    listed = rows(tmp_path)
    first = listed["images/a.png"]
    assert (first.caption, first.licence, first.source) == ('käse, "ripe"', "CC0", "https://x/a")
    assert json.loads(first.extra) == {"n": "1"}
    assert first.size == len(png(1)) and first.mtime_ns == (tmp_path / "images/a.png").stat().st_mtime_ns
    assert listed["images/b.png"].caption.split() == ["two", "lines"]
    assert rows(tmp_path / name).keys() == listed.keys()
    assert read(tmp_path, "images/a.png") == png(1) == read(tmp_path / name, "images/a.png")


def test_pictures_that_the_manifest_does_not_name_are_rows_without_a_caption(tmp_path: Path):
    captioned(tmp_path, {"images/a.png": png(1), "b.jpg": png(2)})
    write(tmp_path, {"images/deep/c.PNG": png(3), "notes.md": "no picture", ".hidden/d.png": png(4)})
    listed = rows(tmp_path)
    assert {path: row.caption is None for path, row in listed.items()} == {
        "images/a.png": False,
        "b.jpg": False,
        "images/deep/c.PNG": True,
    }
    assert all(row.reason is None for row in listed.values())
    assert "images/deep/c.PNG" not in rows(tmp_path / "captions.jsonl")


def test_side_car_captions_of_nested_folders(tmp_path: Path):
    write(
        tmp_path,
        {
            "a.png": png(1),
            "a.txt": "\ufeffa café",
            "x/b.jpg": png(2),
            "x/b.txt": "b",
            "x/c.webp": png(3),
            "d.png": png(4),
            "d.txt": b"\xff\xfe\x00",
            "LICENSE.txt": "words",
        },
    )
    listed = rows(tmp_path)
    assert {p: (r.caption, r.reason) for p, r in listed.items()} == {
        "a.png": ("a café", None),
        "x/b.jpg": ("b", None),
        "x/c.webp": (None, None),
        "d.png": (None, "bad_caption"),
    }


def test_webdataset_tars_alone_and_in_a_folder(tmp_path: Path):
    members = {
        "000.jpg": png(1),
        "000.txt": "first",
        "001.png": png(2),
        "001.json": json.dumps({"caption": "second", "license": "CC BY", "url": "u", "clip": 0.3}),
        "x/002.png": png(3),
        "003.png": png(4),
        "003.txt": b"\xff",
        "004.png": png(5),
        "004.json": "[1",
        "meta.json": "{}",
        "005.cls": "3",
    }
    tar(tmp_path / "t" / "00000.tar", members)
    tar(tmp_path / "t" / "00001.tar", {"000.jpg": png(9), "000.txt": "other"})
    alone, folder = rows(tmp_path / "t" / "00000.tar"), rows(tmp_path / "t")
    assert [(p, r.caption, r.reason) for p, r in alone.items()] == [
        ("000.jpg", "first", None),
        ("001.png", "second", None),
        ("x/002.png", None, None),
        ("003.png", None, "bad_caption"),
        ("004.png", None, "bad_caption"),
    ]
    assert (alone["001.png"].licence, alone["001.png"].source) == ("CC BY", "u")
    assert json.loads(alone["001.png"].extra) == {"clip": 0.3}
    assert list(folder) == [f"00000.tar/{p}" for p in alone] + ["00001.tar/000.jpg"]
    assert read(tmp_path / "t" / "00000.tar", "x/002.png") == png(3) == read(tmp_path / "t", "00000.tar/x/002.png")
    assert read(tmp_path / "t", "00001.tar/000.jpg") == png(9)


def test_paths_that_leave_a_folder_are_refused_and_never_read(tmp_path: Path):
    secret = write(tmp_path, {"secret.png": png(7)}) / "secret.png"
    inside = write(tmp_path / "in", {"images/a.png": png(1)})
    (inside / "images/out.png").symlink_to(secret)
    (inside / "images/in.png").symlink_to(inside / "images/a.png")
    (inside / "images/loop.png").symlink_to(inside / "images/loop.png")
    (inside / "linked").symlink_to(tmp_path)
    names = [
        "../secret.png",
        "images/../../secret.png",
        str(secret),
        "images/out.png",
        "linked/secret.png",
        "C:\\secret.png",
        "\\\\host\\x.png",
        "..\\secret.png",
        "images/a\0.png",
    ]
    fine = ["images/../images/a.png", "./images/a.png", "images\\a.png", "images/in.png"]
    other = ["images/loop.png", "images", "nowhere.png", "x" * 300 + ".png", "images/a.png/b.png"]
    write(inside, {"captions.jsonl": jsonl(*({"image": n, "caption": "c"} for n in names + fine + other))})
    listed = reasons(inside)
    assert [listed[name] for name in names[:-1]] == ["unsafe_path"] * (len(names) - 1)
    assert listed["captions.jsonl:9"] == "bad_manifest_row"
    assert [listed[name] for name in fine] == [None] * len(fine)
    assert [listed[name] for name in other] == ["unreadable", "not_a_file"] + ["missing_file"] * 3
    assert listed["linked"] == "unsafe_path" and len(listed) == len(names + fine + other) + 1
    for name in names:
        with pytest.raises(Unreadable, match="unsafe_path"):
            open_reader(str(inside)).open(name)
    assert read(inside, "images\\a.png") == png(1)


def test_links_among_side_car_files_are_refused(tmp_path: Path):
    write(tmp_path, {"secret.png": png(7), "secret.txt": "secret"})
    inside = write(tmp_path / "in", {"a.png": png(1)})
    (inside / "a.txt").symlink_to(tmp_path / "secret.txt")
    (inside / "b.png").symlink_to(tmp_path / "secret.png")
    (inside / "more").symlink_to(tmp_path)
    (inside / "t.tar").symlink_to(tar(tmp_path / "t.tar", {"0.png": png(3)}))
    assert reasons(inside) == dict.fromkeys(("a.png", "b.png", "more", "t.tar"), "unsafe_path")
    with pytest.raises(Unreadable, match="unsafe_path"):
        open_reader(str(inside)).open("t.tar/0.png")


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    write(tmp_path, {"a.png": png(1)})
    os.mkfifo(tmp_path / "b.png")
    assert reasons(tmp_path) == {"a.png": None, "b.png": "not_a_file"}


def test_tar_members_that_leave_or_link_are_refused(tmp_path: Path):
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name, kind, target in (
            ("../up.png", tarfile.REGTYPE, ""),
            ("/etc/x.png", tarfile.REGTYPE, ""),
            ("a/../../b.png", tarfile.REGTYPE, ""),
            ("sym.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.png", tarfile.LNKTYPE, "ok.png"),
            ("pipe.png", tarfile.FIFOTYPE, ""),
            ("./ok.png", tarfile.REGTYPE, ""),
            ("./ok.png", tarfile.REGTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"abc"))
    listed = [(row.path, row.reason) for row in open_source(str(tmp_path / "t.tar")).rows()]
    assert listed == [
        ("../up.png", "unsafe_path"),
        ("/etc/x.png", "unsafe_path"),
        ("a/../../b.png", "unsafe_path"),
        ("sym.png", "unsafe_path"),
        ("hard.png", None),
        ("pipe.png", "not_a_file"),
        ("./ok.png", None),
        ("./ok.png", "duplicate_name"),
    ]
    with pytest.raises(Unreadable, match="unsafe_path|missing_file"):
        open_reader(str(tmp_path / "t.tar")).open("../up.png")


def test_a_cut_tar_keeps_what_comes_before_the_cut(tmp_path: Path):
    whole = tar(tmp_path / "w.tar", {f"{i}.png": png(i, (40, 40)) for i in range(3)}).read_bytes()
    folder = write(tmp_path / "f", {"cut.tar": whole[:7000], "text.tar": "no tar", "empty.tar": ""})
    assert reasons(folder) == {
        "cut.tar/0.png": None,
        "cut.tar/1.png": "unreadable",
        "cut.tar": "damaged_tar",
        "empty.tar": "damaged_tar",
        "text.tar": "damaged_tar",
    }
    with pytest.raises(UserError, match="not an uncompressed tar"):
        open_source(str(folder / "text.tar"))


def test_bad_lines_are_rejected_with_their_number(tmp_path: Path):
    write(
        tmp_path,
        {
            "a.png": png(1),
            "captions.jsonl": b"\n".join(
                [
                    b'{"image": "a.png", "caption": "fine"}',
                    b"{not json",
                    b"[1, 2]",
                    b"",
                    b'{"image": "a\xff.png"}',
                    b'{"caption": "no image"}',
                    b'{"image": 7, "caption": "x"}',
                    b'{"image": "b.png", "caption": {"a": 1}}',
                    b'{"image": "\\ud800.png", "caption": "x"}',
                    b'{"image": "", "caption": "x"}',
                    b"[" * 100_000,
                ]
            ),
        },
    )
    listed = rows(tmp_path)
    bad = {path for path, row in listed.items() if row.reason == "bad_manifest_row"}
    assert bad == {f"captions.jsonl:{n}" for n in (2, 3, 5, 6, 7, 8, 9, 10, 11)}
    assert all(listed[path].detail for path in bad)
    assert listed["a.png"].reason is None


def test_bad_lines_of_a_csv(tmp_path: Path):
    write(
        tmp_path,
        {
            "a.png": png(1),
            "captions.csv": b'image,caption,n\na.png,"two\nlines",1\na.png,short\na.png,x,1,2\na.png,\xff,1\n\nb.png,\0,1\n',
        },
    )
    source = open_source(str(tmp_path))
    assert [(r.path, r.reason) for r in source.rows()] == [
        ("a.png", None),
        ("captions.csv:4", "bad_manifest_row"),
        ("captions.csv:5", "bad_manifest_row"),
        ("captions.csv:6", "bad_manifest_row"),
        ("b.png", "missing_file"),
    ]


def test_a_manifest_without_the_columns_names_those_it_has(tmp_path: Path):
    write(tmp_path, {"captions.jsonl": jsonl({"picture": "a.png", "caption": "x"})})
    with pytest.raises(UserError, match=r"no image column: found picture, caption; expected one called image or"):
        open_source(str(tmp_path))
    write(tmp_path, {"captions.csv": "image,label\na.png,x\n"})
    with pytest.raises(UserError, match="no caption column: found image, label"):
        open_source(str(tmp_path / "captions.csv"))
    write(tmp_path, {"captions.jsonl": "image,caption\n".encode("utf-16")})
    with pytest.raises(UserError, match="no object with columns"):
        open_source(str(tmp_path))
    write(tmp_path, {"q.parquet": "no parquet"})
    with pytest.raises(UserError, match="Parquet"):
        open_source(str(tmp_path / "q.parquet"))


def test_what_is_no_source_says_what_is_accepted(tmp_path: Path):
    write(
        tmp_path,
        {
            "empty/readme.md": "",
            "wrong/captions.jsonl": jsonl({"image": "a.png", "caption": "x"}),
            "two/a.csv": "image,caption\n",
            "two/b.csv": "image,caption\n",
            "t.tar.gz": "x",
            "x.json": "[]",
        },
    )
    for name, words in {
        "nowhere": "nothing at",
        "empty": "holds no picture",
        "wrong": "none of the first 1",
        "two": "a.csv it has the columns of a manifest, but no row",
        "t.tar.gz": "decompress",
        "x.json": "is empty",
    }.items():
        with pytest.raises(UserError, match=words):
            open_source(str(tmp_path / name))
    for text in ("shapes:", "shapes:0", "shapes:x", "shapes:5?seed=-1", "shapes:5?sed=1"):
        with pytest.raises(UserError, match="shapes:8000"):
            open_source(text)


def test_a_source_given_twice_is_one(tmp_path: Path):
    captioned(tmp_path, {"a.png": png(1)})
    assert len(open_sources([str(tmp_path), f"{tmp_path}/", "shapes:3", "shapes:3?seed=0"])) == 2


def test_file_names_that_are_not_utf8_are_refused(tmp_path: Path):
    write(tmp_path, {"a.png": png(1)})
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.png")).write_bytes(png(2))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert reasons(tmp_path) == {"a.png": None, "b\\xff.png": "bad_file_name"}


def test_captions_of_any_script_and_length_survive():
    for text in ("قطة تجلس على كرسي", "一只坐在椅子上的猫", "👩🏽‍🚀 in space 🇨🇭", "नमस्ते दुनिया", "Ünïcödé"):
        assert clean_text(text) == unicodedata.normalize("NFC", text)
    long = " ".join(f"word{i}" for i in range(10_000))
    assert clean_text(long) == long
    assert clean_text(" a\tb\r\n c\x00\x07d\u3000e\ufeff ") == "a b cd e"
    assert clean_text("e\u0301") == "\u00e9"
    assert clean_text("\ud800 x") == "? x"
    for nothing in (None, "", "  \n\t", "\u200b\u200d", "\x00\x01"):
        assert clean_text(nothing) is None


def test_columns_of_any_kind_are_kept(tmp_path: Path):
    record = {
        "image": "a.png",
        "caption": ["", "first", "second"],
        "licence": 3,
        "source": {"a": 1},
        "nan": float("nan"),
        "deep": {"x": [1, None, float("inf")]},
        "text": "also",
    }
    write(tmp_path, {"a.png": png(1), "captions.jsonl": json.dumps(record)})
    row = rows(tmp_path)["a.png"]
    assert (row.caption, row.licence, row.source) == ("first", "3", '{"a": 1}')
    assert json.loads(row.extra, parse_constant=pytest.fail) == {
        "caption": ["", "first", "second"],
        "nan": None,
        "deep": {"x": [1, None, None]},
        "text": "also",
    }


@pytest.mark.parametrize(("name", "count"), [("emoji", 8067), ("openstax_photos", 2530)])
def test_real_folders_list_whole(pictures: Path, name: str, count: int):
    listed = rows(pictures / name)
    assert len(listed) == count
    assert all(row.reason is None and row.caption for row in listed.values())
