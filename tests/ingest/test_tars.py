"""Invariants: every byte of a tar ends as a picture, a reject or a counted remark; the caption of several texts is picked by rule
and is never an address; links lead to members of the tar and nowhere else."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

from mmret.errors import UserError
from mmret.ingest.rows import Row
from mmret.ingest.sources import open_source
from tests.ingest.files import png, tar


def listed(path: Path) -> tuple[dict[str, Row], dict[str, int]]:
    source = open_source(str(path))
    rows = list(source.rows())
    assert len({row.path for row in rows}) == len(rows)
    counts = {r.remark: r.count for r in source.remarks}
    assert rows == list(source.rows()) and counts == {r.remark: r.count for r in source.remarks}
    for row in rows:
        if row.reason is None:
            stream, size = source.open(row.path)
            with stream:
                assert stream.read(size)[:4] == b"\x89PNG"[:size]
    return {row.path: row for row in rows}, counts


def captions(path: Path) -> dict[str, str | None]:
    return {name: row.reason or row.caption for name, row in listed(path)[0].items()}


def sample(number: int) -> dict[str, bytes | str]:
    return {f"{number}.png": png(number), f"{number}.txt": f"caption {number}"}


def test_tars_that_are_joined_are_read_to_the_end(tmp_path: Path):
    parts = [tar(tmp_path / f"{i}", sample(i)).read_bytes() for i in range(3)]
    (tmp_path / "joined.tar").write_bytes(b"".join(parts))
    assert captions(tmp_path / "joined.tar") == {f"{i}.png": f"caption {i}" for i in range(3)}
    assert listed(tmp_path / "joined.tar")[1] == {"joined_tars": 2}


@pytest.mark.parametrize("junk", [b"x", b"junk" * 500, b"ustar" * 100])
def test_bytes_behind_the_end_mark_are_a_remark_and_members_behind_them_are_found(tmp_path: Path, junk: bytes):
    first, second = (tar(tmp_path / f"{i}", sample(i)).read_bytes() for i in range(2))
    (tmp_path / "a.tar").write_bytes(first + junk)
    assert captions(tmp_path / "a.tar") == {"0.png": "caption 0"}
    assert listed(tmp_path / "a.tar")[1] == {"unread_bytes_of_tar": 1}
    (tmp_path / "b.tar").write_bytes(first + junk + second)
    assert captions(tmp_path / "b.tar") == {"0.png": "caption 0", "1.png": "caption 1"}


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_damaged_header_costs_its_own_member_only(tmp_path: Path, at: int):
    path = tar(tmp_path / "t.tar", {f"{i}.png": png(i) for i in range(4)})
    with tarfile.open(path) as archive:
        place = archive.getmembers()[at].offset
    data = bytearray(path.read_bytes())
    data[place : place + 100] = b"\xff" * 100
    path.write_bytes(data)
    rows, counts = listed(path)
    assert [name for name, row in rows.items() if row.reason is None] == [f"{i}.png" for i in range(4) if i != at]
    assert [(name, row.reason) for name, row in rows.items() if row.reason] == [("t.tar", "damaged_tar")]
    assert counts == {"unread_bytes_of_tar": 1}


def test_a_header_of_very_many_bytes_is_damage_and_is_not_held(tmp_path: Path):
    size = 64 * 2**20
    info = tarfile.TarInfo("x")
    info.size, info.type = size, tarfile.XHDTYPE
    path = tar(tmp_path / "t.tar", {"0.png": png(0), "1.png": png(1)})
    with tarfile.open(path) as archive:
        second = archive.getmembers()[1].offset
    with path.open("r+b") as file:
        file.seek(second)
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(size + 2**20)  # sparse
    tracemalloc.start()
    rows, _ = listed(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {name: row.reason for name, row in rows.items()} == {"0.png": None, "t.tar": "damaged_tar"} and peak < size / 4


def test_a_compressed_tar_says_that_it_is_one(tmp_path: Path):
    (tmp_path / "t.tar").write_bytes(gzip.compress(tar(tmp_path / "x", sample(0)).read_bytes()))
    with pytest.raises(UserError, match="gzip-compressed: decompress it first"):
        open_source(str(tmp_path / "t.tar"))


CAPTIONS: dict[str, tuple[dict[str, str], str | None, list[str] | None]] = {
    "text": ({"0.txt": "a"}, "a", None),
    "upper case": ({"0.TXT": "a"}, "a", None),
    "caption": ({"0.caption": "a"}, "a", None),
    "caption.txt": ({"0.caption.txt": "a", "0.url.txt": "https://x/y.jpg"}, "a", None),
    "address alone": ({"0.txt": "https://x/y.jpg"}, None, None),
    "address first": ({"0.txt": "https://x/y.jpg", "0.caption": "a"}, "a", None),
    "json": ({"0.json": '{"caption": "a", "url": "u"}'}, "a", None),
    "json list": ({"0.json": '["a", "b"]'}, "a", ["a", "b"]),
    "json text": ({"0.json": '"a"'}, "a", None),
    "json captions": ({"0.json": '{"captions": ["a", "b"]}'}, "a", ["a", "b"]),
    "json nested": ({"0.json": '{"id": 3, "sentences": [{"raw": "a"}, {"raw": "b"}]}'}, "a", ["a", "b"]),
    "json languages": ({"0.json": '{"caption": {"en": "a", "de": "b"}}'}, "a", ["a", "b"]),
    "json number": ({"0.json": '{"caption": 7}'}, "7", None),
    "five lines": ({"0.txt": "a\nb\nc\nd\ne\n"}, "a", ["a", "b", "c", "d", "e"]),
    "text over json": ({"0.txt": "a", "0.json": '{"caption": "b"}'}, "a", ["a", "b"]),
    "the same twice": ({"0.txt": "a", "0.json": '{"caption": "a"}'}, "a", None),
    "text over a bad json": ({"0.txt": "a", "0.json": "{"}, "a", None),
    "empty text": ({"0.txt": "\n", "0.json": '{"caption": "b"}'}, "b", None),
    "other text": ({"0.ocr.txt": "words in it"}, "words in it", None),
    "other text beside a caption": ({"0.ocr.txt": "words in it", "0.txt": "a"}, "a", None),
    "paragraphs": ({"0.txt": "One thing.\n\nAnother thing.\n"}, "One thing.\n\nAnother thing.", None),
}


@pytest.mark.parametrize("name", CAPTIONS)
@pytest.mark.parametrize("late", [False, True], ids=["picture first", "picture last"])
def test_the_caption_of_a_sample_is_picked_by_rule_and_all_others_are_kept(tmp_path: Path, name: str, late: bool):
    texts, caption, every = CAPTIONS[name]
    members: dict[str, bytes | str] = {**texts, "0.jpg": png(0)} if late else {"0.jpg": png(0), **texts}
    row = listed(tar(tmp_path / "t.tar", members))[0]["0.jpg"]
    assert (row.caption, row.reason) == (caption, None)
    extra = json.loads(row.extra or "{}")
    assert extra.get("caption") == every
    assert (row.source or "").startswith("http") == any(text.startswith("http") for text in texts.values())
    if "0.ocr.txt" in texts:
        assert extra["ocr"] == "words in it"


def test_one_wrapped_text_is_one_caption(tmp_path: Path):
    text = (
        "A long caption of a street on which many people walk along the shops\nwhile it rains heavily, and the lights of cars"
        " are seen in the wet\nstreet under the old bridge.\n"
    )
    assert listed(tar(tmp_path / "t.tar", {"0.jpg": png(0), "0.txt": text}))[0]["0.jpg"].caption == text.strip()


def test_names_that_share_their_beginning_keep_their_own_texts(tmp_path: Path):
    """WebDataset's key ends at the first dot; IMG.001.txt is still the text of IMG.001.jpg and of no other."""
    members: dict[str, bytes | str] = {}
    for i in range(3):
        members |= {f"IMG.{i:03}.jpg": png(i), f"IMG.{i:03}.txt": f"caption {i}"}
    members |= {
        "s.image.jpg": png(8),
        "s.caption.txt": "of the sample",
        "./t.jpg": png(9),
        "t.txt": "with a dot before its picture",
    }
    assert captions(tar(tmp_path / "t.tar", members)) == {
        **{f"IMG.{i:03}.jpg": f"caption {i}" for i in range(3)},
        "s.image.jpg": "of the sample",
        "./t.jpg": "with a dot before its picture",
    }


