"""Invariants: a picture has the caption of the text that its name says is its own, in whatever spelling; what was guessed or
overruled is a remark, what cannot be read is a reject that says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmret.ingest.folders.captions import TextFile, TextName, columns_of_texts, lines_as_captions, text_name
from mmret.ingest.folders.side_cars import SideCars
from mmret.ingest.sources import open_source
from tests.ingest.files import png, write


def listed(folder: Path) -> tuple[dict[str, tuple[str | None, str | None]], dict[str, tuple[int, str | None]]]:
    source = open_source(str(folder))
    rows = {row.path: (row.caption, row.reason) for row in source.rows()}
    return rows, {r.remark: (r.count, r.path) for r in source.remarks}


SPELLINGS = [
    "a.txt",
    "a.TXT",
    "a.jpg.txt",
    "a.caption",
    "a.text",
    "a.caption.txt",
    "a.json",
    "a.jpg.json",
    "A.txt",
    "a.jpg.caption",
]


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_side_car_is_found_in_every_spelling(tmp_path: Path, name: str):
    text = '{"caption": "a café"}' if name.endswith("json") else "a café"
    write(tmp_path, {"x/a.jpg": png(1), f"x/{name}": text})
    assert listed(tmp_path) == ({"x/a.jpg": ("a café", None)}, {})


def test_names_with_dots_and_names_that_begin_alike_have_their_own_texts(tmp_path: Path):
    names = ["g.v2", "g", "g.v2.final", "IMG.001", "IMG.002"]
    for i, name in enumerate(names):
        write(tmp_path, {f"{name}.png": png(i), f"{name}.txt": f"caption of {name}"})
    write(tmp_path, {"two.jpg": png(8), "two.png": png(9), "two.jpg.txt": "the jpg", "two.png.txt": "the png"})
    write(tmp_path, {"one.jpg": png(10), "one.png": png(11), "one.txt": "both"})
    rows, remarks = listed(tmp_path)
    assert {path: caption for path, (caption, _) in rows.items()} == {
        **{f"{name}.png": f"caption of {name}" for name in names},
        **{"two.jpg": "the jpg", "two.png": "the png", "one.jpg": "both", "one.png": "both"},
    }
    assert remarks == {}


def test_files_whose_names_differ_by_case_alone_keep_their_own_texts():
    names = ["a.jpg", "A.jpg", "a.txt", "A.txt"]
    cars = SideCars(names)
    assert [[name for name, _ in cars.of(picture)] for picture in names[:2]] == [["a.txt"], ["A.txt"]]


def test_a_side_car_whose_name_composes_its_accents_otherwise_is_found(tmp_path: Path):
    write(tmp_path, {"cafe\u0301.jpg": png(1), "caf\u00e9.txt": "a"})
    assert listed(tmp_path) == ({"cafe\u0301.jpg": ("a", None)}, {})


def test_of_two_side_cars_the_plain_text_s_is_used_and_the_other_kept(tmp_path: Path):
    write(tmp_path, {"a.jpg": png(1), "a.caption": "second", "a.txt": "first", "a.json": '{"caption": "third", "n": 1}'})
    row = next(iter(open_source(str(tmp_path)).rows()))
    assert row.caption == "first" and json.loads(row.extra) == {"n": 1, "caption": ["first", "second", "third"]}
    assert listed(tmp_path)[1] == {"more_captions": (1, "a.txt")}


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_text_in_any_encoding_that_can_be_told_is_read_and_a_guess_is_said(tmp_path: Path, encoding: str):
    write(tmp_path, {"a.jpg": png(1), "a.txt": "a café at night".encode(encoding)})
    guessed = {"guessed_encoding": (1, "a.txt")} if encoding in ("utf-16-le", "utf-16-be", "cp1252") else {}
    assert listed(tmp_path) == ({"a.jpg": ("a café at night", None)}, guessed)


@pytest.mark.parametrize(
    "data", [b"\xff", b"\xff\xfe\x00", "猫が座る".encode("shift_jis"), "кот".encode("koi8-r"), b"x" * (2**20 + 1)]
)
def test_a_text_that_cannot_be_told_is_a_reject_and_no_wrong_caption(tmp_path: Path, data: bytes):
    write(tmp_path, {"a.jpg": png(1), "a.txt": data})
    row = next(iter(open_source(str(tmp_path)).rows()))
    assert (row.caption, row.reason) == (None, "bad_caption")
    assert "UTF-8" in row.detail or "bytes" in row.detail


def test_a_text_that_cannot_be_read_does_not_hide_one_that_can(tmp_path: Path):
    write(tmp_path, {"a.jpg": png(1), "a.txt": b"\xff", "a.caption": "a", "b.jpg": png(2), "b.json": "{"})
    rows, remarks = listed(tmp_path)
    assert rows == {"a.jpg": ("a", None), "b.jpg": (None, "bad_caption")}
    assert remarks == {"unread_text": (1, "a.txt")}


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ("one", ["one"]),
        ("one\r\ntwo\r\n", ["one", "two"]),
        ("one\none\n\n", ["one"]),
        ("", []),
        (" \n ", []),
        ("One thing.\n\nAnother.", ["One thing.\n\nAnother."]),
        (
            "a dog\na black dog running over a meadow in the morning\na dog runs",
            ["a dog", "a black dog running over a meadow in the morning", "a dog runs"],
        ),
        (
            "\n".join(["a man in a red shirt rides a brown horse at the sea"] * 2 + ["a man rides along the coast"]),
            ["a man in a red shirt rides a brown horse at the sea", "a man rides along the coast"],
        ),
    ],
)
def test_each_line_is_a_caption_but_paragraphs_are_one(text: str, captions: list[str]):
    assert lines_as_captions(text) == captions


@pytest.mark.parametrize(
    "name, owner, label",
    [
        ("a.txt", "a", ""),
        ("a.v2.txt", "a.v2", ""),
        ("a.v2.url.txt", "a.v2", "url"),
        ("a.Caption.TXT", "a", "caption"),
        ("a.jpg.caption", "a.jpg", "caption"),
        ("a.b.JSON", "a.b", "json"),
        ("caption.txt", "caption", ""),
        (".caption.txt", ".caption", ""),
        ("a.caption.json", "a.caption", "json"),
    ],
)
def test_the_last_word_of_a_name_says_what_the_text_is_and_the_rest_whose(name: str, owner: str, label: str):
    assert text_name(name) == TextName(owner, label)


@pytest.mark.parametrize("name", [".txt", "txt", "a.png", "a", "a.txt.bak"])
def test_what_is_no_text_by_its_suffix_is_none(name: str):
    assert text_name(name) is None


def _columns(**texts: str) -> tuple[dict[str, object], list[tuple[str, str | None]]]:
    """The columns of a picture's texts by label, and what was noted."""
    noted: list[tuple[str, str | None]] = []
    files = [TextFile(f"a.{label}", TextName("a", label), text.encode) for label, text in texts.items()]
    return columns_of_texts(files, lambda remark, path=None, detail=None, count=1: noted.append((remark, path))), noted


