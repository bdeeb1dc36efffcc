"""What each ingredient of a recipe is worth, alone and together, paired by seed at equal processor time.

    python bench/ingredients.py --work DIR [--arms NAME|FILE.yaml] [--only ARM]...
                                [--images FOLDER --queries FILE] [--seeds 10] [--steps 500] [--show]

The arms are data, read from bench/arms/NAME.yaml (demo, ingredients, without, negatives, paper, headline) or a file of yours
(:mod:`bench.arms.plan`). Lakes are made in DIR, as far as the arms need them, and taken up again: ``words``, as profile demo has
it; ``plain``, whose instructions stay as their frames write them; and ``near``, besides mined as it was before, with captions
compared by the CLIP tower (in a band proposed from the oldest shard) and targets drawn from all signals together. All have the same
towers. The seeds decide batches, texts and negatives. Queries: the held-out edits where the corpus is made of shapes, else FILE as
``mmret evaluate --triplets`` takes it (bench/name_queries.py); training triplets that are one of the queries' own (reference,
target) pairs are left out of every arm.

**Equal processor time**: what a step of an arm costs, over one of the file's first arm, is measured before the first seed, in turns
in one process (DIR/costs.json), and its steps are those of ``--steps`` divided by that. What is computed before the first step
(filters, a teacher) is not in it; the processor seconds of whole runs, printed beside the figures, are.

Printed: a table a study: mean and deviation over the seeds, the paired differences that its claim is about with their 95 %
intervals (t distribution), in how many seeds they are positive, and what that shows. Every run is a line of DIR/runs.jsonl, and a
run that is there is not repeated; of one that fails, such as by a loss that explodes, the line has the reason. Cost: the lakes,
some 15 s an arm for its cost, and a run its steps (some 0.08 processor seconds each) and two seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.arms.plan import Arm, Plan, Study, changed, read_plan
from bench.arms.report import print_report
from bench.arms.runs import MeasuredLake, step_costs
from mmret.errors import UserError
from mmret.hashing import fingerprint
from mmret.lake import Lake
from mmret.settings import Recipe

PLAIN = ["annotate.wordings=plain"]
NEAR = ["encoders.caption.kind=clip", "encoders.caption.model=towers/clip", "mine.draw=together"]
CHANGES: dict[str, list[str]] = {"words": [], "plain": PLAIN, "near": NEAR + PLAIN}


def lakes(work: Path, images: str | None, settings: list[str], names: Iterable[str] = ("words", "near")) -> dict[str, Lake]:
    """The lakes ``names``, made where they are missing; others than ``words`` begin as its copies: the towers are the same."""
    for name, other in CHANGES.items():
        folder = work / name
        if name not in names and (other or folder.exists()):
            continue
        if other and not folder.exists():
            shutil.copytree(work / "words", folder)
        changes = [*settings, "train=[]", *other]
        command = [sys.executable, "-m", "mmret", "run", "--lake", str(folder)]
        command += [part for change in changes for part in ("--set", change)] + (["--images", images] if images else [])
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {name: Lake(work / name) for name in names}


class Comparison:
    """A plan on its lakes. ``work``: the lakes lie there, with what is known of costs and runs."""

    def __init__(self, plan: Plan, work: Path, queries: Path | None, steps: int):
        self.plan, self.work, self.queries, self.steps = plan, work, queries, steps
        self.measured = cache(lambda name: MeasuredLake(Lake(work / name), queries, work))

    def recipe(self, study: Study, arm: Arm, seed: int, costs: dict[str, float]) -> Recipe:
        """Of one run, with the steps that its study gives it."""
        steps = round(self.steps / costs.get(arm.name, 1.0)) if study.time == "equal" else self.steps
        own = {"steps": steps} if "steps" not in self.plan.change | arm.recipe else {}
        return self.plan.recipe_of(arm, self.measured(arm.lake).profile.recipes[self.plan.recipe], seed, **own)

    def costs(self, arms: Sequence[tuple[Study, Arm]]) -> dict[str, float]:
        """What a step of each of ``arms`` costs over one of the plan's first, where its study wants equal time; measured where it
        is not known."""
        file = self.work / "costs.json"
        known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        study, first = next(self.plan.arms())
        alike = self.recipe(study, first, 0, {}).model_copy(update={"steps": 1}).decisive()
        keys: dict[str, str] = {}
        timed = [(first.name, self.measured(first.lake), self.recipe(study, first, 0, {}))]
        for study, arm in arms:
            if study.time == "steps" or arm == first:
                continue
            recipe = self.recipe(study, arm, 0, {})
            keys[arm.name] = fingerprint(first.lake, alike, arm.lake, recipe.model_copy(update={"steps": 1}).decisive())
            if keys[arm.name] not in known:
                timed.append((arm.name, self.measured(arm.lake), recipe))
        if len(timed) > 1:
            for name, cost in step_costs(timed, self.work).items():
                if name in keys:
                    known[keys[name]] = {"arm": name, "over": first.name, "cost": round(cost, 4)}
            file.write_text(json.dumps(known, indent=1) + "\n")
        return {name: known[key]["cost"] for name, key in keys.items()}

    def rows(self) -> list[dict[str, Any]]:
        """The runs there are, of any plan."""
        file = self.work / "runs.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def prepare(self, lake: MeasuredLake, name: str) -> None:
        """Make a checkpoint that arms need."""
        wanted = self.plan.before[name]
        recipe = changed(lake.profile.recipes[wanted.recipe], name, wanted.change)
        teaches = any(arm.recipe.get("teacher") == name for _, arm in self.plan.arms())
        if (found := lake.prepare(name, recipe, teaches)) is not None:
            self.add_row({"before": name, "lake": lake.lake.root.name, **found})

    def add_row(self, row: dict[str, Any]) -> None:
        with (self.work / "runs.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def run(self, seeds: Iterable[int], only: set[str]) -> None:
        """Make the runs that are missing, seed after seed."""
        arms = [(study, arm) for study, arm in self.plan.arms() if not only or arm.name in only]
        for lake, name in dict.fromkeys((arm.lake, name) for _, arm in arms for name in arm.before):
            self.prepare(self.measured(lake), name)
        costs = self.costs(arms)
        for seed in seeds:
            for study, arm in arms:
                recipe = self.recipe(study, arm, seed, costs)
                run = fingerprint(arm.lake, self.measured(arm.lake).triplets, recipe.decisive())
                if any((row.get("run"), row.get("arm"), row.get("of")) == (run, arm.name, self.steps) for row in self.rows()):
                    continue
                try:
                    found = self.measured(arm.lake).run(recipe, self.work / f"run-{os.getpid()}")
                except UserError as error:  # no reason to stop the others
                    found = {"failed": str(error)}
                same = {"run": run, "arm": arm.name, "lake": arm.lake, "seed": seed, "of": self.steps, "steps": recipe.steps}
                self.add_row(same | found)


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
    arms: Annotated[Path, typer.Option(help="a file of bench/arms by its name, or one of yours")] = Path("demo"),
    images: Annotated[str | None, typer.Option(help="a folder of captioned pictures; none: the demo's shapes")] = None,
    queries: Annotated[Path | None, typer.Option(help="queries of that folder")] = None,
    seeds: int = 10,
    first_seed: int = 0,
    steps: Annotated[int, typer.Option(help="of the file's first arm; the demo takes 1,300")] = 500,
    threads: Annotated[int, typer.Option(help="that a run uses")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="run this arm, and no other that is not named")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="settings of all lakes")] = None,
    show: Annotated[bool, typer.Option(help="print what DIR/runs.jsonl has, train nothing")] = False,
) -> None:
    """See the module's docstring."""
    try:
        plan = read_plan(arms)
        if unknown := set(only or ()) - {arm.name for _, arm in plan.arms()}:
            raise UserError(f"no arm called {', '.join(sorted(unknown))}: there are {', '.join(a.name for _, a in plan.arms())}")
        comparison = Comparison(plan, work, queries, steps)
        if not show:
            work.mkdir(parents=True, exist_ok=True)
            every = [arm for _, arm in plan.arms()]
            needed = {arm.lake for place, arm in enumerate(every) if not place or not only or arm.name in only}
            lakes(work, images, set_ or [], needed)
            torch.set_num_threads(threads)
            comparison.run(range(first_seed, first_seed + seeds), set(only or ()))
    except UserError as error:
        raise SystemExit(str(error)) from None
    print(f"percent; {torch.backends.cpu.get_cpu_capability()}")
    rows = comparison.rows()
    print_report(plan, [row for row in rows if row.get("of") == steps], ("R@1", "R@10", "paraphrase spread"))
    for row in rows:
        if "failed" in row and row.get("of") == steps:
            print(f"no figure: {row['arm']}, seed {row['seed']}: {row['failed']}")
        if row.get("before") in plan.before:
            print(f"made before: {row['before']} of {row['lake']}, {row['seconds']:.0f} processor s")


if __name__ == "__main__":
    typer.run(main)
