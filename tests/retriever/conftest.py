"""A tiny stock CLIP folder with random weights and a small table of triplets over random pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from mmret.hashing import content_id, pair_id
from mmret.schemas import TRIPLETS

SENTENCES = ["make it green", "a red square left of a blue circle", "with a darker tone", "the same but larger", "no hat"]


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip"))


def make_clip(folder: Path, width: int = 32, projection: int = 16, as_published: bool = False) -> Path:
    """48-bit-cheap CLIP: two layers of two heads, 32 px in patches of 8, 24 tokens. ``as_published``: the vocabulary knows signs,
    so that none of them is read as the end, and begin and end stand behind all other words."""
    torch.manual_seed(7)
    words = SENTENCES * 3 + [", . ; : ! ?"] * as_published
    tokenizer = CLIPTokenizer().train_new_from_iterator(words, vocab_size=400)
    if as_published:
        bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        words = sorted(bpe["vocab"], key=lambda word: (word in tokenizer.all_special_tokens, bpe["vocab"][word]))
        tokenizer = CLIPTokenizer({word: n for n, word in enumerate(words)}, [tuple(pair) for pair in bpe["merges"]])
    tower = {"hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower["projection_dim"] = projection
    ends = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    model = CLIPModel(
        CLIPConfig(
            text_config={**tower, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 24},
            vision_config={**tower, "image_size": 32, "patch_size": 8},
            projection_dim=projection,
        )
    )
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    model.save_pretrained(folder)
    CLIPProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    """24 random pictures as PNG files, by image id."""
    rng = np.random.default_rng(3)
    files = {}
    for _ in range(24):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (40, 36, 3), dtype=np.uint8)).save(buffer, "PNG")
        files[content_id(buffer.getvalue())] = buffer.getvalue()
    return files


@pytest.fixture(scope="session")
def triplets(pictures) -> pa.Table:
    """40 triplets with one to three texts, zero to four mined negatives and all combinations of signals; 36 of split
    train."""
    return random_triplets(sorted(pictures), 40)


def random_triplets(ids: list[str], count: int) -> pa.Table:
    rng = np.random.default_rng(5)
    rows = {}
    while len(rows) < count:
        query, target, *negatives = (ids[i] for i in rng.choice(len(ids), 2 + rng.integers(0, 5), replace=False))
        signals = [s for s in ("clip_image", "dino_image", "caption") if rng.random() < 0.6] or ["caption"]
        rows[pair_id(query, target)] = {
            "query_id": query,
            "target_id": target,
            "texts": SENTENCES[: rng.integers(1, 4)],
            "hard_negatives": [query, *negatives],
            "signals": signals,
            "split": "test" if len(rows) >= count - count // 10 else "train",
        }
    empty = dict.fromkeys(TRIPLETS.names)
    return pa.Table.from_pylist([{**empty, **row, "pair_id": i} for i, row in rows.items()], TRIPLETS)


@pytest.fixture(scope="session")
def load(pictures):
    """``load_images`` over the session's pictures."""
    return lambda ids: {i: pictures[i] for i in ids if i in pictures}


@pytest.fixture(scope="module")
def one_thread():
    """Tiny models on one thread, for whoever asks for it by ``usefixtures``."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
