"""Encoders for runner tests: a tiny random CLIP folder, and one that knows the right answers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

WORDS = [
    "a thing that is different in way",
    "is times longer has dots",
    "condition",
    "find a picture",
    "0 1 2 3 4 5 6 7 8 9",
]


def clip_folder(folder: Path) -> Path:
    """A stock CLIP folder with random weights: two layers of width 32, pictures of 32 px, 16 dimensions."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    torch.manual_seed(7)
    tokenizer = CLIPTokenizer().train_new_from_iterator(WORDS * 3, vocab_size=400)
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 16,
    }
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {**tower, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 40}
    vision = {**tower, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def direction(seed: str, width: int = 64) -> np.ndarray:
    """A unit vector that depends on ``seed`` alone."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    vector = np.random.default_rng(number).standard_normal(width).astype(np.float32)
    return vector / np.linalg.norm(vector)


class Colours:
    """Embeds a flat picture by its colour (r, g, b) and a text ``to r g b`` by that colour; composed: mostly the text.

    Counts calls, and records texts and instructions, so that tests can see what a model was asked.
    """

    def __init__(self, takes_text: float = 3.0):
        self.takes_text = takes_text
        self.pictures = 0
        self.texts: list[str] = []
        self.instructions: list[str | None] = []

    def _rows(self, images, texts):
        rows = 0
        if images is not None:
            self.pictures += len(images)
            rows = rows + np.stack([direction(str(_corner(i))) for i in images])
        if texts is not None:
            self.texts += list(texts)
            rows = rows + self.takes_text * np.stack([direction(_colour_in(t)) for t in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def encode(self, images=None, texts=None, batch_size=64):
        return self._rows(images, texts)


class InstructedColours(Colours):
    """The same as a model that tells queries from candidates by an instruction, as an MLLM retriever does."""

    def encode(self, images=None, texts=None, batch_size=64, instruction=None):
        self.instructions.append(instruction)
        return self._rows(images, texts)


class Constant:
    """A collapsed model: every embedding is the same."""

    def encode(self, images=None, texts=None, batch_size=64):
        return np.full((len(images if images is not None else texts), 8), 8**-0.5, np.float32)


class Broken:
    """A diverged model: every embedding is NaN."""

    def encode(self, images=None, texts=None, batch_size=64):
        return np.full((len(images if images is not None else texts), 8), np.nan, np.float32)


def _corner(image: Image.Image) -> tuple[int, ...]:
    return image.convert("RGB").getpixel((image.width // 2, image.height // 2))


def _colour_in(text: str) -> str:
    """The colour named last in the text, in the form a picture's colour takes."""
    numbers = [int(word) for word in text.replace(".", " ").replace(",", " ").split() if word.isdecimal()]
    return str(tuple(numbers[-3:])) if len(numbers) >= 3 else text


def paint(path: Path, index: int, size: tuple[int, int] = (12, 10)) -> tuple[int, int, int]:
    """Write a flat picture whose colour depends on ``index``; returns the colour. PNG keeps it exact under any
    suffix.
    """
    colour = (index * 7 % 256, index * 13 % 256, index // 4 % 256)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, "PNG")
    return colour
