"""Tiny models in the formats that real ones come in, and a lake with a shard of small pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from mmret.encode.protocol import load_encoder
from mmret.encode.stage import encode_shard
from mmret.encode.vectors import read_vectors
from mmret.hashing import content_id
from mmret.ingest.pictures.decode import inspect
from mmret.lake import Lake
from mmret.schemas import CORPUS_MANIFEST, IMAGES, IMAGES_INDEX
from mmret.settings import EncoderSettings

SHARD = "shard-00000"
CHECKOUT = Path(__file__).resolve().parents[2]


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def noise(seed: int, size: tuple[int, int] = (61, 47)) -> Image.Image:
    """A picture of coarse coloured patches; any two seeds differ visibly."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (5, 4, 3), np.uint8)).resize(size, Image.Resampling.NEAREST)


def corpus(n: int) -> list[tuple[bytes, str]]:
    words = ("red", "green", "blue", "small", "large", "round")
    return [(encoded(noise(i)), f"a {words[i % 6]} thing {words[i // 6 % 6]}") for i in range(n)]


def fill(lake: Lake, pictures: Sequence[tuple[bytes, str]], shard: str = SHARD) -> list[str]:
    """Store pictures and captions as ingest does; returns their ids in position order."""
    rows = []
    for position, (data, caption) in enumerate(pictures):
        seen = inspect(data)
        rows.append(
            {
                "image_id": content_id(data),
                "shard": shard,
                "position": position,
                "path": f"p{position}.png",
                "root": "test",
                "caption": caption,
                "caption_words": len(caption.split()),
                "width": seen.width,
                "height": seen.height,
                "format": seen.format,
                "mode": seen.mode,
                "data": data,
            }
        )
    table = pa.Table.from_pylist(rows, IMAGES)
    lake.lance("images", IMAGES).add(table)
    known = ("shard", "position", "image_id", "path")
    listed = [{name: row[name] for name in known} | {"size": len(row["data"])} for row in rows]
    lake.write("corpus_manifest", shard, pa.Table.from_pylist(listed, CORPUS_MANIFEST), "test")
    lake.write("images", shard, table.select(IMAGES_INDEX.names), "test")
    return table["image_id"].to_pylist()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny arithmetic is fastest on one thread, many times so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_lake(tmp_path: Path) -> Callable[..., Lake]:
    def make(pictures: Sequence[tuple[bytes, str]], name: str = "lake") -> Lake:
        lake = Lake(tmp_path / name)
        fill(lake, pictures)
        return lake

    return make


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock CLIP of random weights, saved by the code that saves the demo's towers."""
    from mmret.settings import TowerSettings
    from mmret.towers.clip import new_clip, save_clip
    from mmret.towers.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    settings = TowerSettings(image_size=32, width=32, layers=2, heads=2, projection=24, vocabulary=600)
    tokenizer = train_tokenizer([caption for _, caption in corpus(36)], settings.vocabulary)
    model = new_clip(settings, tokenizer)
    with torch.no_grad():  # the usual initialisation gives all texts nearly one vector
        model.text_model.embeddings.token_embedding.weight.mul_(50)
    save_clip(model, tokenizer, settings, folder)
    return folder


@pytest.fixture(scope="session")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock DINOv2 of random weights with DINOv2's own kind of preprocessing: resize to 40, crop 32."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dino") / "tiny-dino"
    torch.manual_seed(1)
    Dinov2Model(
        Dinov2Config(hidden_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
    ).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip folder (config and weights) of a tiny model."""
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("open_clip") / "tiny-open-clip"
    folder.mkdir()
    config = {
        "embed_dim": 40,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    torch.manual_seed(2)
    model = open_clip.create_model(f"local-dir:{folder}")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


def interrupted_and_whole(
    make_lake: Callable[..., Lake], signal: str, settings: EncoderSettings, rows: int = 22, batches: int = 4
) -> tuple[Lake, Lake]:
    """A lake whose encoder failed at a batch after some rows were stored, and which went on; and one that nobody disturbed."""
    whole, broken = make_lake(corpus(rows), "whole"), make_lake(corpus(rows), "broken")
    encode_shard(whole, SHARD, signal, settings, "i")
    encoder = load_encoder(settings, signal, broken.root)
    name = "encode_texts" if signal == "caption" else "encode_images"
    method, calls = getattr(encoder, name), []

    def failing(batch: object) -> np.ndarray:
        calls.append(batch)
        if len(calls) == batches:
            raise RuntimeError("the machine went away")
        return method(batch)

    setattr(encoder, name, failing)
    with pytest.raises(RuntimeError, match="went away"):
        encode_shard(broken, SHARD, signal, settings, "i", encoder)
    assert broken.facts(signal, SHARD) is None
    kept = broken.lance(signal).count_rows()
    assert encode_shard(broken, SHARD, signal, settings, "i")["computed"] == rows - kept < rows
    assert broken.lance(signal).count_rows() == rows
    return broken, whole


def same_vectors(one: Lake, other: Lake, signal: str) -> bool:
    (ids, values), (expected_ids, expected) = read_vectors(one, SHARD, signal), read_vectors(other, SHARD, signal)
    return (
        ids == expected_ids
        and np.array_equal(values, expected)
        and one.facts(signal, SHARD).digest == other.facts(signal, SHARD).digest
    )
