"""What each ingredient of the demo's recipe is worth, alone and together, paired by seed at equal processor time.

    python bench/ingredients.py --work DIR [--images FOLDER --queries FILE] [--seeds 10] [--steps 500]

Two lakes are made in DIR (and taken up again): ``words``, as profile demo mines, and ``near``, mined as it was before, with
captions compared by the CLIP tower (in a band proposed from the oldest shard) and targets drawn from all signals together. Both
have the same towers. Every arm trains the demo's recipe on one of them, with AdamW alone or with Muon for the matrices inside the
blocks; AdamW gets as many more steps as Muon costs (``MUON_COST``). The seeds decide batches, texts and negatives. Queries: the
held-out edits where the corpus is made of shapes, else FILE as ``mmret evaluate --triplets`` takes it (bench/name_queries.py);
training triplets that are one of the queries' own (reference, target) pairs are left out of every arm.

Printed: R@1 and R@10 of each arm, mean and deviation over the seeds, the paired difference to the first arm with its 95 %
interval (t distribution), in how many seeds it is positive, and processor seconds a run. Every run is a line of DIR/runs.jsonl,
and a run that is there is not repeated. Cost: two lakes, and some 40 processor seconds a run of 500 steps.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmret.benchmarks.composed import evaluate_composed
from mmret.benchmarks.stage import held_out_edits
from mmret.benchmarks.triplets import read_triplets
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.retriever.models.load import Retriever
from mmret.retriever.train.loop import train
from mmret.retriever.train.rows import neighbours_of
from mmret.settings import Recipe

MUON_COST = 1.12
"""A step of the demo's recipe with Muon, in processor time, over one with AdamW alone."""
NEAR = ["encoders.caption.kind=clip", "encoders.caption.model=towers/clip", "mine.draw=together"]
ARMS = {  # name: lake, whether Muon trains the matrices
    "neither": ("near", False),
    "targets by signal and word": ("words", False),
    "Muon": ("near", True),
    "both": ("words", True),
}


def lakes(work: Path, images: str | None, settings: list[str]) -> dict[str, Lake]:
    """The two lakes, made where they are missing; the second begins as a copy of the first, so that the towers are the same."""
    for name in ("words", "near"):
        folder = work / name
        if name == "near" and not folder.exists():
            shutil.copytree(work / "words", folder)
        changes = [*settings, "train=[]", *(NEAR if name == "near" else [])]
        command = [sys.executable, "-m", "mmret", "run", "--lake", str(folder)]
        command += [part for change in changes for part in ("--set", change)] + (["--images", images] if images else [])
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {name: Lake(work / name) for name in ("words", "near")}


class Arm:
    """One lake with its pictures, triplets and queries in memory."""

    def __init__(self, lake: Lake, queries: Path | None):
        self.lake, self.profile = lake, resolve(lake)[0]
        self.queries = read_triplets(lake, queries)[0] if queries else held_out_edits(lake, self.profile.evaluate)
        asked = {(query.reference, target) for query in self.queries for target in query.targets} if queries else set()
        triplets = lake.read("triplets")
        pairs = zip(triplets["query_id"].to_pylist(), triplets["target_id"].to_pylist(), strict=True)
        self.triplets = triplets.filter(pa.array([pair not in asked for pair in pairs], pa.bool_()))
        self.ids = lake.read("images", columns=["image_id"])["image_id"].to_pylist()
        self.pictures = images_by_id(lake, self.ids)

    def load(self, ids: Any) -> dict[str, bytes]:
        return {i: self.pictures[i] for i in ids}

    def run(self, recipe: Recipe, out: Path) -> dict[str, float]:
        """R@1, R@10 of one training, and its processor seconds."""
        for folder in (out, out.with_name(f"{out.name}.work")):
            shutil.rmtree(folder, ignore_errors=True)
        began = time.process_time()
        near = neighbours_of(self.lake, recipe, self.triplets)
        train(recipe, self.triplets, self.load, self.lake.root / "towers" / "clip", out, neighbours=near)
        seconds = time.process_time() - began
        retriever = Retriever.load(out)
        vectors = retriever.encode([self.pictures[i] for i in self.ids])
        asked: list[tuple[str, str, frozenset[str]]] = [(q.reference, q.text, q.targets) for q in self.queries]
        found = evaluate_composed(retriever, self.ids, vectors, asked, self.load, (1, 10))
        shutil.rmtree(out)
        return {"R@1": found["R@1"], "R@10": found["R@10"], "image R@10": found["image R@10"], "seconds": seconds}


