"""Invariants: sealed rows never change and nothing is sealed twice; the shards do not depend on where a run was cut;
of equal pictures the first with a caption is the image; every row a source lists is sealed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmret.errors import UserError
from mmret.hashing import content_id
from mmret.ingest import seal as manifest
from mmret.ingest.folders.folder import Folder
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.seal import seal
from mmret.lake import Lake
from mmret.schemas import CORPUS_MANIFEST
from mmret.settings import CorpusSettings, IngestSettings
from tests.ingest.files import captioned, jsonl, png, tar, write

NOTHING = CORPUS_MANIFEST.empty_table()


def grow(known: pa.Table, *sources: Path | str, **corpus: object) -> pa.Table:
    """The manifest after sealing, in a lake that holds ``known``."""
    with TemporaryDirectory() as folder:
        lake = lake_of(Path(folder), known)
        for _ in written(lake, *sources, **corpus):
            pass
        return lake.read("corpus_manifest")


def lake_of(folder: Path, known: pa.Table = NOTHING) -> Lake:
    lake = Lake(folder)
    for shard in known["shard"].unique().to_pylist():
        lake.write("corpus_manifest", shard, known.filter(pc.equal(known["shard"], shard)), "sealed")
    return lake


def written(
    lake: Lake, *sources: Path | str, limits: IngestSettings | None = None, **corpus: object
) -> Iterator[tuple[str, pa.Table]]:
    """Seal ``sources``, writing each partition when the next is asked for."""
    for shard, rows in seal(lake, CorpusSettings(sources=tuple(map(str, sources)), **corpus), limits or IngestSettings()):
        lake.write("corpus_manifest", shard, rows, "sealed")
        yield shard, rows


def outcome(rows: pa.Table) -> list[tuple[str, str | None]]:
    return list(zip(rows["path"].to_pylist(), rows["reason"].to_pylist(), strict=True))


def test_shards_are_full_in_order_and_carry_every_column(tmp_path: Path):
    captioned(tmp_path, {f"{i}.png": png(i) for i in range(5)}, "  picture \n of\t{}\x07 ")
    shards = list(written(lake_of(tmp_path / "lake"), tmp_path, shard_size=2))
    assert [name for name, _ in shards] == ["shard-00000", "shard-00001", "shard-00002"]
    assert [rows["position"].to_pylist() for _, rows in shards] == [[0, 1], [0, 1], [0]]
    row = shards[1][1].to_pylist()[1]
    file = (tmp_path / "3.png").stat()
    assert row == {
        "shard": "shard-00001",
        "position": 1,
        "root": str(tmp_path),
        "path": "3.png",
        "image_id": content_id(png(3)),
        "size": file.st_size,
        "mtime_ns": file.st_mtime_ns,
        "caption": "picture of 3.png",
        "licence": None,
        "source": None,
        "extra": None,
        "reason": None,
        "detail": None,
    }
    assert shards[0][1].schema == CORPUS_MANIFEST


def test_a_second_seal_yields_nothing_and_hashes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    captioned(tmp_path / "a", {"1.png": png(1), "2.png": png(1), "3.png": b""})
    write(tmp_path / "a", {"unnamed.png": png(4)})
    captioned(tmp_path / "b", {"1.png": png(1), "gone.png": png(2)})
    (tmp_path / "b" / "gone.png").unlink()
    tar(tmp_path / "c" / "0.tar", {"1.png": png(8), "1.txt": "one", "2.png": png(9)})
    sources = (tmp_path / "a", tmp_path / "b", tmp_path / "c", "shapes:4")
    known = grow(NOTHING, *sources)
    assert outcome(known)[:6] == [
        ("1.png", None),
        ("2.png", "duplicate"),
        ("3.png", "zero_bytes"),
        ("unnamed.png", "no_caption"),
        ("1.png", "duplicate"),
        ("gone.png", "missing_file"),
    ]
    monkeypatch.setattr(manifest, "hash_file", lambda *_: pytest.fail("hashed again"))
    assert grow(known, *sources).equals(known)


def test_growth_only_appends(tmp_path: Path):
    captioned(tmp_path / "a", {f"{i}.png": png(i) for i in range(3)})
    known = grow(NOTHING, tmp_path / "a", shard_size=2)
    captioned(tmp_path / "b", {"x.png": png(10), "y.png": png(1)})
    captioned(tmp_path / "a", {f"{i}.png": png(i) for i in range(4)})
    more = grow(known, tmp_path / "a", tmp_path / "b", shard_size=2)
    assert more.slice(0, 3).drop("mtime_ns").equals(known.drop("mtime_ns")), "written again with the same content"
    assert outcome(more)[3:] == [("3.png", None), ("x.png", None), ("y.png", "duplicate")]
    assert more["shard"].to_pylist() == [f"shard-0000{n}" for n in (0, 0, 1, 2, 2, 3)]
    assert more["detail"].to_pylist()[-1] == "same content as 1.png"


def test_a_scene_is_one_row_however_large_its_corpus():
    known = grow(NOTHING, "shapes:5?seed=3")
    more = grow(known, "shapes:5?seed=3", "shapes:8?seed=3")
    assert more.num_rows == 8 and more.slice(0, 5).equals(known)
    assert more["reason"].null_count == 8
    assert grow(known, "shapes:8?seed=4").num_rows == 13


def test_the_number_of_rows_is_limited_in_total(tmp_path: Path):
    captioned(tmp_path, {f"{i}.png": png(i) for i in range(6)})
    known = grow(NOTHING, tmp_path, images=4)
    assert known.num_rows == 4
    assert [reason for _, reason in outcome(grow(known, tmp_path, images=2))] == [None, None, "beyond_limit", "beyond_limit"]
    assert grow(known, tmp_path, images=5).num_rows == 5
    assert grow(known, tmp_path).equals(grow(NOTHING, tmp_path)) is False  # shards end where they were sealed
    assert outcome(grow(known, tmp_path)) == outcome(grow(NOTHING, tmp_path))


def test_of_equal_pictures_the_first_with_a_caption_is_the_image(tmp_path: Path):
    names = ["none.png", "blank.png", "first.png", "second.png"]
    write(tmp_path / "a", {name: png(1) for name in names})
    write(
        tmp_path / "a",
        {
            "captions.jsonl": jsonl(
                {"image": names[0]},
                {"image": names[1], "caption": " \n\u200b"},
                {"image": names[2], "caption": "c"},
                {"image": names[3], "caption": "d"},
            )
        },
    )
    captioned(tmp_path / "b", {"other.png": png(1)})
    known = grow(NOTHING, tmp_path / "a", tmp_path / "b")
    assert outcome(known) == [
        ("none.png", "duplicate"),
        ("blank.png", "duplicate"),
        ("first.png", None),
        ("second.png", "duplicate"),
        ("other.png", "duplicate"),
    ]
    assert set(known["image_id"].to_pylist()) == {content_id(png(1))}
    assert known["detail"].to_pylist()[3:] == ["same content as first.png"] * 2


def test_a_caption_that_came_later_is_the_sealed_row_s_own(tmp_path: Path):
    write(
        tmp_path,
        {"a.png": png(1), "captions.jsonl": jsonl({"image": "a.png", "caption": None}, {"image": "b.png", "caption": "b"})},
    )
    known = grow(NOTHING, tmp_path)
    captioned(tmp_path, {"a.png": png(1), "b.png": png(2)})
    assert outcome(grow(known, tmp_path)) == [("a.png", None), ("b.png", "missing_file"), ("b.png", None)]


def test_changed_content_is_a_new_row_and_a_new_time_is_not(tmp_path: Path):
    captioned(tmp_path, {"a.png": png(1), "b.png": png(2)})
    known = grow(NOTHING, tmp_path)
    os.utime(tmp_path / "a.png", ns=(1, 1))
    later = grow(known, tmp_path)
    assert later.drop("mtime_ns").equals(known.drop("mtime_ns")) and later["mtime_ns"][0].as_py() == 1
    write(tmp_path, {"a.png": png(3)})
    more = grow(later, tmp_path)
    assert outcome(more) == [("a.png", "replaced"), ("b.png", None), ("a.png", None)]
    assert more["image_id"].to_pylist()[2] == content_id(png(3))
    assert grow(more, tmp_path).equals(more)


def test_a_file_named_several_times_is_as_many_rows(tmp_path: Path):
    write(tmp_path, {"a.png": png(1), "captions.jsonl": jsonl(*[{"image": "a.png", "caption": "c"}] * 2)})
    known = grow(NOTHING, tmp_path)
    assert outcome(known) == [("a.png", None), ("a.png", "duplicate")]
    assert grow(known, tmp_path).equals(known)
    write(tmp_path, {"captions.jsonl": jsonl(*[{"image": "a.png", "caption": "c"}] * 3)})
    assert outcome(grow(known, tmp_path))[2:] == [("a.png", "duplicate")]


def test_a_file_that_cannot_be_read_is_tried_again_but_not_sealed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    captioned(tmp_path, {"a.png": png(1)})

    def closed(self: Folder, path: str) -> None:
        raise Unreadable("unreadable", "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "open", closed)
        known = grow(NOTHING, tmp_path)
        assert outcome(known) == [("a.png", "unreadable")] and known["image_id"].null_count == 1
        assert grow(known, tmp_path).equals(known)
    assert outcome(grow(known, tmp_path)) == [("a.png", "unreadable"), ("a.png", None)]


def test_too_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    captioned(tmp_path, {"a.png": png(1)})
    monkeypatch.setattr(Folder, "open", lambda *_: pytest.fail("opened"))
    ((_, rows),) = written(lake_of(tmp_path / "lake"), tmp_path, limits=IngestSettings(max_bytes=10))
    assert outcome(rows) == [("a.png", "too_many_bytes")]


def test_a_tar_cut_inside_a_picture_loses_no_row(tmp_path: Path):
    whole = tar(
        tmp_path / "w.tar",
        {f"{i}.{kind}": png(i, (40, 40)) if kind == "png" else f"picture {i}" for i in range(2) for kind in ("txt", "png")},
    ).read_bytes()
    second = whole.index(b"1.png")
    write(
        tmp_path / "f",
        {
            "in_header.tar": whole[: second + 100],
            "in_picture.tar": whole[: second + 1500],
            "mangled.tar": whole[:second] + b"X" + whole[second + 1 :],
        },
    )
    assert outcome(grow(NOTHING, tmp_path / "f")) == [
        ("in_header.tar/0.png", None),
        ("in_header.tar", "damaged_tar"),
        ("in_picture.tar/0.png", "duplicate"),
        ("in_picture.tar/1.png", "unreadable"),
        ("in_picture.tar", "damaged_tar"),
        ("mangled.tar/0.png", "duplicate"),
        ("mangled.tar", "damaged_tar"),
    ]


def test_nothing_is_sealed_where_one_source_is_wrong(tmp_path: Path):
    captioned(tmp_path, {"a.png": png(1)})
    with pytest.raises(UserError, match="there is nothing at"):
        next(written(lake_of(tmp_path / "lake"), tmp_path, tmp_path / "no"))


def test_captions_of_any_length_and_script_are_sealed(tmp_path: Path):
    captions = [" ".join(f"word{i}" for i in range(10_000)), "قطة على كرسي", "一只猫", "👩🏽‍🚀", "x" * 200_000]
    write(tmp_path, {f"{i}.png": png(i) for i in range(len(captions))})
    write(tmp_path, {"captions.jsonl": jsonl(*({"image": f"{i}.png", "caption": c} for i, c in enumerate(captions)))})
    known = grow(NOTHING, tmp_path)
    assert known["caption"].to_pylist() == captions and known["reason"].null_count == len(captions)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 4), max_size=4), size=st.integers(1, 4), contents=st.lists(st.integers(0, 5), max_size=9))
def test_a_run_cut_anywhere_and_repeated_seals_what_one_run_would(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], size: int, contents: list[int]
):
    folder = tmp_path_factory.mktemp("corpus")
    records = [{"image": f"{i}.png", "caption": "c" if content else ""} for i, content in enumerate(contents)]
    write(folder, {f"{i}.png": png(content) for i, content in enumerate(contents)})
    write(folder, {"captions.jsonl": jsonl(*records), "unnamed.png": png(7)})
    corpus = CorpusSettings(sources=(str(folder), "shapes:3"), shard_size=size)
    whole = grow(NOTHING, *corpus.sources, shard_size=size)
    lake = lake_of(tmp_path_factory.mktemp("lake"))
    for kept in cuts:
        for _ in islice(written(lake, *corpus.sources, shard_size=size), kept):
            pass
    known = lake.read("corpus_manifest")
    assert grow(known, *corpus.sources, shard_size=size).equals(whole)
    assert whole.num_rows == len(contents) + 1 + 3
    accepted = [row["image_id"] for row in whole.to_pylist() if row["reason"] is None]
    assert len(set(accepted)) == len(accepted)


def test_extra_of_a_scene_is_its_exact_attributes():
    row = grow(NOTHING, "shapes:1").to_pylist()[0]
    assert set(json.loads(row["extra"])) == {"shape", "colour", "size", "pattern", "background", "position", "other"}
