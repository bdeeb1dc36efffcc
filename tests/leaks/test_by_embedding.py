"""The leak check by embedding: a lake's stored vectors and a benchmark's pictures through the same real encoder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmret.encode.base import TorchEncoder
from mmret.encode.stage import encode_shard
from mmret.errors import UserError
from mmret.leaks.stage import lake_leaks
from mmret.settings import EncoderSettings
from tests.encode.conftest import SHARD, encoded, noise


def test_a_benchmark_picture_that_only_its_embedding_gives_away_is_found(make_lake, clip_folder: Path, tmp_path: Path):
    pictures = [noise(seed) for seed in range(6)]
    lake = make_lake([(encoded(picture), f"picture {i}") for i, picture in enumerate(pictures)])
    encoder = EncoderSettings(kind="clip", model=str(clip_folder))
    encode_shard(lake, SHARD, "clip_image", encoder, "inputs")
    ids = lake.read("images", columns=["image_id"])["image_id"].to_pylist()
    folder = tmp_path / "benchmark"
    folder.mkdir()
    pictures[2].save(folder / "copy.png", compress_level=1)
    pictures[3].transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "flipped.png")
    (folder / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (50, 50), "green").save(folder / "stranger.png")

    found = lake_leaks(lake, {"mine": folder}, encoder=encoder).to_pylist()

    assert ids[2] in {r["image_id"] for r in found if r["benchmark_image"] == "copy.png"}
    assert not [r for r in found if r["benchmark_image"] == "broken.png"]
    by_hash = lake_leaks(lake, {"mine": folder}).to_pylist()
    assert "flipped.png" not in {r["benchmark_image"] for r in by_hash}
    assert ids[3] in {r["image_id"] for r in found if r["benchmark_image"] == "flipped.png" and r["how"] == "embedding"}
    assert {(r["image_id"], r["benchmark_image"]) for r in by_hash} <= {(r["image_id"], r["benchmark_image"]) for r in found}


def test_vectors_that_are_not_finite_are_no_proof_that_nothing_leaks(make_lake, clip_folder: Path, tmp_path: Path, monkeypatch):
    lake = make_lake([(encoded(noise(1)), "a picture")])
    encoder = EncoderSettings(kind="clip", model=str(clip_folder))
    encode_shard(lake, SHARD, "clip_image", encoder, "inputs")
    folder = tmp_path / "benchmark"
    folder.mkdir()
    noise(1).save(folder / "copy.png")
    encode = TorchEncoder.encode_images
    monkeypatch.setattr(TorchEncoder, "encode_images", lambda self, images: encode(self, images) * np.float32(np.nan))
    with pytest.raises(UserError, match=r"gave .*copy\.png a vector that is not of finite numbers"):
        lake_leaks(lake, {"mine": folder}, encoder=encoder)
