"""Invariants: a new source of which nothing can be used stops before anything is sealed, and names the commonest reason, an example
and what to do; one picture that can be used lets everything through."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from mmret.errors import UserError
from mmret.ingest.enough import check_enough
from mmret.ingest.stage import ingest_shard, seal_corpus
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.schemas import IMAGES_INDEX, REJECTS
from tests.ingest.files import jsonl, png, tar, write

MANY = 30


def seal(lake: Lake, *folders: Path, **captions: object) -> int:
    overrides = {f"captions.{name}": value for name, value in captions.items()}
    profile, configuration = resolve(lake, sources=[str(folder) for folder in folders], overrides=overrides)
    lake.write_configuration(configuration)
    return seal_corpus(lake, profile, "x").rows


def pictures(folder: Path, count: int = MANY) -> Path:
    return write(folder, {f"{i:02}.png": png(i) for i in range(count)})


def with_manifest(folder: Path, name: str) -> Path:
    return write(folder, {"captions.jsonl": jsonl(*({"image": name.format(i), "caption": f"c {i}"} for i in range(MANY)))})


HOPELESS = {
    "no captions": (
        pictures,
        r"all for no caption, beginning with 00\.png .*write captions\.csv with the columns image and caption",
    ),
    "a manifest without its columns": (
        lambda f: write(pictures(f), {"captions.csv": "picture,words\n00.png,x\n"}),
        r"captions\.csv has no image column: found picture, words",
    ),
    "addresses": (lambda f: with_manifest(f, "https://x/{}.png"), r"no picture .*fetch them first"),
    "paths that lead out": (
        lambda f: with_manifest(pictures(f), "/elsewhere/{:02}.png"),
        r"30 of them for unsafe path, .*00\.png is there: write paths relative",
    ),
    "links that lead out": (
        lambda f: (
            [
                (
                    pictures(f.parent / "real") and f.mkdir(exist_ok=True),
                    [(f / f"{i:02}.png").symlink_to(f"../real/{i:02}.png") for i in range(MANY)],
                )
            ]
            and f
        ),
        r"all for unsafe path, .*the link leads outside.*cp -rL",
    ),
    "damaged": (
        lambda f: write(f, {f"{i:02}.png": b"not a picture" for i in range(MANY)} | {f"{i:02}.txt": "c" for i in range(MANY)}),
        r"none of its first 30 rows can be used, all for ",
    ),
    "empty files": (
        lambda f: write(f, {f"{i:02}.png": b"" for i in range(MANY)} | {f"{i:02}.txt": "c" for i in range(MANY)}),
        r"all for zero bytes, .*copy or download",
    ),
    "a tar without captions": (lambda f: tar(f / "t.tar", {f"{i}.png": png(i) for i in range(MANY)}), r"all for no caption"),
    "two reasons": (
        lambda f: write(f, {f"{i:02}.png": png(i) if i % 3 else b"" for i in range(MANY)}),
        r"none of its first 30 rows can be used, 20 of them for no caption",
    ),
}


@pytest.mark.parametrize("kind", HOPELESS)
def test_a_source_of_which_nothing_can_be_used_stops_before_anything_is_sealed(tmp_path: Path, kind: str):
    make, words = HOPELESS[kind]
    make(tmp_path / "in")
    lake = Lake(tmp_path / "lake")
    with pytest.raises(UserError, match=words):
        seal(lake, tmp_path / "in")
    assert not lake.shards()


def test_one_picture_that_can_be_used_lets_all_others_become_rejects(tmp_path: Path):
    folder = write(pictures(tmp_path / "in"), {"29.txt": "a caption"})
    assert seal(Lake(tmp_path / "lake"), folder) == MANY


def test_a_few_pictures_without_captions_are_rejects_as_any_other(tmp_path: Path):
    assert seal(Lake(tmp_path / "lake"), pictures(tmp_path / "in", 5)) == 5


def test_a_new_source_that_fails_leaves_the_lake_as_it_was(tmp_path: Path):
    good, bad = write(pictures(tmp_path / "a", 3), {f"{i:02}.txt": f"c {i}" for i in range(3)}), pictures(tmp_path / "b")
    lake = Lake(tmp_path / "lake")
    seal(lake, good)
    before = lake.facts("corpus_manifest", "shard-00000")
    with pytest.raises(UserError, match="take the source out again"):
        seal(lake, bad)
    assert lake.shards() == ["shard-00000"] and lake.facts("corpus_manifest", "shard-00000") == before


@pytest.mark.parametrize("captioned", [0, 2])
def test_too_few_usable_images_are_one_sentence_with_the_commonest_reason(tmp_path: Path, captioned: int):
    folder = write(pictures(tmp_path / "in", 10), {f"{i:02}.txt": f"c {i}" for i in range(captioned)})
    lake = Lake(tmp_path / "lake")
    seal(lake, folder)
    ingest_shard(lake, "shard-00000", resolve(lake)[0].ingest, "x")
    words = f"{captioned} usable images, .*of {10 - captioned} rows .* no caption, beginning with {captioned:02}.png .*captions.csv"
    with pytest.raises(UserError, match=words):
        check_enough(lake)


def test_too_few_usable_images_name_the_table_that_was_not_read_as_captions(tmp_path: Path):
    table = "foto,beschreibung\n" + "".join(f"{i:02}.png,some words\n" for i in range(10))
    lake = Lake(tmp_path / "lake")
    seal(lake, write(pictures(tmp_path / "in", 10), {"captions.csv": table}))
    ingest_shard(lake, "shard-00000", resolve(lake)[0].ingest, "x")
    with pytest.raises(UserError, match="0 usable images, .* no caption, .*; captions.csv has no image column: found foto, beschr"):
        check_enough(lake)


def test_enough_images_and_lakes_of_imports_alone_pass(tmp_path: Path):
    lake = Lake(tmp_path / "lake")
    check_enough(lake)
    seal(lake, write(pictures(tmp_path / "in", 3), {f"{i:02}.txt": f"c {i}" for i in range(3)}))
    ingest_shard(lake, "shard-00000", resolve(lake)[0].ingest, "x")
    check_enough(lake)
    lake.write("images", "shard-00000", IMAGES_INDEX.empty_table(), "x")
    lake.write("rejects", "shard-00000", pa.Table.from_pylist([], REJECTS), "x")
    with pytest.raises(UserError, match="0 usable images, and pairs need 3 at the very least: mend them or add more"):
        check_enough(lake)


WORDS = (
    "barn boat cat dog elm fox goat hill ivy jug kite lamp moon nest oak pear quilt rose sun tree urn vase wall yew zebra".split()
)


def named(folder: Path, *names: str) -> Path:
    return write(folder, {name.format(n=n): png(n) for n, name in enumerate(names)})


def test_pictures_whose_names_say_something_are_sealed(tmp_path: Path):
    assert seal(Lake(tmp_path / "lake"), named(tmp_path / "in", *(f"{word}.png" for word in WORDS))) == len(WORDS)


TELL_NONE_APART = {
    "numbers": ["IMG_{n:04}.png"] * MANY,
    "one name for all": ["holiday_{n:03}.png"] * MANY,
    "nearly all numbers": [*["IMG_{n:04}.png"] * 2 * MANY, *(f"{word}.png" for word in WORDS[:5])],
}


@pytest.mark.parametrize("kind", TELL_NONE_APART)
def test_names_that_tell_hardly_a_picture_from_another_stop_at_once_and_say_how_to_ask_a_model(tmp_path: Path, kind: str):
    folder = named(tmp_path / "pictures", *TELL_NONE_APART[kind])
    words = r"for no caption, beginning with .*say of too few pictures what they show.*captions\.csv.*--set captions\.missing=model"
    lake = Lake(tmp_path / "lake")
    with pytest.raises(UserError, match=words):
        seal(lake, folder)
    assert not lake.shards()
    model = {"model": "vlm", "urls": ["http://127.0.0.1:9/v1"]}
    assert seal(lake, folder, missing="model", engine=model) == len(TELL_NONE_APART[kind]), "nothing is asked while it is sealed"


def test_with_reject_names_count_for_nothing(tmp_path: Path):
    with pytest.raises(UserError, match="all for no caption"):
        seal(Lake(tmp_path / "lake"), named(tmp_path / "in", *(f"{word}.png" for word in WORDS)), missing="reject")


def test_a_few_names_among_many_are_enough(tmp_path: Path):
    folder = named(tmp_path / "pictures", *["IMG_{n:04}.png"] * MANY, *(f"{word}.png" for word in WORDS[:5]))
    assert seal(Lake(tmp_path / "lake"), folder) == MANY + 5
