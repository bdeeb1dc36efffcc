"""Pins of benchmark folders as people keep them: unpacked a level deeper, renamed, converted, with the splits elsewhere. All are
found, and give the same numbers; what is not there is named, with where it was looked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmret.benchmarks.common.image_folder import ImageFolder
from mmret.benchmarks.common.runs import RunOptions
from mmret.benchmarks.run import run_benchmark
from mmret.errors import UserError

from .checkpoints import Colours
from .worlds import WORLDS

Rearrange = Callable[[Path, Path, Path], tuple[Path, Path]]
"""Function of (root, images, annotations) that moves files about and returns the two paths that a person then gives."""


def _deeper(root: Path, images: Path, annotations: Path) -> tuple[Path, Path]:
    kept = root.parent / "kept" / "data" / "set-main"
    shutil.move(root, kept)
    return kept.parent, kept.parent


def _renamed(root: Path, images: Path, annotations: Path) -> tuple[Path, Path]:
    for folder in ("images", "img_raw", "unlabeled2017", "VG_100K"):
        for found in list(root.rglob(folder)):
            found.rename(found.with_name("resized_image"))
    return root, annotations


def _flat(root: Path, images: Path, annotations: Path) -> tuple[Path, Path]:
    flat = root.parent / "flat"
    flat.mkdir()
    for path in [p for p in root.rglob("*") if p.suffix in (".png", ".jpg")]:
        shutil.move(path, flat / path.name)
    return flat, annotations


def _capitals(root: Path, images: Path, annotations: Path) -> tuple[Path, Path]:
    for path in [p for p in root.rglob("*") if p.suffix in (".png", ".jpg")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    return images, annotations


def _converted(root: Path, images: Path, annotations: Path) -> tuple[Path, Path]:
    for path in [p for p in root.rglob("*") if p.suffix == ".jpg"]:
        with Image.open(path) as picture:
            picture.save(path.with_suffix(".png"))
        path.unlink()
    return images, annotations


def _splits_elsewhere(root: Path, images: Path, annotations: Path) -> tuple[Path, Path]:
    for path in list(root.rglob("cap.*.json")):
        shutil.move(path, annotations / path.name)  # the captions at the top, the splits one below
    return images, annotations


def _with_what_systems_leave(root: Path, images: Path, annotations: Path) -> tuple[Path, Path]:
    for path in [p for p in root.rglob("*") if p.is_file()]:
        beside = path.parent / "__MACOSX" / f"._{path.name}"
        beside.parent.mkdir(exist_ok=True)
        beside.write_bytes(b"\x00\x05\x16\x07")
        (path.parent / "__MACOSX" / path.name).write_bytes(b"\x00\x05\x16\x07")
    return images, annotations


ALL = [_deeper, _renamed, _flat, _capitals, _converted, _splits_elsewhere, _with_what_systems_leave]


def _values(benchmark: str, images: Path, annotations: Path) -> list[dict[str, Any]]:
    run = run_benchmark(benchmark, Colours(), "m", RunOptions(images, annotations))
    assert "missing" not in (run.partial or "")
    return [dict(v.values) for v in run.variants]


@pytest.mark.parametrize("rearrange", ALL, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("benchmark", ["circo", "cirr", "fashioniq", "genecis"])
def test_a_folder_kept_another_way_gives_the_same_numbers(benchmark: str, rearrange: Rearrange, tmp_path: Path) -> None:
    before = _values(benchmark, *WORLDS[benchmark](tmp_path / "official"))
    kept = tmp_path / "world"
    assert _values(benchmark, *rearrange(kept, *WORLDS[benchmark](kept))) == before


@pytest.mark.parametrize("benchmark", ["circo", "cirr", "fashioniq", "genecis"])
def test_archives_that_nobody_unpacked_are_named(benchmark: str, tmp_path: Path) -> None:
    images, annotations = WORLDS[benchmark](tmp_path / "world")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "images.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"missing under .*empty and the folders below it(.|\n)*images\.zip there is still packed"):
        run_benchmark(benchmark, Colours(), "m", RunOptions(empty, annotations))
    with pytest.raises(UserError, match=r"looked for .*json.* in every folder below; images\.zip there is still packed"):
        run_benchmark(benchmark, Colours(), "m", RunOptions(images, empty))
    for given in (RunOptions(empty / "images.zip", annotations), RunOptions(images, empty / "images.zip")):
        with pytest.raises(UserError, match="unpack it|annotation file is called"):
            run_benchmark(benchmark, Colours(), "m", given)


def test_pictures_that_are_lost_are_counted_in_words_with_the_figure(tmp_path: Path) -> None:
    images, annotations = WORLDS["fashioniq"](tmp_path)
    for path in sorted((tmp_path / "images").iterdir())[-7:]:
        path.unlink()
    run = run_benchmark("fashioniq", Colours(), "m", RunOptions(images, annotations, allow_missing=True))
    assert (
        run.partial is not None and "7 of 60 pictures are missing" in run.partial and "a smaller gallery is easier" in run.partial
    )


def test_the_official_place_goes_before_any_other_and_a_link_that_leads_back_ends(tmp_path: Path) -> None:
    for folder in ("thumbnails", "images", "deep/images"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.jpg").touch()
    (tmp_path / "images" / "loop").symlink_to(tmp_path)
    (tmp_path / "thumbnails" / "b.jpg").touch()
    (tmp_path / "deep" / "images" / "b.JPEG").touch()
    folder = ImageFolder(tmp_path, ("images",), (".jpg",), anywhere=True)
    assert folder.find("a") == tmp_path / "images" / "a.jpg"
    assert folder.find("b") == tmp_path / "deep" / "images" / "b.JPEG"
    assert folder.find("c") is None and folder.find("../a") is None


def test_where_names_repeat_from_folder_to_folder_the_folders_of_a_name_count(tmp_path: Path) -> None:
    for folder in ("cats", "dogs"):
        (tmp_path / "unpacked" / folder).mkdir(parents=True)
    (tmp_path / "unpacked" / "dogs" / "1.png").touch()
    folder = ImageFolder(tmp_path)
    assert folder.find("dogs/1.png") == tmp_path / "unpacked" / "dogs" / "1.png" and folder.find("cats/1.png") is None
