"""What training on composed queries alone costs every other kind of query, and what a mixture of tasks keeps.

    python bench/directions.py --lake LAKE [--out RUNS.jsonl] [--seeds 3] [--arm NAME='{"steps": 1500, "tasks": {...}}' ...]

LAKE is one that `mmret run` made, with its table ``tasks``. The arms are the untrained model; ``composed``, the recipe that the
lake trains first; and ``mixture``, the same with what recipe ``universal`` has; ``--arm`` adds others, each the first with other
values. The seeds decide batches, texts and negatives, the same in all arms. Queries are those of the stage ``evaluations``, over
whole galleries: every picture, every distinct caption.

Printed: R@1 and R@10 of each direction, mean and deviation over the seeds; the change of R@10 against the untrained model, and of
the composed directions as a share of what ``composed`` reaches. Every run is a line of RUNS.jsonl, and a run that is there is not
repeated. Cost: some 90 processor seconds a run of the demo's recipe with its evaluation.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmret.benchmarks.directions import Corpus, directions
from mmret.benchmarks.stage import Model, held_out_edits, held_out_triplets
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.retriever.train.loop import train
from mmret.retriever.train.stage import TrainingJob, base_folder
from mmret.search.models import UNTRAINED, model_folder
from mmret.settings import EvaluateSettings, Recipe, load_profile

UNIVERSAL = load_profile("demo").recipes["universal"]
MIXTURE: dict[str, Any] = {
    name: getattr(UNIVERSAL, name) for name in ("tasks", "task_batches", "steps", "reverse", "swapped_texts")
}
"""What the demo's recipe ``universal`` has otherwise than recipe ``demo``."""
COMPOSED_SETS = ("held-out triplets", "held-out edits")
WHOLE = {"texts": 10**9}


class Bench:
    """A lake with its queries and pictures in memory."""

    def __init__(self, folder: Path):
        self.lake = Lake(folder)
        self.profile = resolve(self.lake)[0]
        self.recipe = self.profile.recipes[next(iter(self.profile.train or self.profile.recipes))]
        settings: EvaluateSettings = self.profile.evaluate.model_copy(update=WHOLE)
        triplets, edits = held_out_triplets(self.lake, settings), held_out_edits(self.lake, settings)
        self.composed = {name: queries for name, queries in zip(COMPOSED_SETS, (triplets, edits), strict=True) if queries}
        images = self.lake.read("images", columns=["image_id", "caption", "root", "extra"])
        self.directions, self.left_out = directions(Corpus.of(images), triplets, settings)
        self.pictures = images_by_id(self.lake, images["image_id"].to_pylist())

    def evaluate(self, folder: Path | str) -> dict[str, dict[str, float]]:
        """R@1 and R@10 by set of queries, of the checkpoint in ``folder``."""
        model = Model(self.lake, folder)
        found = {name: model.evaluate(queries) for name, queries in self.composed.items()}
        found |= {direction.task.name: model.evaluate_direction(direction) for direction in self.directions}
        return {name: {metric: figures[metric] for metric in ("R@1", "R@10")} for name, figures in found.items()}

    def run(self, changes: dict[str, Any], seed: int) -> dict[str, Any]:
        """One training of the lake's first recipe with other values: figures and processor seconds."""
        values = self.recipe.model_dump() | {"evaluate_every": None} | changes | {"seed": seed}
        recipe = Recipe.model_validate(values)
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "checkpoint"
            job = TrainingJob(self.lake, "bench", recipe, self.profile.licences, self.profile.evaluate)
            began = time.process_time()
            rows, base = job.rows(), base_folder(self.lake, recipe.base)
            train(recipe, rows, lambda ids: {i: self.pictures[i] for i in ids}, base, out)
            seconds = time.process_time() - began
            found = self.evaluate(out)
            from mmret.retriever.models.kinds import embedding_digest

            shutil.rmtree(self.lake.root / "gallery" / embedding_digest(out), ignore_errors=True)
        return {"figures": found, "seconds": round(seconds, 1)}


