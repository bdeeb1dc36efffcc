"""Invariants: readers of a folder add up; for one picture a manifest's caption wins over a side-car's, a tar's own over a table's;
whatever is not understood is a counted remark; layouts from before list the same rows in the same order."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmret.errors import UserError
from mmret.ingest.rows import Row
from mmret.ingest.sources import open_reader, open_source
from mmret.lake.configuration import source_name
from tests.ingest.files import jsonl, png, tar, write


def listing(folder: Path | str) -> list[tuple[str, str | None, str | None]]:
    return [(row.path, row.caption, row.reason) for row in open_source(str(folder)).rows()]


def by_path(folder: Path | str) -> dict[str, Row]:
    listed = list(open_source(str(folder)).rows())
    assert len({row.path for row in listed}) == len(listed)
    return {row.path: row for row in listed}


def remarks(folder: Path | str) -> dict[str, tuple[int, str | None]]:
    source = open_source(str(folder))
    first = [*source.rows()], [(r.remark, r.count, r.path, r.detail) for r in source.remarks]
    again = [*source.rows()], [(r.remark, r.count, r.path, r.detail) for r in source.remarks]
    assert first == again, "the second listing of a source differs from the first"
    return {r.remark: (r.count, r.path) for r in source.remarks}


def read_all(folder: Path) -> dict[str, bytes]:
    """The bytes of every picture, by the reader that opens it once it is sealed."""
    found = {}
    for row in open_source(str(folder)).rows():
        if row.reason is None:
            stream, size = open_reader(str(folder)).open(row.path)
            with stream:
                found[row.path] = stream.read(size)
    return found


# -- layouts from before there was more than one reader a folder: their rows and order are those of existing lakes -------------


def test_a_manifest_at_the_top_lists_its_lines_then_the_pictures_it_does_not_name(tmp_path: Path):
    records = [{"image": name, "caption": name} for name in ("z/b.png", "./z/a.png", "nowhere.png", "z\\c.png")]
    write(tmp_path, {f"z/{n}.png": png(i) for i, n in enumerate("abcd")} | {"0.png": png(9), "y/1.png": png(8)})
    write(tmp_path, {"captions.jsonl": jsonl(*records[:3]) + "{bad\n" + jsonl(records[3])})
    assert listing(tmp_path) == [
        ("z/b.png", "z/b.png", None),
        ("./z/a.png", "./z/a.png", None),
        ("nowhere.png", "nowhere.png", "missing_file"),
        ("captions.jsonl:4", None, "bad_manifest_row"),
        ("z\\c.png", "z\\c.png", None),
        ("0.png", None, None),
        ("y/1.png", None, None),
        ("z/d.png", None, None),
    ]


def test_side_cars_and_tars_are_listed_by_name_directory_by_directory(tmp_path: Path):
    write(tmp_path, {"b.png": png(1), "b.txt": "b", "z.png": png(2), "in/a.jpg": png(3), "in/a.txt": "a", "in/deep/c.png": png(4)})
    tar(tmp_path / "t.tar", {"1.png": png(5), "1.txt": "one", "0.png": png(6), "0.json": '{"caption": "zero"}'})
    tar(tmp_path / "in/s.tar", {"0.png": png(7), "0.txt": "nought"})
    (tmp_path / "link").symlink_to("/usr")
    assert listing(tmp_path) == [
        ("b.png", "b", None),
        ("t.tar/1.png", "one", None),
        ("t.tar/0.png", "zero", None),
        ("z.png", None, None),
        ("link", None, "unsafe_path"),
        ("in/a.jpg", "a", None),
        ("in/s.tar/0.png", "nought", None),
        ("in/deep/c.png", None, None),
    ]


# -- adding up -----------------------------------------------------------------------------------------------------------------


def test_a_manifest_side_cars_tars_and_tables_of_pictures_add_up(tmp_path: Path):
    write(tmp_path, {f"p{i}.png": png(i) for i in range(4)} | {"p2.txt": "two", "p3.txt": "three"})
    write(tmp_path, {"captions.jsonl": jsonl({"image": "p0.png", "caption": "zero"}, {"image": "p1.png", "caption": "one"})})
    tar(tmp_path / "more.tar", {"0.png": png(10), "0.txt": "in a tar"})
    pictures = [{"bytes": png(20 + i), "path": f"{i}.png"} for i in range(2)]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"image": pictures, "text": ["in a table", "also"]}), tmp_path / "data/train-00000-of-00001.parquet")
    assert listing(tmp_path) == [
        ("p0.png", "zero", None),
        ("p1.png", "one", None),
        ("more.tar/0.png", "in a tar", None),
        ("p2.png", "two", None),
        ("p3.png", "three", None),
        ("data/train-00000-of-00001.parquet/0", "in a table", None),
        ("data/train-00000-of-00001.parquet/1", "also", None),
    ]
    read = read_all(tmp_path)
    assert read["more.tar/0.png"] == png(10) and read["data/train-00000-of-00001.parquet/1"] == png(21) and len(read) == 7


def test_manifests_at_any_depth_count_paths_from_their_own_folder(tmp_path: Path):
    for split in ("train", "test"):
        write(tmp_path / split, {"0.png": png(1), "metadata.csv": f"file_name,text\n0.png,in {split}\ngone.png,x\n"})
    assert listing(tmp_path) == [
        ("test/0.png", "in test", None),
        ("test/gone.png", "x", "missing_file"),
        ("train/0.png", "in train", None),
        ("train/gone.png", "x", "missing_file"),
    ]
    assert len(read_all(tmp_path)) == 2


def test_the_manifest_s_caption_wins_over_the_side_car_s_and_the_tar_s_and_that_is_counted(tmp_path: Path):
    write(tmp_path, {"a.png": png(1), "a.txt": "side-car", "b.png": png(2), "b.txt": "the other side-car"})
    tar(tmp_path / "t.tar", {"0.png": png(3), "0.txt": "tar"})
    named = [{"image": "a.png", "caption": "manifest"}, {"image": "b.png", "caption": ""}, {"image": "t.tar/0.png", "caption": "m"}]
    write(tmp_path, {"captions.jsonl": jsonl(*named)})
    assert listing(tmp_path) == [
        ("a.png", "manifest", None),
        ("b.png", "the other side-car", None),  # the manifest has none
        ("t.tar/0.png", "m", None),
    ]
    assert remarks(tmp_path) == {"side_car_overruled": (1, "a.txt"), "tar_caption_overruled": (1, "t.tar/0.png")}
    assert read_all(tmp_path)["t.tar/0.png"] == png(3)


def test_what_a_side_car_adds_to_a_manifest_s_row_without_a_caption_is_kept(tmp_path: Path):
    write(tmp_path, {"a.png": png(1), "a.json": '{"caption": "c", "license": "CC0", "n": 1, "m": 2}'})
    write(tmp_path, {"captions.jsonl": jsonl({"image": "a.png", "caption": None, "n": 7})})
    row = by_path(tmp_path)["a.png"]
    assert (row.caption, row.licence, json.loads(row.extra)) == ("c", "CC0", {"n": 7, "m": 2})


def test_of_two_manifests_the_first_with_a_caption_wins_and_the_other_line_is_counted(tmp_path: Path):
    write(tmp_path, {f"{n}.png": png(i) for i, n in enumerate("abc")})
    write(tmp_path, {"captions.jsonl": jsonl({"image": "a.png", "caption": "first"}, {"image": "b.png", "caption": ""})})
    write(tmp_path, {"other.csv": "image,caption\na.png,second\nb.png,of the second\nc.png,alone\n"})
    assert listing(tmp_path) == [
        ("a.png", "first", None),
        ("b.png", None, None),
        ("b.png", "of the second", None),
        ("c.png", "alone", None),
    ]
    assert remarks(tmp_path) == {"named_by_two_manifests": (1, "a.png")}


def test_the_table_beside_a_tar_describes_its_members_by_key_and_is_no_manifest(tmp_path: Path):
    tar(tmp_path / "00000.tar", {"000.png": png(1), "000.txt": "own", "001.png": png(2), "002.png": png(3), "002.txt": "only text"})
    rows = [
        {"key": "000", "caption": "table", "url": "https://x/0", "license": "CC BY", "status": "success", "error_message": None},
        {"key": "001", "caption": "table", "url": "https://x/1", "license": None, "status": "success", "error_message": None},
        {"key": "009", "caption": "lost", "url": "https://x/9", "license": None, "status": "failed", "error_message": "404"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
    write(tmp_path, {"00000_stats.json": '{"count": 3}'})
    found = by_path(tmp_path)
    assert {path: (r.caption, r.source, r.licence) for path, r in found.items()} == {
        "00000.tar/000.png": ("own", "https://x/0", "CC BY"),
        "00000.tar/001.png": ("table", "https://x/1", None),
        "00000.tar/002.png": ("only text", None, None),
    }
    assert remarks(tmp_path) == {
        "not_a_manifest": (1, "00000_stats.json"),
        "table_row_without_member": (1, "00000.parquet: 009"),
    }


def test_a_stray_table_beside_side_cars_is_named_and_does_not_hijack_the_folder(tmp_path: Path):
    write(tmp_path, {"a.png": png(1), "a.txt": "a", "scores.csv": "model,score\nx,1\n", "bad.parquet": "no table"})
    assert listing(tmp_path) == [("a.png", "a", None)]
    assert remarks(tmp_path) == {"not_a_manifest": (2, "bad.parquet")}


def test_everything_that_is_not_read_is_counted_with_an_example(tmp_path: Path):
    write(
        tmp_path, {"a.png": png(1), "a.txt": "a", "b.txt": "nobody's", "README.md": "", "x/clip.mp4": "", "y.tar.gz": "", "n": ""}
    )
    write(tmp_path, {".hidden/c.png": png(2), "._a.png": "", "Thumbs.db": "", "__MACOSX/d.png": png(3)})
    write(
        tmp_path,
        {"lake/lake.yaml": "", "lake/corpus_manifest/x.parquet": "", "lake/images/shard.parquet": "", "lake/e.png": png(4)},
    )
    assert listing(tmp_path) == [("a.png", "a", None)]
    assert remarks(tmp_path) == {
        "hidden": (4, "._a.png"),
        "unknown_file": (3, "README.md"),
        "compressed_tar": (1, "y.tar.gz"),
        "lake_among_pictures": (1, "lake"),
        "text_without_picture": (1, "b.txt"),
    }


def test_annotations_and_pictures_in_folders_beside_each_other_as_coco_has_them(tmp_path: Path):
    images = [{"id": i, "file_name": f"{i:012}.png"} for i in range(3)]
    texts = [{"image_id": i % 3, "id": i, "caption": f"caption {i}"} for i in range(6)]
    write(tmp_path, {f"val2017/{i:012}.png": png(i) for i in range(3)})
    write(tmp_path, {"annotations/captions_val2017.json": json.dumps({"images": images, "annotations": texts})})
    assert [(path, caption) for path, caption, _ in listing(tmp_path)] == [
        (f"val2017/{i:012}.png", f"caption {i}") for i in range(3)
    ]


def test_a_link_to_a_table_outside_is_not_followed_below_the_top(tmp_path: Path):
    write(tmp_path, {"secret/captions.csv": "image,caption\na.png,secret\n"})
    inside = write(tmp_path / "in", {"a.png": png(1), "sub/b.png": png(2)})
    (inside / "sub/captions.csv").symlink_to(tmp_path / "secret/captions.csv")
    assert listing(inside) == [("a.png", None, None), ("sub/b.png", None, None)]
    assert remarks(inside) == {"not_a_manifest": (1, "sub/captions.csv")}


@pytest.mark.parametrize("name", ["pictures", "snapshots"])
def test_links_into_a_sibling_folder_whose_name_begins_alike_are_refused(tmp_path: Path, name: str):
    write(tmp_path, {f"{name}2/b.png": png(2), f"{name}2/b.txt": "secret", f"{name}/a.png": png(1), f"{name}/a.txt": "a"})
    (tmp_path / name / "b.png").symlink_to(tmp_path / f"{name}2/b.png")
    (tmp_path / name / "c").symlink_to(tmp_path / f"{name}2")
    assert listing(tmp_path / name) == [("a.png", "a", None), ("b.png", None, "unsafe_path"), ("c", None, "unsafe_path")]


def snapshot(hub: Path, repository: str) -> Path:
    """A repository as the hub's cache keeps it: files are links to blobs, in folders too."""
    revision = hub / repository / "snapshots" / "abc123"
    files = {"a.png": png(1), "metadata.csv": b"file_name,text\na.png,a\nin/b.png,b\n", "in/b.png": png(2)}
    for at, (name, data) in enumerate(files.items()):
        write(hub / repository, {f"blobs/hash{at}": data})
        (revision / name).parent.mkdir(parents=True, exist_ok=True)
        depth = name.count("/") + 2
        (revision / name).symlink_to("/".join([".."] * depth) + f"/blobs/hash{at}")
    return revision


