"""(Picture, text) pairs a second where a visit shows one text, all of a triplet, or all of a picture's triplets.

    python bench/texts_at_once.py [--batch 64] [--rounds 10] [--trainable all] [--mined 3]

Three trainers of the demo's towers (random weights) on the same made triplets: each picture asks for three others by three texts
each, as in the demo's lake, with hard negatives. Equal queries a step; the steps alternate in one process, on one thread; reported
are the medians of the rounds' ratios, by processor time, pictures read from memory inside the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as mmret sets it, before torch loads
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch

from bench.train import SIDE, timed, towers
from mmret.hashing import pair_id
from mmret.ingest.shapes import caption, scene
from mmret.retriever.models.clip import ClipRetriever
from mmret.retriever.train.clip import ClipEmbedder
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.state import States
from mmret.retriever.train.trainer import Trainer
from mmret.schemas import TRIPLETS
from mmret.settings import Recipe

MODES = ("one", "triplet", "picture")
TARGETS, TEXTS = 3, 3  # of a picture, of a triplet: as the demo's lake has them


def rows(pictures: int) -> pa.Table:
    """Triplets of ``pictures``, each of which asks for :data:`TARGETS` others, with as many hard negatives."""
    names = [f"{n:032x}" for n in range(pictures)]
    empty = {**dict.fromkeys(TRIPLETS.names), "signals": ["caption"], "split": "train"}
    found, rng = [], np.random.default_rng(0)
    for n, query in enumerate(names):
        others = [names[i] for i in rng.choice(pictures, 2 * TARGETS + 1, replace=False) if i != n]
        for place, target in enumerate(others[:TARGETS]):
            texts = [caption(scene(1, TEXTS * (TARGETS * n + place) + text)) for text in range(TEXTS)]
            row = {"pair_id": pair_id(query, target), "query_id": query, "target_id": target, "texts": texts}
            found.append({**empty, **row, "hard_negatives": [query, *others[TARGETS : 2 * TARGETS]]})
    return pa.Table.from_pylist(found, TRIPLETS)


def trainers(folder: Path, work: Path, batch: int, trainable: str, mined: int) -> dict[str, Trainer]:
    made, table = {}, rows(max(100, batch))
    for mode in MODES:
        settings = {"trainable": trainable, "batch_size": batch, "mined_negatives": mined, "temperature": 0.05}
        recipe = Recipe.model_validate({**settings, "learning_rate": 1e-4, "texts_at_once": mode})
        data, embedder = TrainingSet(table, recipe), ClipEmbedder(recipe, ClipRetriever.load(folder, "cpu"))
        pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (len(data.images), 3, SIDE, SIDE), dtype=np.uint8))
        kept = pixels
        if trainable != "all":
            with torch.no_grad():
                kept = embedder.tower.lower_layers(pixels)
        embedder.rows = lambda numbers, kept=kept: kept[torch.from_numpy(numbers)]
        made[mode] = Trainer(recipe, data, embedder, States(work / mode, "bench"))
        embedder.model.train()
    return made


def step(trainer: Trainer) -> float:
    batch = trainer.data.batch(trainer.step)
    loss, _ = trainer.train_step(batch, trainer.embedder.read(batch))
    trainer.step += 1
    return loss


def alternating(batch: int, rounds: int, trainable: str, mined: int = 3) -> dict[str, list[float]]:
    """Processor seconds of each mode's steps, of ``rounds`` alternating rounds after one to warm up."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        made = trainers(towers(Path(scratch) / "towers"), Path(scratch), batch, trainable, mined)
        times = [[timed(lambda t=trainer: step(t))[2] for trainer in made.values()] for _ in range(rounds + 1)]
    return dict(zip(MODES, map(list, zip(*times[1:], strict=True)), strict=True))


def gate() -> dict[str, float | list[float]]:
    """Queries a second over those of one text a visit, of steps that alternate; and the queries of an epoch."""
    found, table = alternating(32, 6, "all"), rows(100)
    ratios = {f"{mode}_over_one_processor": [a / b for a, b in zip(found["one"], found[mode], strict=True)] for mode in MODES[1:]}
    return {"queries": TrainingSet(table, Recipe(batch_size=32, texts_at_once="triplet")).of["composed"].queries, **ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--trainable", choices=["all", "text+blocks", "text+projection"], default="all")
    parser.add_argument("--mined", type=int, default=3, help="hard negatives beside the query image")
    given = parser.parse_args()
    found = alternating(given.batch, given.rounds, given.trainable, given.mined)
    figures = {
        mode: {
            "pairs_per_second": round(given.batch / statistics.median(times), 1),
            "over_one": round(statistics.median(a / b for a, b in zip(found["one"], times, strict=True)), 3),
        }
        for mode, times in found.items()
    }
    print(json.dumps({"batch": given.batch, "trainable": given.trainable, "mined": given.mined, **figures}, indent=2))


if __name__ == "__main__":
    main()
