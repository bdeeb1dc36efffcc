"""Invariants: a name that means exactly one file is that file in whatever spelling; one that means none is a reject that names the
likely file; nothing outside the folder is found by any spelling."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from mmret.ingest.rows import Row
from mmret.ingest.sources import open_reader, open_source
from tests.ingest.files import jsonl, png, write

FILES = {
    "im/my photo.jpg": png(1),
    "im/IMG_0001.JPG": png(2),
    "im/cafe\u0301.jpg": png(3),
    "im/a%20b.jpg": png(4),
    "Sub/x.png": png(5),
}


def rows(folder: Path, *names: str) -> list[Row]:
    write(folder, {"captions.jsonl": jsonl(*({"image": name, "caption": "c"} for name in names))})
    return list(open_source(str(folder / "captions.jsonl")).rows())


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("im/my%20photo.jpg", "im/my photo.jpg"),
        ("im/my photo.jpg ", "im/my photo.jpg"),
        (" im/my photo.jpg\t", "im/my photo.jpg"),
        ('"im/my photo.jpg"', "im/my photo.jpg"),
        ("im\\my%20photo.jpg", "im/my photo.jpg"),
        ("im/IMG_0001.jpg", "im/IMG_0001.JPG"),
        ("IM/img_0001.jpg", "im/IMG_0001.JPG"),
        ("im/caf\u00e9.jpg", "im/cafe\u0301.jpg"),
        ("im/CAF\u00c9.jpg", "im/cafe\u0301.jpg"),
        ("im/caf%C3%A9.jpg", "im/cafe\u0301.jpg"),
        ("im/a b.jpg", "im/a%20b.jpg"),
        ("sub\\X.PNG", "Sub/x.png"),
        ("@/im/my photo.jpg", "im/my photo.jpg"),
        ("file://@/im/my photo.jpg", "im/my photo.jpg"),
        ("file://@/im/my%20photo.jpg", "im/my photo.jpg"),
        ("file:@/im/my photo.jpg", "im/my photo.jpg"),
        ("file://localhost@/im/my photo.jpg", "im/my photo.jpg"),
        ("@/im/../im/img_0001.jpg", "im/IMG_0001.JPG"),
    ],
)
def test_another_spelling_of_one_file_is_that_file_and_is_counted(tmp_path: Path, written: str, found: str):
    folder = write(tmp_path / "in", FILES)
    assert [row.path for row in rows(folder, written.replace("@", str(folder)))] == [found]
    source = open_source(str(folder))
    listed = list(source.rows())
    assert sorted(unicodedata.normalize("NFD", row.path) for row in listed) == sorted(FILES)  # each file once
    assert {r.remark: r.count for r in source.remarks}.get("other_spelling") == 1
    stream, size = open_reader(str(folder)).open(listed[0].path)
    with stream:
        assert stream.read(size) == FILES[found]


@pytest.mark.parametrize("written", ["./im/my photo.jpg", "im/../im/my photo.jpg", "im\\my photo.jpg", "im//my photo.jpg"])
def test_a_name_that_works_as_it_is_stays_as_it_is(tmp_path: Path, written: str):
    folder = write(tmp_path / "in", FILES)
    row = rows(folder, written)[0]
    assert (row.path, row.reason) == (written, None)


@pytest.mark.parametrize(
    ("written", "reason", "likely"),
    [
        ("im/my photo", "missing_file", "im/my photo.jpg is there"),
        ("im/my photo.png", "missing_file", "im/my photo.jpg is there"),
        ("im/my phot.jpg", "missing_file", "im/my photo.jpg is there"),
        ("other/x.png", "missing_file", "Sub/x.png is there"),
        ("x.png", "missing_file", "Sub/x.png is there"),
        ("/home/somebody/data/im/my photo.jpg", "unsafe_path", "im/my photo.jpg is there: write paths relative"),
        ("C:\\data\\im\\my photo.jpg", "unsafe_path", "im/my photo.jpg is there: write paths relative"),
        ("https://example.org/im/my photo.jpg", "missing_file", "an address, not a file"),
        ("s3://bucket/im/my photo.jpg", "missing_file", "an address, not a file"),
        ("wholly/other.jpg", "missing_file", "no such file"),
    ],
)
def test_a_name_that_means_no_file_is_a_reject_that_names_the_likely_one(tmp_path: Path, written: str, reason: str, likely: str):
    folder = write(tmp_path / "in", FILES)
    _, row = rows(folder, "im/my photo.jpg", written)
    assert row.reason == reason and likely in row.detail, row


def test_a_name_that_means_two_files_means_neither(tmp_path: Path):
    folder = write(tmp_path / "in", {"a.JPG": png(1), "A.jpg": png(2), "b.jpg": png(3)})
    if len(list(folder.iterdir())) < 3:
        pytest.skip("this file system does not tell cases apart")
    _, row = rows(folder, "b.jpg", "a.jpg")
    assert row.reason == "missing_file" and "a.JPG is there" in row.detail or "A.jpg is there" in row.detail


def test_no_spelling_leads_out_of_the_folder(tmp_path: Path):
    write(tmp_path, {"secret.png": png(7), "in2/secret.png": png(8)})
    folder = write(tmp_path / "in", {"a.png": png(1)})
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "dir").symlink_to(tmp_path)
    root = str(tmp_path)
    names = ["../secret.png ", "..%2Fsecret.png", f"{root}/secret.png", f"file://{root}/secret.png", f"{folder}2/secret.png"]
    names += [
        f"{folder}/../secret.png",
        f"{folder}/link.png",
        "LINK.png",
        "dir/SECRET.png",
        "%2e%2e/secret.png",
        f"{folder}/dir/secret.png",
    ]
    listed = rows(folder, "a.png", *names)[1:]
    assert all(row.reason in ("unsafe_path", "missing_file") for row in listed), listed
    assert not any("secret" in (row.detail or "") for row in listed)


def test_an_absolute_path_through_a_link_to_the_folder_is_inside(tmp_path: Path):
    write(tmp_path / "real", {"im/a.png": png(1)})
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    for source, named in (("real", "alias"), ("alias", "real")):
        assert [(r.path, r.reason) for r in rows(tmp_path / source, f"{tmp_path / named}/im/a.png")] == [("im/a.png", None)]


def test_a_million_missing_names_do_not_search_a_million_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from mmret.ingest.folders import names

    monkeypatch.setattr(names, "_SEARCHES", 5)
    folder = write(tmp_path / "in", {"a.png": png(1)})
    listed = rows(folder, "a.png", *(f"b{i}.png" for i in range(20)))
    assert [row.reason for row in listed[1:]] == ["missing_file"] * 20