def test_very_many_members_with_one_key_are_not_searched_pairwise(tmp_path: Path):
    members: dict[str, bytes | str] = {}
    for i in range(400):
        members |= {f"IMG.{i:03}.jpg": b"x", f"IMG.{i:03}.txt": f"caption {i}"}
    rows = {row.path: row.caption for row in open_source(str(tar(tmp_path / "t.tar", members))).rows()}
    assert rows == {f"IMG.{i:03}.jpg": f"caption {i}" for i in range(400)}


def link_tar(path: Path, members: Sequence[tuple[str, bytes | str, bytes]]) -> Path:
    """Members as (name, content or target, type)."""
    with tarfile.open(path, "w") as archive:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if isinstance(content, str):
                info.linkname = content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def test_links_lead_to_members_of_the_tar_and_nowhere_else(tmp_path: Path):
    regular, hard, soft = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
    path = link_tar(
        tmp_path / "t.tar",
        [
            ("a.png", png(1), regular),
            ("a.txt", b"the same words", regular),
            ("b.png", png(2), regular),
            ("b.txt", "a.txt", hard),
            ("in/c.png", "../a.png", soft),
            ("in/c.txt", "../b.txt", soft),
            ("d.png", "nowhere.png", hard),
            ("e.png", "e.png", soft),
            ("f.png", "/etc/passwd", soft),
            ("g.png", "../../g.png", soft),
            ("h.png", png(3), regular),
            ("h.txt", "/etc/passwd", soft),
        ],
    )
    assert captions(path) == {
        "a.png": "the same words",
        "b.png": "the same words",
        "in/c.png": "the same words",
        "d.png": "unsafe_path",
        "e.png": "unsafe_path",
        "f.png": "unsafe_path",
        "g.png": "unsafe_path",
        "h.png": None,
    }
    assert listed(path)[1] == {"unread_text": 1}


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_length_and_script_are_kept(tmp_path: Path, kind: int):
    names = ["x" * 90 + "/" + "y" * 200, "café/猫", "./dot"]
    with tarfile.open(tmp_path / "t.tar", "w", format=kind) as archive:
        for name in names:
            for suffix, data in ((".png", png(1)), (".txt", name.encode())):
                info = tarfile.TarInfo(name + suffix)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    assert captions(tmp_path / "t.tar") == {f"{name}.png": name for name in names}


def test_members_that_are_neither_pictures_nor_their_texts_are_counted(tmp_path: Path):
    members = {"a.png": png(1), "a.txt": "a", "a.npy": b"x", "b.cls": "3", "b.txt": "nobody's", ".c.png": png(2)}
    rows, counts = listed(tar(tmp_path / "t.tar", members))
    assert list(rows) == ["a.png"]
    assert counts == {"unknown_member": 2, "text_without_picture": 1, "hidden": 1}


def test_a_text_that_the_end_of_the_tar_cuts_is_no_caption(tmp_path: Path):
    path = tar(tmp_path / "t.tar", {"0.png": png(0), "0.txt": "x" * 1000})
    with tarfile.open(path) as archive:
        text = archive.getmember("0.txt").offset_data
    path.write_bytes(path.read_bytes()[: text + 100])
    rows, counts = listed(path)
    assert {name: (row.caption, row.reason) for name, row in rows.items()} == {
        "0.png": (None, None),
        "t.tar": (None, "damaged_tar"),
    }
    assert counts == {"unread_text": 1}
