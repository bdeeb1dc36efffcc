"""Values of tables: what stands for none is none, of several captions the first is used and all are kept, numbers stay text."""

from __future__ import annotations

import json

import pytest

from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.rows import row_of_columns, text_columns
from mmret.ingest.tables.caption_values import captions_in, is_missing


@pytest.mark.parametrize(
    "word", ["NULL", "nan", "NaN", "None", "N/A", "<NA>", "null", "\\N", "", "  ", "#N/A", "-", "--", "...", "?"]
)
def test_words_for_none_are_no_captions_and_stay_in_extra(word: str):
    columns = text_columns({"image": "a.jpg", "caption": word, "licence": word, "source": word}, "image")
    assert columns["caption"] is None or not columns["caption"].strip()
    assert columns["licence"] in (None, word) and (columns["licence"] is None or not is_missing(word))
    assert not word.strip() or word in json.loads(columns["extra"]).values()


@pytest.mark.parametrize("text", ["null island on a map", "a man from Nan province", "none of them", "7", "N", "♥", "🚲", "一"])
def test_captions_with_such_words_in_them_and_short_ones_stay(text: str):
    assert text_columns({"caption": text})["caption"] == text


def test_numbers_as_captions_are_text_and_missing_numbers_are_none():
    assert text_columns({"caption": 3})["caption"] == "3"
    assert text_columns({"caption": 0})["caption"] == "0"
    for value in (float("nan"), float("inf"), None):
        columns = text_columns({"caption": value, "licence": value, "source": value})
        assert (columns["caption"], columns["licence"], columns["source"]) == (None, None, None)
        assert "nan" not in (columns["extra"] or "").lower()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["", None, "NULL", "one", "two"], ["one", "two"]),
        ('["one", "two"]', ["one", "two"]),
        ("['one', \"it's two\"]", ["one", "it's two"]),
        ('["one"', ['["one"']),
        ("[laughs] at sea", ["[laughs] at sea"]),
        ("[laughs]", ["[laughs]"]),
        ("[1, 2]", ["[1, 2]"]),
        ({"raw": "one", "tokens": ["one"]}, ["one"]),
        ([{"raw": "one", "sentid": 1}, {"raw": "two"}], ["one", "two"]),
        ([{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "one"}], ["one"]),
        ([{"role": "user", "content": "What?"}, {"role": "assistant", "content": "one"}], ["one"]),
        ("café".encode(), ["café"]),
        ("[]", []),
    ],
)
def test_every_shape_of_captions_gives_its_texts(value: object, expected: list[str]):
    assert captions_in(value) == expected
    columns = text_columns({"caption": value})
    assert columns["caption"] == next(iter(expected), None)
    if len(expected) > 1:
        assert all(
            text in json.dumps(json.loads(columns["extra"]), ensure_ascii=False).replace('\\"', '"') for text in expected[1:]
        )


@pytest.mark.parametrize("value", [{"a": 1}, b"\xff\xfe\x00", [{"a": 1}]])
def test_what_is_no_text_is_refused(value: object):
    with pytest.raises(Unreadable, match="the caption is no"):
        text_columns({"caption": value})


def test_numbered_columns_are_captions_of_one_picture():
    row = row_of_columns({"image": "a.jpg", "caption_0": "nan", "caption_1": "one", "caption_2": "two", "size": 3})
    assert row.caption == "one"
    assert json.loads(row.extra) == {"caption_0": "nan", "caption_1": "one", "caption_2": "two", "size": 3}


@pytest.mark.parametrize(
    ("columns", "path"),
    [
        ({"Image": "a.jpg", "Caption": "x"}, "a.jpg"),
        ({"file name": "a.jpg", "TEXT": "x"}, "a.jpg"),
        ({"\ufefffilepath": "a.jpg", "Title ": "x"}, "a.jpg"),
        ({"image": {"bytes": None, "path": "a.jpg"}, "text": "x"}, "a.jpg"),
        ({"image": ["a.jpg"], "text": "x"}, "a.jpg"),
        ({"image": b"a.jpg", "text": "x"}, "a.jpg"),
        ({"image": None, "path": "a.jpg", "text": "x"}, "a.jpg"),
    ],
)
def test_names_of_columns_count_in_any_case_and_paths_in_any_shape(columns: dict, path: str):
    row = row_of_columns(columns)
    assert (row.path, row.caption) == (path, "x")


def test_own_names_come_before_those_of_other_tools():
    row = row_of_columns({"image": "a.jpg", "filename": "b.jpg", "title": "t", "caption": "c", "License": "CC0", "URL": "u"})
    assert (row.path, row.caption, row.licence, row.source) == ("a.jpg", "c", "CC0", "u")
    assert json.loads(row.extra) == {"filename": "b.jpg", "title": "t"}


@pytest.mark.parametrize("value", ["", "NULL", None, 7, float("nan"), ["a.jpg", "b.jpg"], {"path": None}, "a\0.jpg"])
def test_a_picture_without_a_path_is_refused(value: object):
    with pytest.raises(Unreadable, match="image is not a path"):
        row_of_columns({"image": value, "caption": "x"})


def test_bytes_in_other_columns_are_kept_by_their_length_where_they_are_long():
    row = row_of_columns({"image": "a.jpg", "caption": "x", "thumbnail": bytes(5000), "hash": b"ab"})
    assert json.loads(row.extra) == {"thumbnail": "5000 bytes", "hash": "b'ab'"}
