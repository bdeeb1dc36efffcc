"""Training steps against sentence-transformers' CachedMultipleNegativesRankingLoss: same towers, batch and negatives.

    python bench/train.py [--batch 256] [--chunk 32] [--rounds 5] [--threads N] [--memory]

A row is (image, text) -> target image with four explicit hard negatives, the first of them the query image, as the paper
trains. Both sides take the whole step: forward without a graph, loss, forward again with one, AdamW; ours a second time keeping
the graphs of the first pass, as it decides itself where memory allows. Equal losses are asserted at every step, of ours the same
bits; the steps alternate; reported is the median of the rounds' ratios. Pictures lie in memory, decoded; the peer gets its texts
tokenised and its pixels normalised outside the clock. ``--memory``: what a step that keeps nothing adds to the process, at
batches of 128 and 1,024, each in a process of its own; pictures are drawn when they are read.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as mmret sets it; for both, so before torch loads
import torch
from torch import nn
from torch.nn.functional import normalize

from mmret.ingest.shapes import caption, scene
from mmret.retriever.models.clip import ClipRetriever, feature_tensor
from mmret.retriever.train.clip import ClipEmbedder
from mmret.retriever.train.data import Batch, TrainingSet
from mmret.retriever.train.state import States
from mmret.retriever.train.trainer import Trainer
from mmret.retriever.train.waiting_rows import spooled
from mmret.schemas import TRIPLETS
from mmret.settings import Recipe

NEGATIVES = 4  # explicit, the query image counted
SIDE, TEMPERATURE, RATE = 48, 0.05, 1e-4


def towers(folder: Path, width: int = 96, layers: int = 3) -> Path:
    """The demo's towers with random weights: 3 layers of width 96, 48 px in patches of 8, 64 dimensions."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer().train_new_from_iterator([caption(scene(0, i)) for i in range(2000)], vocab_size=1000)
    size = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers, "num_attention_heads": 4}
    size["projection_dim"] = 64
    ends = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    model = CLIPModel(
        CLIPConfig(
            text_config={**size, **ends, "vocab_size": len(tokenizer)},
            vision_config={**size, "image_size": SIDE, "patch_size": 8},
            projection_dim=64,
        )
    )
    model.save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    CLIPProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def rows(count: int) -> pa.Table:
    """``count`` triplets, no image twice but the query image as its own hard negative; texts are captions of scenes."""
    per = NEGATIVES + 1
    names = [f"{i:032x}" for i in range(count * per)]
    empty = dict.fromkeys(TRIPLETS.names)
    return pa.Table.from_pylist(
        [
            {
                **empty,
                "pair_id": f"{n:032x}",
                "query_id": names[n * per],
                "target_id": names[n * per + 1],
                "texts": [caption(scene(1, n))],
                "hard_negatives": [names[n * per], *names[n * per + 2 : (n + 1) * per]],
                "signals": ["caption"],
                "split": "train",
            }
            for n in range(count)
        ],
        TRIPLETS,
    )


def pictures(numbers: Iterable[int]) -> torch.Tensor:
    """(n, 3, side, side) uint8, each picture drawn by its number."""
    drawn = [np.random.default_rng(int(n)).integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8) for n in numbers]
    return torch.from_numpy(np.stack(drawn))


class Ours:
    """The project's own trainer. Its pictures are read from an array, or ``drawn`` each time."""

    def __init__(self, folder: Path, batch: int, chunk: int, steps: int, work: Path, keep: str = "never", drawn: bool = False):
        recipe = Recipe(
            negatives="query+mined",
            mined_negatives=NEGATIVES - 1,
            batch_size=batch,
            chunk_size=chunk,
            steps=steps,
            learning_rate=RATE,
            temperature=TEMPERATURE,
            max_grad_norm=None,
            keep_activations=keep,
        )
        self.data = TrainingSet(rows(batch), recipe)
        self.pixels = torch.empty(0) if drawn else pictures(range(len(self.data.images)))
        decode = pictures if drawn else lambda numbers: self.pixels[torch.from_numpy(numbers)]
        embedder = ClipEmbedder(recipe, ClipRetriever.load(folder, "cpu"))
        embedder.rows = lambda numbers: spooled(decode, numbers)
        self.trainer = Trainer(recipe, self.data, embedder, States(work, "bench"))
        embedder.model.train()

    def batch(self, step: int) -> Batch:
        return self.data.batch(step)

    def step(self, batch: Batch) -> float:
        loss, _ = self.trainer.train_step(batch, self.trainer.embedder.read(batch))
        self.trainer.step += 1
        return loss


class SumFusion(nn.Module):
    """The same towers as a module of sentence-transformers: unit vectors of images, or of images with texts."""

    def __init__(self, folder: Path):
        super().__init__()
        self.clip = ClipRetriever.load(folder, "cpu").model

    def forward(self, features: dict[str, torch.Tensor], **_: Any) -> dict[str, torch.Tensor]:
        total = feature_tensor(self.clip.get_image_features(features["pixel_values"]))
        if "input_ids" in features:
            total = total + feature_tensor(self.clip.get_text_features(features["input_ids"], features["attention_mask"]))
        return {**features, "sentence_embedding": normalize(total, dim=-1)}


