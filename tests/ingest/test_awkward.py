"""Folders as people have them, read in place where they are shared: every picture listed with its caption, or one sentence.

The same layouts, made by the tests themselves, are in the other modules here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmret.errors import UserError
from mmret.ingest.rows import Row
from mmret.ingest.sources import open_reader, open_source
from mmret.ingest.stage import seal_corpus
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from tests.conftest import CHECKOUT

AWKWARD = CHECKOUT.parent / "shared" / "data" / "awkward"


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A shared folder, copied where its manifest has to name its absolute path."""
    shared = AWKWARD / request.param
    if not shared.is_dir():
        pytest.skip(f"no folder {request.param} in the shared data")
    manifests = [p for p in shared.iterdir() if p.suffix in (".csv", ".jsonl") and b"@FOLDER@" in p.read_bytes()]
    if not manifests:
        return shared
    copy = Path(shutil.copytree(shared, tmp_path / "copy", copy_function=shutil.copyfile))
    for manifest in manifests:
        (copy / manifest.name).write_text(manifest.read_text().replace("@FOLDER@", str(copy)))
    return copy


def images(folder: Path) -> list[Row]:
    """The rows of ``folder``, each of which has a caption and can be opened once it is sealed."""
    source = open_source(str(folder))
    rows = list(source.rows())
    for row in rows:
        assert row.reason is None and row.caption, row
        stream, size = open_reader(source.root).open(row.path)
        with stream:
            assert len(stream.read(size)) == size > 0
    return rows


COUNTS = {
    "absolute_paths_manifest": 8,
    "coco": 8,
    "hf_parquet_image_bytes": 8,
    "imagefolder_splits": 8,
    "img2dataset_wds": 8,
    "manifest_plus_sidecars": 12,
    "names_in_manifest": 8,
    "sidecar_spellings": 10,
    "wds_multi_captions": 7,
}


@pytest.mark.parametrize(("folder", "count"), COUNTS.items(), indirect=["folder"], ids=COUNTS)
def test_every_picture_is_an_image_with_its_caption(folder: Path, count: int):
    rows = images(folder)
    assert len(rows) == len({row.path for row in rows}) == count
    assert not any(row.caption.startswith("http") or "\n" in row.caption.strip() for row in rows)


@pytest.mark.parametrize("folder", ["no_captions"], indirect=True)
def test_photos_without_captions_end_at_once_with_what_to_do(folder: Path, tmp_path: Path):
    lake = Lake(tmp_path / "lake")
    words = r"none of its first 30 rows .* no caption, .*captions\.csv with the columns image and caption"
    with pytest.raises(UserError, match=words):
        seal_corpus(lake, resolve(lake, sources=[str(folder)])[0], "x")


@pytest.mark.parametrize("folder", ["wds_multi_captions"], indirect=True)
def test_the_address_beside_a_caption_is_its_source(folder: Path):
    found = {row.path.rpartition("/")[2]: row for row in images(folder)}
    assert (found["002.image.jpg"].caption, found["002.image.jpg"].source) == ("old dog in snow", "http://example.org/x.jpg")
    assert found["000.jpg"].caption == "red ball on grass view 0"


@pytest.mark.parametrize("folder", ["manifest_plus_sidecars"], indirect=True)
def test_a_tar_given_alone_is_a_source(folder: Path):
    assert len(images(folder / "more.tar")) == 4
