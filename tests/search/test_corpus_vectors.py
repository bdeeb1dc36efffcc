"""The corpus is embedded once per checkpoint and picture, in the lake's order; a picture without a vector is never passed over."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.retriever.models.clip import ClipRetriever
from mmret.schemas import IMAGES_INDEX
from mmret.search import corpus_vectors
from mmret.search.corpus_vectors import drop_other_galleries, gallery


@pytest.fixture
def lake(tmp_path, pictures, monkeypatch):
    """Two shards of pictures; ``lake.embedded`` counts the pictures that were embedded."""
    lake, ids = Lake(tmp_path), sorted(pictures)
    shards = {"shard-00000": ids[:15], "shard-00001": ids[15:]}
    for shard, members in shards.items():
        rows = [{**dict.fromkeys(IMAGES_INDEX.names), "image_id": i, "shard": shard, "position": n} for n, i in enumerate(members)]
        lake.write("images", shard, pa.Table.from_pylist(rows, IMAGES_INDEX), "x")
    lake.embedded = 0

    def read(_, shard, batch_rows, ids):
        for start in range(0, len(shards[shard]), 4):
            part = [i for i in shards[shard][start : start + 4] if i in ids and i not in lake.missing]
            lake.embedded += len(part)
            yield pa.record_batch({"image_id": part, "data": pa.array([pictures[i] for i in part], pa.large_binary())})

    lake.missing = set()
    monkeypatch.setattr(corpus_vectors, "read_images", read)
    return lake


def test_the_gallery_holds_every_image_once_and_is_computed_once_per_checkpoint(lake, clip_folder, pictures):
    ids, vectors = gallery(lake, clip_folder)
    assert ids == lake.read("images", columns=["image_id"])["image_id"].to_pylist() and lake.embedded == 24
    expected = ClipRetriever.load(clip_folder, "cpu").encode([pictures[i] for i in ids])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    again = gallery(lake, clip_folder)
    assert again[0] == ids and np.array_equal(again[1], vectors) and lake.embedded == 24


def test_a_gallery_that_was_interrupted_goes_on_with_the_missing_shard(lake, clip_folder):
    whole = gallery(lake, clip_folder)[1]
    (file,) = (lake.root / "gallery").glob("*/shard-00001.parquet")
    file.unlink()
    assert np.array_equal(gallery(lake, clip_folder)[1], whole) and lake.embedded == 24 + 9


def test_a_shard_with_other_pictures_or_another_order_is_embedded_again_and_no_vector_is_another_picture_s(lake, clip_folder):
    ids, vectors = gallery(lake, clip_folder)
    rows = lake.read("images", "shard-00001")
    lake.write("images", "shard-00001", rows.take(list(range(len(rows)))[::-1]), "y")
    again, moved = gallery(lake, clip_folder)
    assert again == ids[:15] + ids[15:][::-1] and lake.embedded == 24 + 9
    np.testing.assert_allclose(moved[15:], vectors[15:][::-1], atol=1e-6)


def test_a_picture_without_a_vector_is_an_error_and_leaves_no_file(lake, clip_folder):
    lake.missing = {lake.read("images", "shard-00001")["image_id"][3].as_py()}
    with pytest.raises(UserError, match="1 images of shard-00001 have no vector"):
        gallery(lake, clip_folder)
    assert [p.name for p in (lake.root / "gallery").rglob("*.parquet")] == ["shard-00000.parquet"]


def test_galleries_of_checkpoints_that_are_gone_are_forgotten(lake, clip_folder, tmp_path_factory):
    gallery(lake, clip_folder)
    other = tmp_path_factory.mktemp("other")
    retriever = ClipRetriever.load(clip_folder, "cpu")
    retriever.model.visual_projection.weight.data += 1
    retriever.save(other)
    gallery(lake, other)
    assert drop_other_galleries(lake, [other]) == 1
    assert len(list((lake.root / "gallery").iterdir())) == 1
    gallery(lake, other)
    assert lake.embedded == 48


def test_a_lake_without_images_says_so(tmp_path, clip_folder):
    with pytest.raises(UserError, match="holds no images yet"):
        gallery(Lake(tmp_path), clip_folder)