def test_of_texts_that_nothing_calls_captions_the_first_is_the_caption_and_only_where_there_is_no_other():
    found, noted = _columns(prompt="a red car", style="oil painting")
    assert found == {"prompt": "a red car", "style": "oil painting", "caption": "a red car"}
    assert noted == [("caption_of_unknown_text", "a.prompt")]
    found, noted = _columns(prompt="a red car", caption="a car")
    assert found == {"prompt": "a red car", "caption": "a car"} and noted == []
    found, noted = _columns(license="CC0", url="https://x/a.jpg")
    assert "caption" not in found and found["license"] == "CC0" and noted == []


def test_texts_come_in_the_order_of_their_rank_whatever_the_order_of_the_files():
    found, noted = _columns(json='{"caption": "of the JSON", "n": 1}', caption="of the caption")
    assert found == {"n": 1, "caption": ["of the caption", "of the JSON"]} and noted == [("more_captions", "a.caption")]
    assert [TextName("a", label).rank for label in ("", "caption", "txts", "json")] == [0, 1, 3, 2]


def test_an_address_is_the_source_and_never_the_caption():
    found, noted = _columns(caption="https://example.org/a.jpg\n")
    assert found == {"source": "https://example.org/a.jpg"} and noted == []


def test_lines_are_one_wrapped_text_only_where_each_is_full():
    def lines(width: int) -> str:
        return "\n".join(["A" + "b" * (width - 1), "c" * width, "done."])

    assert lines_as_captions(lines(40)) == [lines(40)] and lines_as_captions(lines(39)) == lines(39).split("\n")
