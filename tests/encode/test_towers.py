"""The lake's own towers: the same weights whatever interrupts them, stock folders, sensible on any corpus."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmret.errors import UserError
from mmret.hashing import content_id
from mmret.lake import Lake
from mmret.schemas import SIGNALS, TOWERS
from mmret.settings import TowerSettings, load_profile
from mmret.towers import pretrain
from mmret.towers import train as towers
from mmret.towers.corpus import CaptionedImage
from mmret.towers.stage import train_towers
from mmret.towers.train import steps, train
from tests.encode.conftest import CHECKOUT, corpus, encoded, noise

TINY = TowerSettings(image_size=16, width=16, layers=1, heads=2, projection=8, vocabulary=540, batch_size=8, max_steps=5)


def images(n: int) -> list[CaptionedImage]:
    return [(content_id(data), data, caption) for data, caption in corpus(n)]


def weights(folder: Path) -> list[bytes]:
    return [(folder / name / "model.safetensors").read_bytes() for name in ("clip", "dino")]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers") / "towers"
    train(images(30), TINY, folder)
    return folder


def test_stock_classes_load_the_folders(reference: Path) -> None:
    from transformers import AutoImageProcessor, CLIPModel, CLIPProcessor, Dinov2Model

    processor = CLIPProcessor.from_pretrained(reference / "clip")
    inputs = processor(text=["a red thing"], images=[noise(0)], return_tensors="pt")
    assert CLIPModel.from_pretrained(reference / "clip")(**inputs).logits_per_image.shape == (1, 1)
    pixels = AutoImageProcessor.from_pretrained(reference / "dino")(noise(0), return_tensors="pt")
    assert Dinov2Model.from_pretrained(reference / "dino")(**pixels).pooler_output.shape == (1, 16)


def test_the_record_tells_models_bands_and_losses(reference: Path) -> None:
    record = json.loads((reference / "towers.json").read_text())
    assert [row["signal"] for row in record["rows"]] == list(SIGNALS)
    for row in record["rows"]:
        assert set(row) == set(TOWERS.names) and -1 <= row["band_low"] < row["band_high"] < 1
        assert row["model"].startswith(
            {"clip_image": "towers/clip@", "dino_image": "towers/dino@", "caption": "towers/tfidf@"}[row["signal"]]
        )
        assert row["steps"] == (0 if row["signal"] == "caption" else 5) and row["images"] == 30
    assert all(len(record["losses"][name]) == 5 for name in ("clip", "dino"))
    assert not reference.with_name("towers.work").exists()


def test_training_learns(tmp_path: Path) -> None:
    more = TINY.model_copy(update={"max_steps": 100, "width": 32, "batch_size": 16, "learning_rate": 3e-3})
    losses = train(images(30), more, tmp_path / "towers")["losses"]
    for name, share in (("clip", 0.8), ("dino", 0.95)):
        values = [value for _, value in losses[name]]
        assert sum(values[-10:]) < share * sum(values[:10]), name


@pytest.mark.parametrize("stop_at", [1, 4, 5, 6, 9])
def test_interrupted_training_ends_with_the_same_bits(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    monkeypatch.setattr(pretrain, "CHECKPOINT_SECONDS", 0.0)

    def stopping(task: str, done: int, total: int | None, note: str = "") -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(towers.progress, "advance", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(images(30), TINY, tmp_path / "towers")
    assert not (tmp_path / "towers" / "towers.json").exists()
    seen = []
    monkeypatch.setattr(towers.progress, "advance", lambda task, done, *rest: seen.append(done))
    train(images(30), TINY, tmp_path / "towers")
    assert len(seen) == 1 + 10 - (stop_at - 1)  # only what was not saved is done again
    assert weights(tmp_path / "towers") == weights(reference)


def test_kill_9_ends_with_the_same_bits(reference: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from mmret.towers import pretrain; from mmret.towers import train as towers; "
        "from tests.encode.test_towers import TINY, images; pretrain.CHECKPOINT_SECONDS = 0.0; "
        "towers.progress.advance = lambda task, done, *rest: time.sleep(60 if done == 3 else 0); "
        "towers.train(images(30), TINY, Path(sys.argv[1]))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "towers")],
        cwd=CHECKOUT,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    checkpoint = tmp_path / "towers.work" / "clip.pt"
    deadline = time.monotonic() + 200
    while not checkpoint.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and checkpoint.exists()
    train(images(30), TINY, tmp_path / "towers")
    assert weights(tmp_path / "towers") == weights(reference)


def test_order_of_arrival_and_images_beyond_the_limit_do_not_matter(reference: Path, tmp_path: Path) -> None:
    many = sorted(images(34))
    limited = TINY.model_copy(update={"max_images": 30})
    train(many[:30], limited, tmp_path / "few")
    train(reversed(many), limited, tmp_path / "many")
    assert weights(tmp_path / "few") == weights(tmp_path / "many")


def test_towers_that_are_there_are_not_trained_again(reference: Path) -> None:
    before = weights(reference)
    made = train(iter(()), TINY, reference)
    assert made["rows"] and weights(reference) == before


def test_other_settings_do_not_resume_from_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "CHECKPOINT_SECONDS", 0.0)
    other = TINY.model_copy(update={"seed": 1})
    train(images(12), other, tmp_path / "fresh")
    with monkeypatch.context() as patch:
        patch.setattr(towers, "replacing_folder", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError, match="division"):
            train(images(12), TINY, tmp_path / "towers")
    train(images(12), other, tmp_path / "towers")
    assert weights(tmp_path / "towers") == weights(tmp_path / "fresh")


def test_a_lakes_towers_see_its_lowest_ids(make_lake: Callable[..., Lake], tmp_path: Path) -> None:
    lake = make_lake(corpus(20))
    limited = TINY.model_copy(update={"max_images": 12})
    facts = train_towers(lake, load_profile("demo").model_copy(update={"towers": limited}), "inputs")
    assert facts.notes["images"] == 12 and lake.read("towers")["signal"].to_pylist() == list(SIGNALS)
    train(sorted(images(20))[:12], limited, tmp_path / "same", "inputs")
    assert weights(lake.root / "towers") == weights(tmp_path / "same")


def test_tiny_and_uncaptioned_corpora_train_and_one_picture_says_what_to_do(tmp_path: Path) -> None:
    made = train([(image_id, data, "") for image_id, data, _ in images(2)], TINY, tmp_path / "two")
    assert made["images"] == 2
    same = [(content_id(encoded(noise(i))), encoded(noise(i)), "a thing") for i in range(9)]
    assert train(same, TINY, tmp_path / "same")["images"] == 9
    with pytest.raises(UserError, match="--profile local"):
        train(images(1), TINY, tmp_path / "one")


def test_steps_follow_from_settings_and_corpus() -> None:
    settings = TowerSettings(batch_size=100, min_steps=50, max_richness=3, max_steps=None)
    assert steps(8, 10_000, towers.PLAIN_WORDS, settings) == 800
    assert steps(8, 10_000, 4 * towers.PLAIN_WORDS, settings) == 1600
    assert steps(8, 10_000, 100 * towers.PLAIN_WORDS, settings) == 2400
    assert steps(8, 200, 10, settings) == 50
    assert steps(8, 0, 0, settings) == 50, "a lake without a captioned picture has an estimate too"
    assert steps(8, 10_000, 10, settings.model_copy(update={"max_steps": 20})) == 20