def compared(rows: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """A row per arm: mean, deviation, and the paired difference to the first arm over the seeds that both have."""
    from scipy.stats import t

    by_arm: dict[str, dict[int, float]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], {})[row["seed"]] = row[metric]
    first = by_arm.get(next(iter(ARMS)), {})
    table = []
    for arm, values in by_arm.items():
        seeds = sorted(values.keys() & first.keys())
        gains = [values[seed] - first[seed] for seed in seeds] or [math.nan]
        half = math.nan
        if len(gains) > 1:
            half = float(t.ppf(0.975, len(gains) - 1)) * statistics.stdev(gains) / math.sqrt(len(gains))
        table.append(
            {
                "arm": arm,
                "mean": statistics.fmean(values.values()),
                "deviation": statistics.stdev(values.values()) if len(values) > 1 else math.nan,
                "gain": statistics.fmean(gains),
                "half": half,
                "positive": sum(gain > 0 for gain in gains),
                "seeds": len(seeds),
                "processor_seconds": statistics.fmean(row["seconds"] for row in rows if row["arm"] == arm),
            }
        )
    return table


def gate() -> dict[str, float | list[float]]:
    """Of two lakes of 600 scenes: how many times as many pairs change colour or background, by the truth of the scenes, where
    targets are drawn by signal and word. Nothing is trained but the towers."""
    small = ["corpus.sources=['shapes:600?seed=0']", "towers.epochs=2", "mine.k=25"]
    with tempfile.TemporaryDirectory() as folder:
        made = lakes(Path(folder), None, small)
        shares = {}
        for name, lake in made.items():
            images = lake.read("images", columns=["image_id", "extra"])
            scenes = dict(zip(images["image_id"].to_pylist(), map(json.loads, images["extra"].to_pylist()), strict=True))
            pairs = [
                (scenes[q], scenes[t])
                for q, t in zip(*(lake.read("pairs")[c].to_pylist() for c in ("query_id", "target_id")), strict=True)
            ]
            shares[name] = statistics.fmean(any(q[a] != t[a] for a in ("colour", "background")) for q, t in pairs)
    return {"images": len(scenes), "changes_over_near": shares["words"] / shares["near"]}


def main(
    work: Annotated[Path, typer.Option(help="folder of the lakes and the runs")],
    images: Annotated[str | None, typer.Option(help="a folder of captioned pictures; none: the demo's shapes")] = None,
    queries: Annotated[Path | None, typer.Option(help="queries of that folder")] = None,
    seeds: int = 10,
    first_seed: int = 0,
    steps: Annotated[int, typer.Option(help="with Muon; the demo takes 1,000")] = 500,
    threads: Annotated[int, typer.Option(help="that a run uses")] = 1,
    set_: Annotated[list[str] | None, typer.Option("--set", help="settings of both lakes")] = None,
    show: Annotated[bool, typer.Option(help="print what DIR/runs.jsonl has, train nothing")] = False,
) -> None:
    runs = work / "runs.jsonl"
    if not show:
        made = lakes(work, images, set_ or [])
        torch.set_num_threads(threads)
        arm_of = cache(lambda name: Arm(made[name], queries))
        for seed in range(first_seed, first_seed + seeds):
            for arm, (lake, muon) in ARMS.items():
                rows = [json.loads(line) for line in runs.read_text().splitlines()] if runs.exists() else []
                if any((row["arm"], row["seed"], row["steps"]) == (arm, seed, steps) for row in rows):
                    continue
                demo = arm_of(lake).profile.recipes["demo"]
                changes: dict[str, Any] = {"seed": seed, "steps": steps, "evaluate_every": None}
                if not muon:
                    changes |= {"matrix_learning_rate": None, "steps": round(steps * MUON_COST)}
                found = arm_of(lake).run(demo.model_copy(update=changes), work / f"run-{os.getpid()}")
                with runs.open("a") as file:
                    file.write(json.dumps({"arm": arm, "seed": seed, "steps": steps, **found}) + "\n")
    rows = [row for line in runs.read_text().splitlines() if (row := json.loads(line))["steps"] == steps]
    for metric in ("R@1", "R@10"):
        print(f"{metric}, percent; {torch.backends.cpu.get_cpu_capability()}")
        for r in compared(sorted(rows, key=lambda row: list(ARMS).index(row["arm"])), metric):
            print(
                f"  {r['arm']:28} {r['mean']:5.1f} ± {r['deviation']:.1f}   {r['gain']:+5.1f} ± {r['half']:.1f}, "
                f"positive in {r['positive']} of {r['seeds']}; {r['processor_seconds']:.0f} processor s a run"
            )


if __name__ == "__main__":
    typer.run(main)
