"""A made corpus of known attributes, without a picture: captions as of ``shapes``, vectors that are noisy attributes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mmret.benchmarks.edits import ATTRIBUTES, edits
from mmret.filters.corpus import Corpus, Vectors
from mmret.hashing import content_id, pair_id
from mmret.ingest.shapes import caption, scene
from mmret.schemas import TRIPLETS

SHAPES, COLOURS = ("circle", "star", "heart", "moon"), ("red", "blue", "green")


def made(pictures: int = 1200, a_source: int = 2, seed: int = 0) -> tuple[Corpus, pa.Table, dict[str, tuple[str, ...]]]:
    """Pictures, triplets from them, and the attributes of each picture. Every source has ``a_source`` targets that differ in one
    trait or two, and three hard negatives that differ from them."""
    rng, scenes, said, n = np.random.default_rng(seed), {}, [], 0
    while len(scenes) < pictures:
        one = scene(seed, n)
        n += 1
        if one.shape in SHAPES and one.colour in COLOURS and one.other == "none":
            scenes[content_id(f"{seed}:{n}".encode())] = tuple(one.attributes.values())
            said.append(caption(one))
    ids = list(scenes)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    ids, said = [ids[k] for k in order], [said[k] for k in order]
    vectors = {
        signal: _vectors([scenes[i] for i in ids], noise, rng) for signal, noise in (("clip_image", 0.6), ("dino_image", 0.9))
    }
    rows = []
    for turn in range(a_source):
        named = [(i, dict(zip(ATTRIBUTES, scenes[i], strict=True))) for i in ids]
        for edit in edits(named, len(ids), seed + turn):
            source, target = edit["reference"], edit["targets"][0]
            others = [i for i in rng.choice(ids, 12).tolist() if i not in (source, target)]
            negatives = sorted(others, key=lambda i: sum(a != b for a, b in zip(scenes[i], scenes[target], strict=True)))
            negatives = [i for i in negatives if scenes[i] != scenes[target]][:3]
            text = edit["text"]
            rows.append(
                {
                    "pair_id": pair_id(source, target),
                    "query_id": source,
                    "target_id": target,
                    "texts": [text, f"this, but {text}", f"find one: {text}"],
                    "hard_negatives": [source, *negatives],
                    "split": "train",
                }
            )
    distinct = {row["pair_id"]: row for row in rows}
    table = pa.Table.from_pylist(sorted(distinct.values(), key=lambda row: row["pair_id"]), TRIPLETS)
    return Corpus(pa.array(ids, pa.string()), said, vectors), table, scenes


def _vectors(scenes: list[tuple[str, ...]], noise: float, rng: np.random.Generator, width: int = 48) -> Vectors:
    directions: dict[tuple[int, str], np.ndarray] = {}
    found = np.empty((len(scenes), width), np.float32)
    for n, values in enumerate(scenes):
        parts = [directions.setdefault(key, rng.normal(size=width)) for key in enumerate(values)]
        found[n] = sum(parts) + noise * rng.normal(size=width)
    return Vectors((found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16))