def test_the_links_of_a_hub_snapshot_lead_to_its_own_blobs_and_nowhere_else(tmp_path: Path):
    revision = snapshot(tmp_path, "datasets--org--name")
    write(tmp_path, {"datasets--org--other/blobs/x": png(5), "secret.png": png(6)})
    (revision / "other.png").symlink_to("../../../datasets--org--other/blobs/x")
    (revision / "secret.png").symlink_to(tmp_path / "secret.png")
    assert listing(revision) == [
        ("a.png", "a", None),
        ("in/b.png", "b", None),
        ("other.png", None, "unsafe_path"),
        ("secret.png", None, "unsafe_path"),
    ]
    assert read_all(revision) == {"a.png": png(1), "in/b.png": png(2)}
    elsewhere = snapshot(tmp_path, "name")  # no repository's name
    assert {reason for *_, reason in listing(elsewhere)} == {"unsafe_path"}


def test_a_file_of_a_hub_snapshot_is_a_source_by_its_own_name(tmp_path: Path):
    revision = snapshot(tmp_path, "datasets--org--name")
    name = source_name(str(revision / "metadata.csv"))
    assert name == str(revision / "metadata.csv")
    assert [(path, reason) for path, _, reason in listing(name)] == [("a.png", None), ("in/b.png", None)]