def known(out: Path) -> list[dict[str, Any]]:
    """The runs there are."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []


def measure(bench: Bench, arms: dict[str, dict[str, Any] | None], seeds: int, out: Path) -> list[dict[str, Any]]:
    """Runs of every arm and seed, those that ``out`` has not yet added to it; None in place of changes: the untrained model."""
    for seed in range(seeds):
        for arm, changes in arms.items():
            same = [r for r in known(out) if (r["arm"], r["seed"], r["changes"]) == (arm, seed, changes)]
            if same or (changes is None and seed):
                continue
            if changes is None:
                made = {"figures": bench.evaluate(model_folder(bench.lake, bench.profile, UNTRAINED)), "seconds": 0.0}
            else:
                made = bench.run(changes, seed)
            with out.open("a") as file:
                file.write(json.dumps({"arm": arm, "seed": seed, "changes": changes, **made}) + "\n")
            print(f"{arm}, seed {seed}: {made['seconds']:.0f} processor seconds", file=sys.stderr, flush=True)
    return [r for r in known(out) if r["arm"] in arms and r["changes"] == arms[r["arm"]] and r["seed"] < seeds]


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a line a set of queries, a column an arm, ``R@1 / R@10 (change)``."""
    arms = list(dict.fromkeys(run["arm"] for run in runs))
    sets = list(dict.fromkeys(name for run in runs for name in run["figures"]))

    def mean(arm: str, name: str, metric: str) -> float:
        return statistics.fmean(run["figures"][name][metric] for run in runs if run["arm"] == arm)

    def cell(arm: str, name: str) -> str:
        values = [run["figures"][name]["R@10"] for run in runs if run["arm"] == arm]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        shown = f"{mean(arm, name, 'R@1'):.1f} / {mean(arm, name, 'R@10'):.1f}{spread}"
        if arm == UNTRAINED or UNTRAINED not in arms:
            return shown
        said = f"{mean(arm, name, 'R@10') - mean(UNTRAINED, name, 'R@10'):+.1f}"
        if name in COMPOSED_SETS and arm != "composed" and "composed" in arms:
            said += f", {mean(arm, name, 'R@10') / mean('composed', name, 'R@10'):.0%} of composed"
        return f"{shown} ({said})"

    lines = ["| queries | " + " | ".join(arms) + " |", "|---" * (len(arms) + 1) + "|"]
    lines += [f"| {name.replace('_', ' ')} | " + " | ".join(cell(arm, name) for arm in arms) + " |" for name in sets]
    spent = {arm: statistics.fmean(run["seconds"] for run in runs if run["arm"] == arm) for arm in arms}
    lines.append("| processor seconds of training | " + " | ".join(f"{spent[arm]:.0f}" for arm in arms) + " |")
    return "\n".join(lines)


def gate() -> dict[str, float | list[float]]:
    """Of a lake of 600 scenes: how many rows each task has a picture, and the share of twins that agree in all attributes but one
    at most, by the truth of the scenes. Nothing is trained but the towers."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ["corpus.sources=['shapes:600?seed=0']", "towers.epochs=2", "mine.k=25", "train=[]"]
        command = [sys.executable, "-m", "mmret", "run", "--lake", folder, *(p for s in settings for p in ("--set", s))]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lake = Lake(folder)
        images = lake.read("images", columns=["image_id", "extra"])
        scenes = dict(zip(images["image_id"].to_pylist(), map(json.loads, images["extra"].to_pylist()), strict=True))
        rows = lake.read("tasks", columns=["task", "query_id", "target_id"]).to_pylist()
    twins = [(scenes[r["query_id"]], scenes[r["target_id"]]) for r in rows if r["task"] == "image_to_image"]
    alike = [sum(one[name] != other[name] for name in one) <= 1 for one, other in twins]
    own = sum(row["task"] in ("text_to_image", "image_to_text") for row in rows)
    return {"own_captions_a_picture": own / len(scenes), "twins": len(twins), "twins_alike": sum(alike) / max(len(alike), 1)}


def main(
    lake: Annotated[Path, typer.Option(help="a lake that `mmret run` made")],
    out: Annotated[Path, typer.Option(help="a line a run; runs that are there are not repeated")] = Path("directions.jsonl"),
    seeds: Annotated[int, typer.Option(help="runs of each arm")] = 3,
    arm: Annotated[list[str] | None, typer.Option(help="NAME=JSON: the lake's first recipe with other values")] = None,
    only: Annotated[list[str] | None, typer.Option(help="names of arms, if not all")] = None,
) -> None:
    """Train every arm with every seed, measure every direction, and print the table."""
    bench = Bench(lake)
    arms: dict[str, dict[str, Any] | None] = {UNTRAINED: None, "composed": {}, "mixture": MIXTURE}
    arms |= {name: json.loads(values) for name, _, values in (one.partition("=") for one in arm or [])}
    chosen = {name: changes for name, changes in arms.items() if not only or name in only}
    print(table(measure(bench, chosen, seeds, out)))
    for name, why in bench.left_out.items():
        print(f"not measured: {name}: {why}")


if __name__ == "__main__":
    typer.run(main)
