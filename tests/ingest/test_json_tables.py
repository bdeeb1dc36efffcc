"""JSON tables: lines, arrays, COCO, Karpathy's splits, captions by name; every element ends as a record or as what is wrong."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mmret.ingest.rows import Row, row_of_columns
from mmret.ingest.tables import json_files, json_stream
from mmret.ingest.tables.json_stream import JsonStream
from mmret.ingest.tables.manifest_files import Manifest, recognise
from tests.ingest.files import png, write


def rows(path: Path) -> list[Row | str]:
    found = recognise(path)
    assert isinstance(found, Manifest), found
    return [record if isinstance(record, str) else row_of_columns(record) for _, record in found.records()]


def listed(path: Path) -> list[tuple[str, str | None]]:
    return [(row.path, row.caption) if isinstance(row, Row) else ("", row) for row in rows(path)]


RECORDS = [{"image": "a.jpg", "caption": "one"}, {"image": "b.jpg", "caption": "two", "n": float("nan")}]
BOTH = [("a.jpg", "one"), ("b.jpg", "two")]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    "text",
    [
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2),
        "\n".join(map(json.dumps, RECORDS)),
        "\n".join(json.dumps(record, indent=1) for record in RECORDS),
        json.dumps({"info": {"x": 1}, "data": RECORDS}),
        json.dumps({"a.jpg": "one", "b.jpg": ["two", "more"]}, indent=0),
        json.dumps({"a.jpg": {"caption": "one"}, "b.jpg": {"caption": "two"}}, indent=1),
        json.dumps({"0": RECORDS[0], "1": RECORDS[1]}, indent=1),
        json.dumps({"empty": [], "train": RECORDS[:1], "labels": [{"id": 1}], "val": RECORDS[1:]}, indent=1),
        json.dumps({"annotations": RECORDS}, indent=1),
        json.dumps({"images": RECORDS}, indent=1),
    ],
)
def test_arrays_lines_and_objects_list_the_same(tmp_path: Path, name: str, text: str):
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        if name == "a.jsonl" and text.startswith('{"info'):
            continue  # one line of JSON lines is a record
        write(tmp_path, {name: text.encode(encoding)})
        assert listed(tmp_path / name) == BOTH


def test_many_damaged_lines_before_the_first_sound_one_cost_themselves_only(tmp_path: Path):
    write(tmp_path, {"a.jsonl": "{no\n" * 150 + json.dumps(RECORDS[0])})
    got = listed(tmp_path / "a.jsonl")
    assert len(got) == 151 and got[-1] == BOTH[0]


def test_json_that_is_not_utf8_costs_the_garbled_records_only(tmp_path: Path):
    entries = [{"image": "a.jpg", "caption": "a café"}, {"image": "b.jpg", "caption": "two"}]
    for name, text in (("a.json", json.dumps(entries, ensure_ascii=False)), ("a.jsonl", "\n".join(map(plain, entries)))):
        write(tmp_path, {name: text.encode("cp1252")})
        first, second = listed(tmp_path / name)
        assert first[1].startswith("not UTF-8") and second == BOTH[1]
    whole = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "caption": "é"}, {"image_id": 1, "caption": "x"}],
    }
    write(tmp_path, {"captions.json": plain(whole).encode("cp1252")})
    assert listed(tmp_path / "captions.json") == [
        ("a.jpg", "x"),
        ("", 'annotation 1 is of image unknown, which the file does not have: "not UTF-8"'),
    ]


def plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def coco(captions_first: bool = False) -> dict[str, Any]:
    images = [
        {"id": 7, "file_name": "a.jpg", "license": 2, "coco_url": "http://x/a", "height": 3},
        {"id": "8", "file_name": "b.jpg"},
        {"id": 9, "file_name": "c.jpg"},
        {"id": 10},
    ]
    annotations = [
        {"image_id": 8, "id": 0, "caption": "two"},
        {"image_id": 7, "id": 1, "caption": "one"},
        {"image_id": 7, "id": 2, "caption": "uno"},
        {"image_id": 99, "id": 3, "caption": "nobody's"},
    ]
    lists = {"images": images, "annotations": annotations}
    if captions_first:
        lists = dict(reversed(lists.items()))
    return {"info": {}, **lists, "licenses": [{"id": 2, "name": "CC BY 4.0"}]}


@pytest.mark.parametrize("captions_first", [False, True])
def test_coco_is_a_row_an_image_with_all_captions_and_its_licence(tmp_path: Path, captions_first: bool):
    write(tmp_path, {"captions.json": json.dumps(coco(captions_first))})
    first, second, third, nameless, orphan = rows(tmp_path / "captions.json")
    assert (first.path, first.caption, first.licence, first.source) == ("a.jpg", "one", "CC BY 4.0", "http://x/a")
    assert json.loads(first.extra) == {"caption": ["one", "uno"], "id": 7, "height": 3}
    assert (second.path, second.caption) == ("b.jpg", "two")
    assert (third.path, third.caption) == ("c.jpg", None)
    assert "without a file_name" in nameless and "annotation 4 is of image 99" in orphan


def test_a_split_by_karpathy_names_pictures_by_folder_and_file(tmp_path: Path):
    images = [
        {
            "filepath": "val2014",
            "filename": "a.jpg",
            "split": "test",
            "sentences": [{"raw": "one", "tokens": ["one"]}, {"raw": "uno"}],
        },
        {"filename": "b.jpg", "sentences": [{"raw": "two"}], "split": "train"},
    ]
    write(tmp_path, {"dataset_coco.json": json.dumps({"images": images, "dataset": "coco"})})
    first, second = rows(tmp_path / "dataset_coco.json")
    assert (first.path, first.caption, second.path, second.caption) == ("val2014/a.jpg", "one", "b.jpg", "two")
    assert json.loads(first.extra) == {"caption": ["one", "uno"], "split": "test"}


def test_elements_of_an_array_for_one_picture_are_one_row_and_the_rest_a_remark(tmp_path: Path):
    records = [{"image": f"{i // 5}.jpg", "caption": f"c{i}", "image_id": "x"} for i in range(10)]
    write(tmp_path, {"coco_karpathy_train.json": json.dumps(records)})
    remarks: Counter[str] = Counter()
    found = recognise(tmp_path / "coco_karpathy_train.json")
    got = [row_of_columns(record) for _, record in found.records(lambda remark, *_: remarks.update([remark]))]
    assert [(row.path, row.caption) for row in got] == [("0.jpg", "c0"), ("1.jpg", "c5")]
    assert json.loads(got[1].extra) == {"caption": ["c5", "c6", "c7", "c8", "c9"], "image_id": "x"}
    assert remarks == {"further_caption": 8}


def test_conversations_give_what_the_model_said(tmp_path: Path):
    turns = [{"from": "human", "value": "What is this?\n<image>"}, {"from": "gpt", "value": "a red ball"}]
    write(tmp_path, {"a.json": json.dumps([{"id": "1", "image": "00/a.jpg", "conversations": turns}])})
    assert listed(tmp_path / "a.json") == [("00/a.jpg", "a red ball")]


def test_what_breaks_off_or_is_no_object_is_named_and_the_rest_kept(tmp_path: Path):
    text = json.dumps([*RECORDS, 7, RECORDS[0]])
    write(
        tmp_path,
        {"a.json": text, "cut.json": text[:-20], "more.json": text + " {}", "wrong.json": text.replace('"b.jpg"', 'b.jpg"')},
    )
    assert listed(tmp_path / "a.json") == [*BOTH, ("", "not an object but a int"), BOTH[0]]
    assert listed(tmp_path / "cut.json")[:2] == BOTH and "cannot be read from here on" in listed(tmp_path / "cut.json")[-1][1]
    assert "behind the end of the array" in listed(tmp_path / "more.json")[-1][1]
    assert listed(tmp_path / "wrong.json")[0] == BOTH[0] and "cannot be read" in listed(tmp_path / "wrong.json")[-1][1]
    whole = json.dumps(coco())
    write(tmp_path, {"coco.json": whole[:-40]})
    assert [row.path for row in rows(tmp_path / "coco.json")[:3]] == ["a.jpg", "b.jpg", "c.jpg"]
    assert "cannot be read from here on" in rows(tmp_path / "coco.json")[-1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}, "without captions"),
        ({"image_urls": ["http://x/a.jpg"], "captions": ["one"], "user_ids": ["u"]}, "found image_urls, captions, user_ids"),
        ([{"caption": "one", "url": "http://x/a.jpg"}], "addresses on the web: fetch them first"),
        ([{"image": "http://x/a.jpg", "caption": "one"}], "addresses on the web: fetch them first"),
        ({"count": 3, "successes": 3}, "holds no list of pictures with captions: found count, successes"),
        ({"builder_name": "x", "features": {"image": {}}, "splits": []}, "holds no list of pictures"),
        ([{"image": "a.jpg", "label": 3}], "no caption column: found image, label"),
        ([{"id": 1, "text": "one"}], "no image column: found id, text"),
        ([1, 2], "holds no object with columns"),
        ([], "is empty"),
        ({}, "holds no list of pictures"),
        ("{ no", "is no JSON"),
        ({"image": {"0": "a.jpg", "1": "b.jpg"}, "caption": {"0": "one", "1": "two"}}, "columns one behind the other"),
        ({"image": ["a.jpg", "b.jpg"], "caption": ["one", "two"]}, "columns one behind the other"),
    ],
)
def test_other_json_says_in_one_sentence_what_it_lacks(tmp_path: Path, value: Any, words: str):
    write(tmp_path, {"x.json": value if isinstance(value, str) else json.dumps(value)})
    found = recognise(tmp_path / "x.json")
    assert isinstance(found, str) and words in found and "\n" not in found


def test_pictures_are_found_in_the_folder_beside_or_below_the_table(tmp_path: Path):
    write(
        tmp_path, {"coco/annotations/captions.json": json.dumps(coco()), "coco/val2017/a.jpg": png(1), "coco/images/z.jpg": png(2)}
    )
    assert recognise(tmp_path / "coco/annotations/captions.json").folder == tmp_path / "coco/val2017"
    inside = recognise(tmp_path / "coco/annotations/captions.json", within=tmp_path / "coco/annotations")
    assert inside.folder == tmp_path / "coco/annotations"
    write(tmp_path, {"flickr/captions.txt": "image,caption\na.jpg,one\n", "flickr/Images/a.jpg": png(3)})
    assert recognise(tmp_path / "flickr/captions.txt").folder == tmp_path / "flickr/Images"
    write(tmp_path, {"flickr/a.jpg": png(4)})
    assert recognise(tmp_path / "flickr/captions.txt").folder == tmp_path / "flickr"


def test_a_stream_gives_what_the_library_gives_wherever_its_chunks_end(monkeypatch: pytest.MonkeyPatch):
    value = [{"a": 'x\\"é', "b": [1, 2.5, -3e8, None, True]}, 12345, "t", {}, []]
    text = json.dumps(value, ensure_ascii=False, indent=1)
    for chunk in (1, 2, 3, 7, 1000):
        monkeypatch.setattr(json_stream, "_CHUNK", chunk)
        assert list(JsonStream(io.StringIO(text)).elements()) == value
    stream = JsonStream(io.StringIO('{"a": [1, 2], "b": "x"}'))
    assert {name: stream.value() for name in stream.members()} == {"a": [1, 2], "b": "x"}
    monkeypatch.setattr(json_stream, "LONGEST_PIECE", 100)
    with pytest.raises(ValueError, match="more than 100"):
        JsonStream(io.StringIO('"' + "x" * 500)).value()
    for text, words in (("[1 2]", "expected"), ("[1", "ends early"), ("[", "ends early"), ("{1: 2}", "no text")):
        stream = JsonStream(io.StringIO(text))
        with pytest.raises(ValueError, match=words):
            list(stream.elements() if text[0] == "[" else stream.members())


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_line_longer_than_any_record_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str):
    monkeypatch.setattr(json_files, "LONGEST_JSON_LINE", 100)
    sound = json.dumps({"image": "a.jpg", "caption": "x"})
    just = json.dumps({"image": "b.jpg", "caption": "x" * 66})
    assert len(just) == 99
    lines = [sound, "y" * 350, sound, "y" * 199, just, "y" * 100, sound, "y" * 250]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + end, encoding="utf-8")
    found = list(json_files.json_lines(tmp_path / "a.jsonl"))
    assert [number for number, _ in found] == list(range(1, 9))
    assert [isinstance(record, dict) for _, record in found] == [True, False, True, False, True, False, True, False]
    assert {record for _, record in found if isinstance(record, str)} == {"line of more than 100 bytes"}


def numbers(path: Path) -> list[int]:
    found = recognise(path)
    assert isinstance(found, Manifest), found
    return [number for number, _ in found.records()]


@pytest.mark.parametrize(
    "value, expected",
    [
        ([*RECORDS, 5, RECORDS[0]], [1, 2, 3, 4]),
        ({"a.jpg": "one", "b.jpg": "two", "c.jpg": "three"}, [1, 2, 3]),
        ({"data": RECORDS, "more": RECORDS}, [1, 2, 3, 4]),
        ({"images": [{"filename": f"{n}.jpg", "sentences": [{"raw": "x"}]} for n in range(3)]}, [1, 2, 3]),
    ],
)
def test_records_are_counted_from_one_in_the_order_of_the_file(tmp_path: Path, value: Any, expected: list[int]):
    (tmp_path / "a.json").write_text(json.dumps(value, indent=1), encoding="utf-8")
    assert [number for number, _ in json_files.recognise_json(tmp_path / "a.json").read(lambda *_: None)] == expected


def test_records_that_follow_each_other_are_counted_too_and_so_is_where_they_break_off(tmp_path: Path):
    (tmp_path / "a.json").write_text("\n".join(json.dumps(record, indent=1) for record in RECORDS), encoding="utf-8")
    assert numbers(tmp_path / "a.json") == [1, 2]
    (tmp_path / "b.json").write_text(json.dumps(RECORDS, indent=1)[:-3] + "\n", encoding="utf-8")
    found = list(recognise(tmp_path / "b.json").records())
    assert [number for number, _ in found] == [1, 2] and found[-1][1].startswith("the file cannot be read from here on: ")
    (tmp_path / "c.json").write_text(json.dumps(RECORDS) + " behind", encoding="utf-8")
    assert list(recognise(tmp_path / "c.json").records())[-1] == (3, "something stands behind the end of the array")


def test_what_is_no_json_says_so_without_a_place_in_the_piece_that_was_read(tmp_path: Path):
    wrong = {'{"a" 1}': ": expected, found '1'", "{broken: 1}": "Expecting value", '{\n"a': "Unterminated string starting at"}
    for text, why in wrong.items():
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        assert recognise(tmp_path / "a.json") == f"is no JSON: {why}"
    (tmp_path / "b.json").write_text('[{"image": "a.jpg", "caption": "x"}, {"image": nothing}]', encoding="utf-8")
    assert list(recognise(tmp_path / "b.json").records())[-1] == (2, "the file cannot be read from here on: Expecting value")


def test_a_split_by_karpathy_without_a_folder_names_the_file_alone(tmp_path: Path):
    images = [{"filepath": folder, "filename": "a.jpg", "sentences": [{"raw": "x"}]} for folder in ("", None, "val")]
    (tmp_path / "a.json").write_text(json.dumps({"images": images}), encoding="utf-8")
    assert [path for path, _ in listed(tmp_path / "a.json")] == ["a.jpg", "a.jpg", "val/a.jpg"]