def test_a_path_with_signs_of_a_pattern_is_a_path(tmp_path: Path):
    write(tmp_path, {"a[0-9]*{1..2}?/a.png": png(1), "a[0-9]*{1..2}?/a.txt": "a", "a1/b.png": png(2)})
    assert listing(tmp_path / "a[0-9]*{1..2}?") == [("a.png", "a", None)]
    with pytest.raises(UserError, match="no path is read as a pattern, give the folder"):
        open_source(str(tmp_path / "*.tar"))


def test_folders_of_folders_of_tars(tmp_path: Path):
    for at in ("a/b", "a/c", "d"):
        tar(tmp_path / at / "0.tar", {"0.png": png(len(at)), "0.txt": at})
    assert listing(tmp_path) == [(f"{at}/0.tar/0.png", at, None) for at in ("a/b", "a/c", "d")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tar", "manifest", "side-cars"])
def test_memory_does_not_grow_with_the_rows_of_a_source(tmp_path: Path, kind: str):
    """Of tars and manifests not at all; of a directory by its names alone, some 400 bytes a file."""

    def peak(count: int) -> int:
        folder = tmp_path / f"{count}"
        if kind == "tar":
            tar(folder / "t.tar", {f"{i:05}{suffix}": b"x" for i in range(count) for suffix in (".png", ".txt")})
        elif kind == "manifest":
            write(folder, {"a.png": b"x", "captions.csv": "image,caption\n" + "a.png,x\n" * count})
        else:
            write(folder, {f"{i:05}{suffix}": b"x" for i in range(count) for suffix in (".png", ".txt")})
        tracemalloc.start()
        assert sum(1 for _ in open_source(str(folder)).rows()) == count
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    peak(50)  # what is made once
    few, many = (40_000, 80_000) if kind == "manifest" else (1500, 4500)  # a manifest's head is read to know what it is
    assert peak(many) - peak(few) < (1200 if kind == "side-cars" else 50) * (many - few)


def test_a_folder_that_grows_keeps_the_order_of_what_was_there(tmp_path: Path):
    write(tmp_path, {f"{n}.png": png(i) for i, n in enumerate("bdf")} | {"m.csv": "image,caption\nb.png,x\n"})
    before = [path for path, *_ in listing(tmp_path)]
    write(tmp_path, {f"{n}.png": png(i + 10) for i, n in enumerate("ace")} | {"k/m.csv": "image,caption\n", "k/z.png": png(20)})
    after = [path for path, *_ in listing(tmp_path)]
    assert [path for path in after if path in before] == before and len(after) == 7


def test_a_directory_that_cannot_be_read_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, {"a.png": png(1), "shut/b.png": png(2)})
    real = os.scandir

    def scandir(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert listing(tmp_path) == [("a.png", None, None), ("shut", None, "not_a_file")]


def test_a_remark_names_the_file_and_says_in_its_own_words_what_is_odd(tmp_path: Path):
    write(tmp_path, {"a.png": png(1), "a.txt": "a", "sub/b.caption": "nobody's", "sub/c.png": png(2), "old.zip": "", "y.tgz": ""})
    write(tmp_path, {"notes.pdf": "", "clip.mp4": "", "one.mp4": "", "n": "", "d.png": png(3), "d.txt": "0 0.1 0.2 0.3 0.4"})
    source = open_source(str(tmp_path))
    list(source.rows())
    assert {r.remark: (r.path, r.detail) for r in source.remarks} == {
        "text_without_picture": ("sub/b.caption", "no picture beside it has its name"),
        "archive": ("old.zip", "unpack it: archives other than tars are not looked into"),
        "compressed_tar": ("y.tgz", "decompress it: members are read where they lie"),
        "unknown_file": ("clip.mp4", "not read, by suffix: .mp4 2, no suffix 1, .pdf 1"),
        "numbers_as_text": ("d.txt", "lines of numbers (boxes, polygons, key points) are no caption"),
    }


def test_a_caption_that_another_one_overrules_is_named_by_its_own_file(tmp_path: Path):
    records = [{"image": "a.png", "caption": "first"}, {"image": "t.tar/m.png", "caption": "first"}]
    write(tmp_path, {"1.jsonl": jsonl(records), "2.jsonl": jsonl(records[:1]), "a.png": png(1), "a.txt": "third"})
    source = open_source(str(tmp_path))
    rows = list(source.rows())
    assert [(row.path, row.caption) for row in rows if row.reason is None] == [("a.png", "first")]
    found = {r.remark: (r.path, r.detail) for r in source.remarks}
    assert found["side_car_overruled"] == ("a.txt", "the manifest's caption is used")
    assert found["named_by_two_manifests"] == ("a.png", "the caption of the first manifest is used")