class Theirs:
    """Their loss over a SentenceTransformer of these towers, with the optimiser and the schedule of ours."""

    def __init__(self, folder: Path, ours: Ours, chunk: int, steps: int):
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

        self.ours, self.steps, self.done = ours, steps, 0
        self.model = SentenceTransformer(modules=[SumFusion(folder)], device="cpu").train()
        self.loss = CachedMultipleNegativesRankingLoss(self.model, scale=1 / TEMPERATURE, mini_batch_size=chunk)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=0.0)

    def columns(self, batch: Batch) -> list[dict[str, torch.Tensor]]:
        """Anchor (image, text), positive, and the negatives column by column."""
        retriever, count = self.ours.trainer.embedder.retriever, len(batch.queries)
        tokens = retriever.processor.tokenizer(batch.texts, padding=True, truncation=True, return_tensors="pt")
        mined = batch.candidates[2 * count :].reshape(count, NEGATIVES - 1)
        images = [batch.queries, batch.targets, batch.queries, *mined.T]
        pixels = [retriever.normalise(self.ours.pixels[torch.from_numpy(np.ascontiguousarray(i))]).contiguous() for i in images]
        return [{"pixel_values": p} | (dict(tokens) if n == 0 else {}) for n, p in enumerate(pixels)]

    def step(self, columns: list[dict[str, torch.Tensor]]) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * (self.steps - self.done) / self.steps
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(columns, None)
        loss.backward()
        self.optimizer.step()
        self.done += 1
        return float(loss.detach())


def timed(run: Callable[[], float]) -> tuple[float, float, float]:
    """What ``run`` gives, seconds by the clock, seconds of processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    value = run()
    return value, time.perf_counter() - wall, time.process_time() - processor


def gate() -> dict[str, float | list[float]]:
    """Speed-ups of a step over sentence-transformers'; equal losses are asserted at every step."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = towers(Path(scratch) / "towers")
        steps, _ = alternating(folder, Path(scratch) / "work", 32, 16, 5)
    return {
        "steps": len(steps),
        "over_sentence_transformers_wall": [s[0] for s in steps],
        "over_sentence_transformers_processor": [s[1] for s in steps],
        "kept_over_sentence_transformers_wall": [s[2] for s in steps],
        "kept_over_sentence_transformers_processor": [s[3] for s in steps],
    }


def compare(folder: Path, work: Path, batch: int, chunk: int, rounds: int) -> dict[str, Any]:
    """Medians of alternating steps."""
    found, loss = alternating(folder, work, batch, chunk, rounds)
    medians = [statistics.median(column) for column in zip(*found, strict=True)]
    ratio, processor, kept_ratio, kept_processor, own, kept, theirs = medians
    return {
        "batch": batch,
        "chunk": chunk,
        "hard_negatives": NEGATIVES,
        "rounds": rounds,
        "loss": round(loss, 4),
        "speed_up": round(ratio, 3),
        "speed_up_processor": round(processor, 3),
        "speed_up_kept": round(kept_ratio, 3),
        "speed_up_kept_processor": round(kept_processor, 3),
        "samples_per_second": round(own, 1),
        "samples_per_second_kept": round(kept, 1),
        "samples_per_second_theirs": round(theirs, 1),
    }


def alternating(folder: Path, work: Path, batch: int, chunk: int, rounds: int) -> tuple[list[tuple[float, ...]], float]:
    """Alternating steps on the same rows: of each round the speed-up by the clock and by processor time, the same with activations
    kept, and samples/s of all three; and the last loss. Raises AssertionError where the losses of a step differ.
    """
    steps = rounds + 2
    ours = Ours(folder, batch, chunk, steps, work)
    keeping = Ours(folder, batch, chunk, steps, work / "kept", keep="auto")
    theirs = Theirs(folder, ours, chunk, steps)
    found = []
    for number in range(steps):
        rows_of = ours.batch(number)
        columns = theirs.columns(rows_of)
        mine, kept, other = (
            timed(lambda b=rows_of: ours.step(b)),
            timed(lambda b=rows_of: keeping.step(b)),
            timed(lambda c=columns: theirs.step(c)),
        )
        assert abs(mine[0] - other[0]) <= 1e-3 * abs(other[0]), f"step {number}: losses {mine[0]} and {other[0]}"
        assert mine[0] == kept[0], f"step {number}: losses {mine[0]} and, with activations kept, {kept[0]}"
        if number >= 2:  # the first steps also warm up
            ratios = (other[1] / mine[1], other[2] / mine[2], other[1] / kept[1], other[2] / kept[2])
            found.append((*ratios, batch / mine[1], batch / kept[1], batch / other[1]))
    passes = keeping.trainer.kept
    assert passes.made_once == passes.passes > 0 == ours.trainer.kept.made_once, passes.says()
    return found, mine[0]


def growth(folder: Path, work: Path, batch: int, chunk: int) -> tuple[float, float]:
    """MiB that a step adds at its peak to a process that holds model, pictures and the gradients of a small step; and the peak."""
    ours = Ours(folder, batch, chunk, 8, work, drawn=True)
    small = Ours(folder, 2 * chunk, chunk, 8, work / "small")  # the code is loaded, the allocator has its first blocks
    small.step(small.batch(0))
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _status("VmRSS")
    ours.step(ours.batch(0))
    return (_status("VmHWM") - before) / 1024, _status("VmHWM") / 1024


def _status(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--growth", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder, work = towers(Path(scratch) / "towers"), Path(scratch) / "work"
        if given.growth:
            print(*growth(folder, work, given.growth, given.chunk))
            return
        if given.memory:
            found = {}
            for batch in (128, 1024):
                line = [sys.executable, __file__, "--growth", str(batch), "--chunk", str(given.chunk)]
                printed = subprocess.run(line, capture_output=True, text=True, check=True).stdout
                found[batch] = tuple(map(float, printed.split()[-2:]))
            print(
                json.dumps(
                    {
                        "chunk": given.chunk,
                        "mib_added": {b: round(v, 1) for b, (v, _) in found.items()},
                        "mib_peak": {b: round(v, 1) for b, (_, v) in found.items()},
                    }
                )
            )
            return
        print(json.dumps(compare(folder, work, given.batch, given.chunk, given.rounds)))


if __name__ == "__main__":
    main()
