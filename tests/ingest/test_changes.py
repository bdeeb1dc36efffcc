"""Invariants: what a source says of sealed rows is changed in their shards, and only that; no row moves, none is lost; each picture
is the image of one row; what is gone stays and is said; a second run does nothing; a run cut and repeated ends like one uncut."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pytest

from mmret.errors import UserError
from mmret.hashing import content_id
from mmret.ingest.remarks import Remarks
from mmret.ingest.seal import seal
from mmret.lake import Lake
from mmret.settings import CorpusSettings, IngestSettings
from tests.ingest.files import captioned, jsonl, png, tar, write

NAMES = ["a.png", "b.png", "c.png", "d.png", "e.png"]
Write = Callable[[Path, dict[str, str]], object]


@dataclass
class Sealed:
    """A lake over ``folder`` of shards of two rows."""

    lake: Lake
    folder: Path
    shard_size: int = 2
    images: int | None = None

    def shards(self, remarks: dict[str, Remarks] | None = None, forget: bool = False) -> Iterator[tuple[str, pa.Table]]:
        corpus = CorpusSettings(sources=(str(self.folder),), shard_size=self.shard_size, images=self.images)
        for shard, rows in seal(self.lake, corpus, IngestSettings(), remarks, forget):
            self.lake.write("corpus_manifest", shard, rows, "sealed")
            yield shard, rows

    def seal(self, forget: bool = False) -> dict[str, int]:
        """Seals; returns the remarks. Sealed again, nothing is written and the rows stay."""
        remarks: dict[str, Remarks] = {}
        before = self.rows
        for _ in self.shards(remarks, forget):
            pass
        after = self.rows
        assert [(r["shard"], r["position"]) for r in after[: len(before)]] == [(r["shard"], r["position"]) for r in before]
        used = [r["image_id"] for r in after if r["reason"] is None]
        copies = {r["image_id"] for r in after if r["reason"] == "duplicate"}
        assert len(set(used)) == len(used) and copies <= set(used)
        assert list(self.shards(forget=forget)) == [], "a second run has nothing to write"
        return {r.remark: r.count for found in remarks.values() for r in found}

    @property
    def rows(self) -> list[dict]:
        return self.lake.read("corpus_manifest").to_pylist()

    def outcome(self) -> list[tuple[str, str | None]]:
        return [(r["path"], r["reason"]) for r in self.rows]

    def column(self, name: str) -> dict[str, str | None]:
        return {r["path"]: r[name] for r in self.rows}


@pytest.fixture
def sealed(tmp_path: Path) -> Sealed:
    """Five pictures of a captions.jsonl."""
    made = Sealed(Lake(tmp_path / "lake"), captioned(tmp_path / "pictures", {name: png(i) for i, name in enumerate(NAMES)}))
    assert made.seal() == {}
    return made


def as_csv(folder: Path, captions: dict[str, str]) -> None:
    pictures(folder)
    write(folder, {"captions.csv": "image,caption\n" + "".join(f"{n},{c}\n" for n, c in captions.items())})


def as_side_cars(folder: Path, captions: dict[str, str]) -> None:
    pictures(folder)
    write(folder, {Path(n).stem + ".txt": c for n, c in captions.items()})


def as_tar(folder: Path, captions: dict[str, str]) -> None:
    members = {n: png(i) for i, n in enumerate(NAMES)} | {Path(n).stem + ".txt": c for n, c in captions.items()}
    tar(folder / "0.tar", members)


def as_tar_with_json(folder: Path, captions: dict[str, str]) -> None:
    members = {n: png(i) for i, n in enumerate(NAMES)} | {
        Path(n).stem + ".json": jsonl({"caption": c}) for n, c in captions.items()
    }
    tar(folder / "0.tar", members)


def pictures(folder: Path) -> None:
    for i, name in enumerate(NAMES):
        if not (folder / name).exists():
            write(folder, {name: png(i)})


@pytest.mark.parametrize("layout", [as_csv, as_side_cars, as_tar, as_tar_with_json])
def test_an_edited_caption_is_changed_where_its_row_lies(layout: Write, tmp_path: Path):
    made = Sealed(Lake(tmp_path / "lake"), tmp_path / "pictures")
    captions = {name: f"a picture of {name[0]}" for name in NAMES}
    layout(made.folder, captions)
    made.seal()
    before = made.rows
    layout(made.folder, captions | {"c.png": "edited"})
    remarks = made.seal()
    assert remarks.pop("caption_edited") == 1 and not remarks.keys() - {"columns_edited"}
    kept = {"shard", "position", "image_id", "reason", "path"}
    for old, new in zip(before, made.rows, strict=True):
        assert {k: old[k] for k in kept} == {k: new[k] for k in kept}
        assert new["caption"] == ("edited" if old["path"].endswith("c.png") else old["caption"])


def test_only_the_shard_of_an_edited_row_is_written(sealed: Sealed):
    write(
        sealed.folder,
        {"captions.jsonl": jsonl(*({"image": n, "caption": "new" if n == "d.png" else f"a picture called {n}"} for n in NAMES))},
    )
    assert [shard for shard, _ in sealed.shards()] == ["shard-00001"]


@pytest.mark.parametrize(
    ("field", "value", "remark"),
    [("licence", "CC0-1.0", "licence_edited"), ("url", "http://new", "columns_edited"), ("tags", ["x"], "columns_edited")],
)
def test_licences_sources_and_other_columns_flow_as_captions_do(sealed: Sealed, field: str, value: object, remark: str):
    lines = [{"image": n, "caption": f"a picture called {n}"} for n in NAMES]
    lines[3][field] = value
    write(sealed.folder, {"captions.jsonl": jsonl(*lines)})
    before = sealed.rows
    assert sealed.seal() == {remark: 1}
    changed = [new for old, new in zip(before, sealed.rows, strict=True) if old != new]
    column = {"url": "source", "tags": "extra"}.get(field, field)
    assert [r["path"] for r in changed] == ["d.png"] and changed[0][column] is not None


def test_a_manifest_in_another_order_or_with_columns_in_another_order_changes_nothing(tmp_path: Path):
    made = Sealed(Lake(tmp_path / "lake"), write(tmp_path / "pictures", {n: png(i) for i, n in enumerate(NAMES)}))
    lines = [{"image": n, "caption": f"a picture called {n}", "height": 16, "tags": ["x", n]} for n in NAMES]
    write(made.folder, {"captions.jsonl": jsonl(*lines)})
    made.seal()
    before = made.rows
    write(made.folder, {"captions.jsonl": jsonl(*(dict(reversed(line.items())) for line in reversed(lines)))})
    assert made.seal() == {} and made.rows == before


def test_a_caption_moved_from_a_side_car_to_a_manifest_changes_nothing(tmp_path: Path):
    made = Sealed(Lake(tmp_path / "lake"), tmp_path / "pictures")
    captions = {name: f"a picture of {name[0]}" for name in NAMES}
    as_side_cars(made.folder, captions)
    made.seal()
    before = made.rows
    for name in NAMES:
        (made.folder / name).with_suffix(".txt").unlink()
    as_csv(made.folder, captions)
    assert made.seal() == {} and made.rows == before


def test_a_touched_file_is_read_once_more_and_nothing_is_said(sealed: Sealed, monkeypatch: pytest.MonkeyPatch):
    before = sealed.rows
    os.utime(sealed.folder / "b.png", ns=(5, 5))
    assert sealed.seal() == {}
    changed = [(old, new) for old, new in zip(before, sealed.rows, strict=True) if old != new]
    assert [new for _, new in changed] == [{**old, "mtime_ns": 5} for old, _ in changed] and len(changed) == 1
    monkeypatch.setattr("mmret.ingest.seal.hash_file", lambda *_: pytest.fail("read again"))
    assert list(sealed.shards()) == []


def test_a_picture_that_is_gone_stays_and_is_said_until_it_is_forgotten_and_comes_back(sealed: Sealed):
    before, data = sealed.rows, (sealed.folder / "b.png").read_bytes()
    (sealed.folder / "b.png").unlink()
    assert sealed.seal() == {"missing": 1} and sealed.rows == before
    assert sealed.seal(forget=True) == {"deleted": 1}
    assert sealed.outcome()[1] == ("b.png", "deleted") and len(sealed.rows) == 5
    assert sealed.seal() == {}, "what was forgotten is not said again"
    write(sealed.folder, {"b.png": data})
    assert sealed.seal() == {"returned": 1}
    assert sealed.outcome() == [(n, None) for n in NAMES]


def test_a_line_that_is_gone_with_its_picture_is_missing_and_one_without_its_caption_is_a_reject(sealed: Sealed):
    write(sealed.folder, {"captions.jsonl": jsonl(*({"image": n, "caption": f"a picture called {n}"} for n in NAMES[2:]))})
    (sealed.folder / "a.png").unlink()
    assert sealed.seal() == {"missing": 1, "caption_removed": 1, "without_caption": 1}
    assert sealed.outcome()[:2] == [("a.png", None), ("b.png", "caption_removed")]
    captioned(sealed.folder, {"a.png": png(0)} | {n: (sealed.folder / n).read_bytes() for n in NAMES[1:]}, "now {}")
    assert sealed.seal() == {"caption_edited": 4, "returned": 1}, "the one that had none is back, with its caption"
    assert sealed.outcome() == [(n, None) for n in NAMES] and set(sealed.column("caption").values()) == {f"now {n}" for n in NAMES}


def test_a_renamed_picture_keeps_its_place_and_a_copied_one_is_a_duplicate(tmp_path: Path):
    made = Sealed(Lake(tmp_path / "lake"), tmp_path / "pictures")
    as_side_cars(made.folder, {name: f"a picture of {name[0]}" for name in NAMES})
    made.seal()
    before = made.rows
    (made.folder / "sub").mkdir()
    for suffix in (".png", ".txt"):
        (made.folder / f"b{suffix}").rename(made.folder / "sub" / f"z{suffix}")
        shutil.copy(made.folder / f"c{suffix}", made.folder / f"copy{suffix}")
    assert made.seal() == {"renamed": 1}
    after = made.rows
    assert after[1] == {**before[1], "path": "sub/z.png"}
    assert [r for i, r in enumerate(after[:5]) if i != 1] == [r for i, r in enumerate(before) if i != 1]
    assert [(r["path"], r["reason"], r["detail"]) for r in after[5:]] == [("copy.png", "duplicate", "same content as c.png")]


def test_two_pictures_that_swap_names_keep_their_places(sealed: Sealed):
    before = sealed.rows
    (sealed.folder / "a.png").rename(sealed.folder / "x")
    (sealed.folder / "d.png").rename(sealed.folder / "a.png")
    (sealed.folder / "x").rename(sealed.folder / "d.png")
    remarks = sealed.seal()
    assert remarks["renamed"] == 2 and "replaced" not in remarks
    assert [r["image_id"] for r in sealed.rows] == [r["image_id"] for r in before]
    assert [r["path"] for r in sealed.rows] == ["d.png", "b.png", "c.png", "a.png", "e.png"]
    assert sealed.column("caption") == {n: f"a picture called {n}" for n in NAMES}, "captions are those of the names"


def test_an_edited_picture_replaces_the_old_one_and_the_old_one_comes_back_with_its_file(sealed: Sealed):
    old = (sealed.folder / "b.png").read_bytes()
    write(sealed.folder, {"b.png": png(77)})
    assert sealed.seal() == {"replaced": 1}
    assert sealed.outcome() == [*((n, "replaced" if n == "b.png" else None) for n in NAMES), ("b.png", None)]
    assert content_id(png(77)) in sealed.rows[1]["detail"] and sealed.rows[5]["image_id"] == content_id(png(77))
    write(sealed.folder, {"b.png": old})
    assert sealed.seal() == {"returned": 1, "replaced": 1}
    assert sealed.outcome() == [*((n, None) for n in NAMES), ("b.png", "replaced")]


def test_of_a_replaced_or_deleted_picture_an_equal_one_becomes_the_image(tmp_path: Path):
    made = Sealed(Lake(tmp_path / "lake"), captioned(tmp_path / "pictures", {"a.png": png(0), "b.png": png(1), "copy.png": png(0)}))
    made.seal()
    assert made.outcome()[2] == ("copy.png", "duplicate")
    write(made.folder, {"a.png": png(9)})
    assert made.seal() == {"replaced": 1}
    assert made.outcome() == [("a.png", "replaced"), ("b.png", None), ("copy.png", None), ("a.png", None)]
    (made.folder / "copy.png").unlink()
    assert made.seal(forget=True) == {"deleted": 1}
    assert content_id(png(0)) not in [r["image_id"] for r in made.rows if r["reason"] is None]


def test_a_file_that_cannot_be_taken_any_more_replaces_its_picture_and_a_cut_line_is_a_row(sealed: Sealed):
    write(sealed.folder, {"b.png": b""})
    assert sealed.seal() == {"replaced": 1}
    assert sealed.outcome()[1] == ("b.png", "replaced") and sealed.outcome()[5:] == [("b.png", "zero_bytes")]


def test_captions_of_a_picture_that_is_named_several_times_are_edited_one_by_one(tmp_path: Path):
    made = Sealed(Lake(tmp_path / "lake"), write(tmp_path / "pictures", {"a.png": png(0)}))
    write(made.folder, {"captions.jsonl": jsonl(*({"image": "a.png", "caption": f"caption {i}"} for i in range(5)))})
    made.seal()
    texts = ["caption 3", "caption 0", "edited", "caption 4", "caption 1"]
    write(made.folder, {"captions.jsonl": jsonl(*({"image": "a.png", "caption": text} for text in texts))})
    assert made.seal() == {"caption_edited": 1}
    assert [r["caption"] for r in made.rows] == ["caption 0", "caption 1", "edited", "caption 3", "caption 4"]
    assert [r["reason"] for r in made.rows] == [None, *["duplicate"] * 4]


def test_rows_that_a_limit_keeps_from_being_listed_are_not_missing(sealed: Sealed):
    sealed.images = 3
    for _ in sealed.shards():
        pass
    write(sealed.folder, {f"new{i}.png": png(50 + i) for i in range(3)})
    assert sealed.seal(forget=True) == {}
    sealed.images = 6
    (sealed.folder / "e.png").unlink()
    assert sealed.seal() == {"missing": 1, "without_caption": 3}


def test_a_source_that_is_not_there_is_one_sentence_and_changes_nothing(sealed: Sealed, tmp_path: Path):
    before = sealed.rows
    sealed.folder.rename(tmp_path / "unmounted")
    for make in (lambda: None, sealed.folder.mkdir):
        make()
        with pytest.raises(UserError, match=r"The 5 rows sealed from it stay in the lake.*--remove"):
            list(sealed.shards(forget=True))
        assert sealed.rows == before


@pytest.mark.parametrize("gone", ["the manifest", "the pictures"])
def test_a_source_without_any_captioned_picture_is_one_sentence_and_changes_nothing(sealed: Sealed, gone: str):
    before = sealed.rows
    if gone == "the manifest":
        (sealed.folder / "captions.jsonl").unlink()
    else:
        write(sealed.folder, {"other.png": png(40)})
        for name in NAMES:
            (sealed.folder / name).unlink()
    with pytest.raises(UserError, match=r"5 rows were sealed from it. Nothing was changed.*--remove"):
        list(sealed.shards(forget=True))
    assert sealed.rows == before


def test_what_lies_behind_damage_is_not_missing(tmp_path: Path):
    made = Sealed(Lake(tmp_path / "lake"), tmp_path / "pictures")
    as_tar(made.folder, {name: f"a picture of {name[0]}" for name in NAMES})
    write(made.folder, {"in/f.png": png(20), "in/f.txt": "another"})
    made.seal()
    data = (made.folder / "0.tar").read_bytes()
    (made.folder / "0.tar").write_bytes(data[: data.index(b"c.png") + 100])
    remarks = made.seal(forget=True)
    assert "deleted" not in remarks and "missing" not in remarks and remarks["kept_as_sealed"] == 3
    (made.folder / "0.tar").write_bytes(data)
    assert not {"deleted", "missing"} & made.seal(forget=True).keys()
    assert {p for p, r in made.outcome() if r is None} == {*(f"0.tar/{n}" for n in NAMES), "in/f.png"}


def test_lines_that_are_no_rows_keep_theirs_when_lines_are_added_above(sealed: Sealed):
    lines = [{"image": n, "caption": f"a picture called {n}"} for n in NAMES]
    write(sealed.folder, {"captions.jsonl": jsonl(*lines, {"caption": "of nothing"})})
    sealed.seal()
    assert sealed.outcome()[5:] == [("captions.jsonl:6", "bad_manifest_row")]
    write(sealed.folder, {"new.png": png(30)})
    write(sealed.folder, {"captions.jsonl": jsonl({"image": "new.png", "caption": "n"}, *lines, {"caption": "of nothing"})})
    assert sealed.seal() == {}
    assert sealed.outcome()[5:] == [("captions.jsonl:7", "bad_manifest_row"), ("new.png", None)]


def everything_changes(folder: Path) -> None:
    """Edits a caption, replaces, renames, copies, adds, touches and deletes."""
    write(folder, {"b.png": png(70), "new.png": png(71), "copy.png": png(4)})
    (folder / "c.png").rename(folder / "renamed.png")
    (folder / "d.png").unlink()
    os.utime(folder / "a.png", ns=(7, 7))
    names = ["a.png", "b.png", "new.png", "copy.png", "renamed.png", "e.png"]
    lines = [{"image": n, "caption": "edited" if n == "e.png" else f"a picture called {n}"} for n in names]
    write(folder, {"captions.jsonl": jsonl(*lines)})


@pytest.mark.parametrize("kept", range(5))
def test_a_run_cut_after_any_shard_and_repeated_ends_as_one_that_was_not(kept: int, tmp_path: Path):
    def outcome(cut: int | None) -> list[dict]:
        made = Sealed(Lake(tmp_path / f"lake{cut}"), tmp_path / f"pictures{cut}" / "same")
        files = {name: png(i) for i, name in enumerate(NAMES)}
        captioned(made.folder, files | {"twin.png": png(1)})
        made.seal()
        (made.folder / "twin.png").unlink()
        everything_changes(made.folder)
        if cut is not None:
            for _ in islice(made.shards(forget=True), cut):
                pass
        made.seal(forget=True)
        return [{k: v for k, v in r.items() if k not in ("root", "mtime_ns")} | {"detail": None} for r in made.rows]

    whole = outcome(None)
    assert [r["reason"] for r in whole[:6]] == [None, "replaced", None, "deleted", None, "deleted"]
    assert outcome(kept) == whole
