"""Invariants: every manifest row is in exactly one of images and rejects; a killed run leaves nothing that a repeated
one does not finish, and their tables are equal; Lance and the index agree; a stored picture is never stored twice."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from mmret.hashing import content_id
from mmret.ingest import stage
from mmret.ingest.pictures import image_table
from mmret.ingest.pictures import images as pictures
from mmret.ingest.pictures.decode import inspect, open_rgb
from mmret.ingest.pictures.images import images_by_id, read_images
from mmret.ingest.seal import seal
from mmret.ingest.stage import ingest_shard
from mmret.lake import Lake
from mmret.progress import reporting
from mmret.schemas import IMAGES_INDEX
from mmret.settings import CorpusSettings, IngestSettings
from tests.ingest.files import (
    animated,
    bomb_png,
    captioned,
    encoded,
    jpeg,
    jsonl,
    picture,
    png,
    rotated_jpeg,
    tar,
    write,
)

LIMITS = IngestSettings(max_pixels=10**6)


def seal_into(lake: Lake, *sources: Path | str, shard_size: int = 4096) -> None:
    corpus = CorpusSettings(sources=tuple(map(str, sources)), shard_size=shard_size)
    for shard, rows in seal(lake, corpus, LIMITS):
        lake.write("corpus_manifest", shard, rows, "sealed")


def ingest(lake: Lake, *sources: Path | str, shard_size: int = 4096) -> list[dict]:
    seal_into(lake, *sources, shard_size=shard_size)
    counts = [ingest_shard(lake, shard, LIMITS, "inputs") for shard in lake.shards()]
    check_conservation(lake)
    return counts


def check_conservation(lake: Lake) -> None:
    for shard in lake.shards():
        rows = lake.read("corpus_manifest", shard)["position"].to_pylist()
        taken = lake.read("images", shard)["position"].to_pylist()
        refused = lake.read("rejects", shard)["position"].to_pylist()
        assert taken == sorted(taken) and refused == sorted(refused)
        assert sorted(taken + refused) == rows
        assert lake.read("rejects", shard)["reason"].null_count == 0
        kept = lance_rows(lake, shard)
        assert kept == lake.read("images", shard).to_pylist()
    everything = lance_rows(lake)
    assert len({row["image_id"] for row in everything}) == len(everything) == lake.read("images").num_rows


def lance_rows(lake: Lake, shard: str | None = None) -> list[dict]:
    found = lake.lance("images").search().select(IMAGES_INDEX.names)
    rows = (found.where(f"shard = '{shard}'") if shard else found).to_arrow().select(IMAGES_INDEX.names).to_pylist()
    return sorted(rows, key=lambda row: (row["shard"], row["position"]))


def contents(lake: Lake) -> dict[str, list]:
    return {table: lake.read(table).to_pylist() for table in ("images", "rejects")} | {"lance": lance_rows(lake)}


def test_every_nasty_file_is_taken_rightly_or_rejected_with_its_reason(tmp_path: Path):
    good = {
        "png.png": png(1),
        "jpeg.jpg": jpeg(2),
        "gif.gif": animated("GIF"),
        "webp.webp": animated("WEBP"),
        "apng.png": animated("PNG"),
        "cmyk.jpg": encoded(picture(3).convert("CMYK"), "JPEG"),
        "deep.png": encoded(picture(4).convert("I;16")),
        "alpha.png": encoded(picture(5).convert("RGBA")),
        "turned.jpg": rotated_jpeg(),
        "one.png": png(6, (1, 1)),
        "wrong_suffix.jpg": png(7),
        "no_suffix": png(8),
    }
    bad = {
        "cut.jpg": (jpeg(20)[:-300], "truncated"),
        "cut.png": (png(21)[:-300], "truncated"),
        "empty.png": (b"", "zero_bytes"),
        "text.png": (b"only words", "not_an_image"),
        "bomb.png": (bomb_png(), "too_many_pixels"),
        "copy.png": (png(1), "duplicate"),
        "copy_of_text.png": (b"only words", "duplicate"),
    }
    captioned(tmp_path / "c", good | {name: data for name, (data, _) in bad.items()})
    lake = Lake(tmp_path / "lake")
    (counts,) = ingest(lake, tmp_path / "c")
    taken = {row["path"]: row for row in lake.read("images").to_pylist()}
    assert {row["path"]: row["reason"] for row in lake.read("rejects").to_pylist()} == {name: why for name, (_, why) in bad.items()}
    assert taken.keys() == good.keys()
    assert (taken["turned.jpg"]["width"], taken["turned.jpg"]["height"]) == (20, 40)
    assert (taken["cmyk.jpg"]["mode"], taken["deep.png"]["mode"], taken["one.png"]["width"]) == ("CMYK", "I;16", 1)
    assert counts == {
        "images": len(good),
        "rejects": len(bad),
        "computed": len(good) + 4,
        "by_reason": {"duplicate": 2, "not_an_image": 1, "too_many_pixels": 1, "truncated": 2, "zero_bytes": 1},
    }
    for data in images_by_id(lake, [row["image_id"] for row in taken.values()]).values():
        open_rgb(data, LIMITS)


def test_pictures_come_back_as_they_were_in_order_and_at_random(tmp_path: Path):
    captioned(tmp_path / "c", {f"{i}.png": png(i) for i in range(20)})
    tar(tmp_path / "t.tar", {"a.png": png(50), "a.txt": "in a tar"})
    lake = Lake(tmp_path / "lake")
    ingest(lake, tmp_path / "c", tmp_path / "t.tar", "shapes:3", shard_size=16)
    batches = list(read_images(lake, "shard-00000", batch_rows=5))
    assert [b.num_rows for b in batches] == [5, 5, 5, 1]
    rows = pa.Table.from_batches(batches).to_pylist()
    assert [(r["path"], r["caption"], r["data"]) for r in rows] == [
        (f"{i}.png", f"a picture called {i}.png", png(i)) for i in range(16)
    ]
    some = [content_id(png(i)) for i in (9, 2, 12)]
    assert [r["path"] for b in read_images(lake, "shard-00000", ids=some) for r in b.to_pylist()] == ["2.png", "9.png", "12.png"]
    assert list(read_images(lake, "shard-00000", ids=[])) == []
    found = images_by_id(lake, [*some, content_id(png(50)), some[0], "0" * 32, "x' OR '1'='1"])
    assert found == {content_id(png(i)): png(i) for i in (9, 2, 12, 50)}
    assert sum(b.num_rows for b in read_images(lake, "shard-00001")) == 8


def test_batches_are_bounded_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    captioned(tmp_path / "c", {f"{i}.png": png(i, (40, 40)) for i in range(6)})
    for module in (stage, pictures):
        monkeypatch.setattr(module, "BATCH_BYTES", 2 * len(png(0, (40, 40))) + 100)
    lake = Lake(tmp_path / "lake")
    ingest(lake, tmp_path / "c")
    assert [b.num_rows for b in read_images(lake, "shard-00000")] == [2, 2, 2]
    assert lake.lance("images").stats()["fragment_stats"]["num_fragments"] == 3


@pytest.mark.parametrize("after", [0, 1, 2, 3])
@pytest.mark.parametrize("stored", [False, True])
def test_a_killed_run_repeated_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, stored: bool
):
    captioned(tmp_path / "c", {f"{i}.png": png(i) if i % 4 else b"broken" * i for i in range(11)})
    monkeypatch.setattr(stage, "BATCH_ROWS", 3)
    whole, lake = Lake(tmp_path / "whole"), Lake(tmp_path / "killed")
    ingest(whole, tmp_path / "c")
    append, calls = image_table.append, []

    def dying(*arguments: object, **options: object) -> None:
        if stored or len(calls) < after:
            append(*arguments, **options)
        calls.append(arguments)
        if len(calls) > after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(image_table, "append", dying)
        if after == 3:
            patch.setattr(Lake, "write", lambda self, table, *_: dying_write(self, table))
        ingest(lake, tmp_path / "c")
    assert lake.facts("images", "shard-00000") is None
    (counts,) = ingest(lake, tmp_path / "c")
    assert contents(lake) == contents(whole)
    assert counts["computed"] < 11 or (after == 0 and not stored)


def dying_write(lake: Lake, table: str) -> None:
    raise KeyboardInterrupt


def test_a_repeated_run_computes_nothing_and_changes_nothing(tmp_path: Path):
    captioned(tmp_path / "c", {f"{i}.png": png(i) for i in range(5)})
    lake = Lake(tmp_path / "lake")
    assert ingest(lake, tmp_path / "c")[0]["computed"] == 5
    before, digest = contents(lake), lake.facts("images", "shard-00000").digest
    version = lake.lance("images").version
    assert ingest(lake, tmp_path / "c")[0]["computed"] == 0
    assert contents(lake) == before and lake.facts("images", "shard-00000").digest == digest
    assert lake.lance("images").version == version


def test_another_sharding_restates_the_stored_rows_without_the_files(tmp_path: Path):
    folder = captioned(tmp_path / "c", {f"{i}.png": png(i) for i in range(6)})
    lake, other = Lake(tmp_path / "lake"), Lake(tmp_path / "other")
    ingest(lake, folder)
    ingest(other, folder, shard_size=4)
    for table in ("corpus_manifest", "images", "rejects"):
        lake.path(table, "shard-00000").unlink()
    seal_into(lake, folder, shard_size=4)
    write(folder, {f"{i}.png": b"gone" for i in range(6)})
    for shard in lake.shards():
        ingest_shard(lake, shard, LIMITS, "inputs")
    check_conservation(lake)
    assert contents(lake) == contents(other)
    assert images_by_id(lake, [content_id(png(5))]) == {content_id(png(5)): png(5)}


def test_stricter_settings_reject_what_is_stored(tmp_path: Path):
    captioned(tmp_path / "c", {"a.png": png(1, (50, 50)), "b.gif": animated("GIF"), "c.png": png(2)})
    lake = Lake(tmp_path / "lake")
    ingest(lake, tmp_path / "c")
    strict = IngestSettings(max_pixels=2000, animated="reject")
    counts = ingest_shard(lake, "shard-00000", strict, "other")
    assert counts["by_reason"] == {"animated": 1, "too_many_pixels": 1}
    check_conservation(lake)
    ingest(lake, tmp_path / "c")
    assert lake.read("images").num_rows == 3


def test_files_that_changed_or_went_after_sealing_are_rejected(tmp_path: Path):
    captioned(tmp_path / "c", {"a.png": png(1), "b.png": png(2), "c.png": png(3), "d.png": png(4)})
    lake = Lake(tmp_path / "lake")
    seal_into(lake, tmp_path / "c")
    same_size = bytearray(png(1))
    same_size[-20] ^= 1
    write(tmp_path / "c", {"a.png": bytes(same_size), "b.png": png(9, (99, 9))})
    (tmp_path / "c" / "c.png").unlink()
    ingest_shard(lake, "shard-00000", LIMITS, "inputs")
    check_conservation(lake)
    assert {r["path"]: r["reason"] for r in lake.read("rejects").to_pylist()} == {
        "a.png": "changed_on_disk",
        "b.png": "changed_on_disk",
        "c.png": "missing_file",
    }


def test_lance_rows_that_no_manifest_wants_are_removed(tmp_path: Path):
    captioned(tmp_path / "c", {"a.png": png(1), "b.png": png(2)})
    lake = Lake(tmp_path / "lake")
    ingest(lake, tmp_path / "c")
    table = lake.lance("images")
    row = table.search().where(f"image_id = '{content_id(png(1))}'").to_arrow().to_pylist()[0]
    image_table.append(table, [row, {**row, "image_id": "f" * 32}], replacing=False)
    assert table.count_rows() == 4
    assert ingest(lake, tmp_path / "c")[0]["computed"] == 0


def test_look_ups_agree_with_and_without_the_scalar_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    captioned(tmp_path / "c", {f"{i}.png": png(i, (4, 4)) for i in range(30)})
    lake = Lake(tmp_path / "lake")
    seal_into(lake, tmp_path / "c", shard_size=12)
    monkeypatch.setattr(image_table, "_MAX_UNINDEXED", 12)
    expected = {content_id(png(i, (4, 4))): png(i, (4, 4)) for i in range(30)}
    for shard, indexed in zip(lake.shards(), (12, 24, 24), strict=True):
        ingest_shard(lake, shard, LIMITS, "inputs")
        found = images_by_id(lake, list(expected))
        assert found == {i: expected[i] for i in lake.read("images")["image_id"].to_pylist()}
        assert lake.lance("images").list_indices()[0].num_indexed_rows == indexed


def test_progress_counts_every_picture_once(tmp_path: Path):
    captioned(tmp_path / "c", {f"{i}.png": png(i) if i else b"x" for i in range(4)})
    lake, told = Lake(tmp_path / "lake"), []
    with reporting(lambda task, done, total, note="": told.append((task, done, total))):
        ingest(lake, tmp_path / "c")
    assert [t[1:] for t in told if t[0] == "images"] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_columns_of_the_manifest_are_carried_along(tmp_path: Path):
    write(
        tmp_path / "c",
        {
            "a.png": png(1),
            "captions.jsonl": jsonl(
                {"image": "a.png", "caption": "two words", "item_licence": "CC BY", "source": "s", "book": "B"}
            ),
        },
    )
    lake = Lake(tmp_path / "lake")
    ingest(lake, tmp_path / "c")
    (row,) = lake.read("images").to_pylist()
    assert (row["caption_words"], row["licence"], row["source"]) == (2, "CC BY", "s")
    assert json.loads(row["extra"]) == {"book": "B"} and row["root"] == str(tmp_path / "c")


def test_scenes_are_taken_without_exception(tmp_path: Path):
    lake = Lake(tmp_path / "lake")
    counts = ingest(lake, "shapes:150", shard_size=100)
    assert [c["images"] for c in counts] == [100, 50]
    for batch in read_images(lake, "shard-00001"):
        seen = {(inspect(data).width, inspect(data).format) for data in batch["data"].to_pylist()}
        assert seen == {(64, "PNG")}


def test_what_is_odd_beside_the_pixels_is_noted_in_both_tables_and_what_is_no_picture_is_named(tmp_path: Path):
    heic = (Path(__file__).parent / "pictures" / "quadrants.heic").read_bytes()
    files = {
        "sound.png": png(1),
        "phone.HEIC": heic,
        "phone_called_jpg.jpg": (Path(__file__).parent / "pictures" / "turned.heic").read_bytes(),
        "no_end.jpg": jpeg(2)[:-2],
        "tail.png": png(3) + b"tail",
        "pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "._sound.png": b"\0\x05\x16\x07\0\2\0\0Mac OS X        ",
        "error.jpg": b"<!DOCTYPE html><title>404 Not Found</title>",
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "new.jxl": b"\xff\x0a\xfa\x1f",
    }
    lake = Lake(tmp_path / "lake")
    ingest(lake, captioned(tmp_path / "c", files))  # compares the index with Lance
    assert {row["path"]: row["remark"] for row in lake.read("images").to_pylist()} == {
        "sound.png": None,
        "phone.HEIC": None,
        "phone_called_jpg.jpg": None,
        "no_end.jpg": "no_end_mark",
        "tail.png": "trailing_bytes",
    }
    rejects = {row["path"]: f"{row['reason']}: {row['detail']}" for row in lake.read("rejects").to_pylist()}
    assert rejects.keys() == files.keys() - {row["path"] for row in lake.read("images").to_pylist()}
    assert "git lfs pull" in rejects["pointer.jpg"] and "macOS" in rejects["._sound.png"]
    assert "404 Not Found" in rejects["error.jpg"] and rejects["drawing.png"].startswith("unsupported_format: an SVG drawing")
    assert rejects["new.jxl"].startswith("unsupported_format: JPEG XL")
    before = contents(lake)
    assert [c["computed"] for c in ingest(lake, tmp_path / "c")] == [5] and contents(lake) == before  # refused ones are tried again
