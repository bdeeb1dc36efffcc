"""What filters find of faults that were planted, and how much of what the faults cost they win back.

    python bench/planted_faults.py --lake L --work DIR [--seeds 10] [--steps 500] [--queries FILE] [--find] [--show]

Faults are planted in memory into the triplets of lake L, which stays as it is (:mod:`mmret.benchmarks.planted_faults`): by default
texts of another pair in 20 % of them, another target in 10 % and another of the same source in 10 %, and in 20 % of the others a
hard negative that is a right answer, where the scenes of the corpus are known. The seed of a run is that of its faults.

``--find``: precision and recall of each filter, for each kind of fault alone, for all of them, and what is dropped where nothing
was planted. Otherwise the recipe is trained, seed by seed, on sets of triplets: ``clean``, ``faulty`` and ``filtered``, which
is faulty less what the filters drop; and on ``known``, less what was planted, which no filter can better; steps are equal. Printed:
R@1 and R@10, mean and deviation, the loss that the faults cost, and the share of it that the filters win back, with its 95 %
interval over the seeds; processor seconds a run and of filtering. A line a run in DIR/runs.jsonl, and what is there is not
repeated. Cost: some 30 processor seconds a planting, and each training its steps.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.arms.runs import ArmJob, MeasuredLake
from mmret.benchmarks.planted_faults import Planted, found, plant, scenes_of
from mmret.filters.check import COLUMNS, JUDGES
from mmret.filters.corpus import pictures_of, read_corpus
from mmret.filters.verdicts import Verdicts, without
from mmret.lake import Lake
from mmret.retriever.train.rows import COLUMNS as TRAINED_ON
from mmret.settings import Recipe

ARMS = ("clean", "faulty", "filtered", "known")
SHARES = {"text": 0.2, "target": 0.1, "same_source": 0.1, "false_negative": 0.2}


@dataclass(frozen=True)
class RowsJob(ArmJob):
    """A recipe that is trained on ``given`` rows instead of the lake's."""

    given: pa.Table | None = None

    def rows(self) -> pa.Table:
        return self.given


class FaultyLake(MeasuredLake):
    """A lake whose runs are trained on :attr:`given`, rows of its triplets with faults or without."""

    given: pa.Table | None = None

    def job(self, recipe: Recipe, out: Path) -> RowsJob:
        job = super().job(recipe, out)
        return RowsJob(**{name: getattr(job, name) for name in job.__dataclass_fields__}, given=self.given)


def verdicts_of(lake: Lake, triplets: pa.Table, filters: Sequence[str]) -> list[Verdicts]:
    """What ``filters`` say of triplets that are not those of the lake."""
    rows = triplets.filter(pc.equal(triplets["split"], "train")).select(COLUMNS).sort_by("pair_id").combine_chunks()
    corpus = read_corpus(lake, lake, pictures_of(rows))
    return [JUDGES[name](corpus, rows, "planted") for name in filters]


def find(lake: Lake, triplets: pa.Table, filters: Sequence[str], shares: dict[str, float], seed: int) -> list[dict[str, Any]]:
    """What each filter finds where each kind of fault is planted alone, all of them, and none."""
    scenes = scenes_of(lake)
    cases = {kind: {kind: share} for kind, share in shares.items() if scenes or kind != "false_negative"}
    rows = []
    for case, planted_shares in {**cases, "all": shares, "none": {}}.items():
        planted = plant(triplets, planted_shares, scenes, seed)
        looks = [f for f in filters if case in ("all", "none") or (f == "false_negatives") == (case == "false_negative")]
        for name in looks:
            if name == "false_negatives" and not scenes:
                continue
            began = time.process_time()
            (verdicts,) = verdicts_of(lake, planted.triplets, [name])
            figures = found(planted, verdicts.rows)
            rows.append({"filter": name, "planted": case, **figures, "seconds": time.process_time() - began})
            print("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{v:16}" for k, v in rows[-1].items()), flush=True)
    return rows


def without_planted(planted: Planted) -> pa.Table:
    """The triplets less their faults: what a filter that knows them would leave."""
    pairs = [{"pair_id": p, "text": None, "candidate_id": c} for p, c in sorted(planted.negatives)]
    names = pa.schema([(name, pa.string()) for name in ("pair_id", "text", "candidate_id")])
    rows, _ = without(planted.triplets, {"known": pa.Table.from_pylist(pairs, names)})
    return rows.filter(pc.invert(pc.is_in(rows["pair_id"], value_set=pa.array(list(planted.pairs), pa.string()))))


def run(lake: FaultyLake, recipe: Recipe, arm: str, planted: Planted, filters: Sequence[str], out: Path) -> dict[str, Any]:
    """The figures of one training, and the processor seconds of filtering."""
    figures: dict[str, Any] = {}
    rows = planted.triplets
    if arm == "filtered":
        began = time.process_time()
        said = verdicts_of(lake.lake, rows, filters)
        rows, dropped = without(rows, {v.filter: v.dropped for v in said})
        figures = {"filtering_seconds": time.process_time() - began, "dropped_texts": dropped.texts}
        figures |= {"dropped_negatives": dropped.negatives, "dropped_rows": dropped.rows}
        for verdicts in said:
            figures |= {f"{verdicts.filter} {k}": v for k, v in found(planted, verdicts.rows).items()}
    if arm == "known":
        rows = without_planted(planted)
    lake.given = rows.select(TRAINED_ON)
    return figures | lake.run(recipe, out)


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the arms, and what is won back."""
    from scipy.stats import t

    for metric in ("R@1", "R@10"):
        by = {arm: {r["seed"]: r[metric] for r in rows if r["arm"] == arm} for arm in ARMS}
        print(f"{metric}, percent")
        for arm, values in by.items():
            if values:
                own = [r for r in rows if r["arm"] == arm]
                seconds = statistics.fmean(r["seconds"] for r in own)
                filtering = statistics.fmean(r.get("filtering_seconds", 0.0) for r in own)
                spread = statistics.stdev(values.values()) if len(values) > 1 else float("nan")
                mean, cost = statistics.fmean(values.values()), f"{seconds:.0f} + {filtering:.0f} processor s"
                print(f"  {arm:10} {mean:5.1f} ± {spread:.1f}  {cost}")
        seeds = sorted(set.intersection(*(set(v) for v in by.values())))
        if not seeds:
            continue
        lost = [by["clean"][s] - by["faulty"][s] for s in seeds]
        won = [by["filtered"][s] - by["faulty"][s] for s in seeds]
        share = statistics.fmean(won) / statistics.fmean(lost) if statistics.fmean(lost) else float("nan")
        # of a ratio of means: that of what is left over it, by seed (Fieller's, first order)
        off = [w - share * loss for w, loss in zip(won, lost, strict=True)]
        half = float("nan")
        if len(seeds) > 1 and statistics.fmean(lost):
            half = float(t.ppf(0.975, len(seeds) - 1)) * statistics.stdev(off) / len(seeds) ** 0.5 / abs(statistics.fmean(lost))
        print(f"  faults cost {statistics.fmean(lost):.1f}, filters win back {share:.0%} ± {half:.0%} of it, {len(seeds)} seeds")


def gate() -> dict[str, float | list[float]]:
    """Precision and recall of filter consistency on 1,200 scenes with all kinds of fault; so few have no hill of twins."""
    from bench.ingredients import lakes

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        small = ["corpus.sources=['shapes:1200?seed=0']", "towers.epochs=4", "mine.k=25"]
        lake = lakes(Path(folder), None, small, ["words"])["words"]
        scenes = scenes_of(lake)
        planted = plant(lake.read("triplets"), SHARES, scenes)
        (verdicts,) = verdicts_of(lake, planted.triplets, ("consistency",))
        figures = found(planted, verdicts.rows)
    shown = {"consistency_precision": figures["precision"], "consistency_recall": figures["recall"]}
    return {"images": len(scenes), **shown}


def main(
    lake: Annotated[Path, typer.Option(help="a lake that has triplets; it is only read")],
    work: Annotated[Path, typer.Option(help="folder of the runs")],
    queries: Annotated[Path | None, typer.Option(help="queries; none: the held-out edits of shapes")] = None,
    recipe: str = "demo",
    seeds: int = 10,
    first_seed: int = 0,
    steps: int = 500,
    threads: Annotated[int, typer.Option(help="that a run uses")] = 1,
    filters: Annotated[str, typer.Option(help="of arm filtered, with commas")] = ",".join(JUDGES),
    text: float = SHARES["text"],
    target: float = SHARES["target"],
    same_source: float = SHARES["same_source"],
    false_negative: float = SHARES["false_negative"],
    find_: Annotated[bool, typer.Option("--find", help="only say what the filters find")] = False,
    show: Annotated[bool, typer.Option(help="print what DIR/runs.jsonl has, train nothing")] = False,
) -> None:
    """See the module's docstring."""
    torch.set_num_threads(threads)
    shares = {"text": text, "target": target, "same_source": same_source, "false_negative": false_negative}
    names = tuple(filters.split(","))
    opened = Lake(lake)
    if find_:
        find(opened, opened.read("triplets"), names, shares, first_seed)
        return
    work.mkdir(parents=True, exist_ok=True)
    log = work / "runs.jsonl"

    def rows() -> list[dict[str, Any]]:
        made = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        same = {"steps": steps, "shares": shares, "recipe": recipe, "lake": str(lake)}
        return [row for row in made if all(row[k] == v for k, v in same.items()) and row["filters"] in (None, filters)]

    if not show:
        measured = FaultyLake(opened, queries, work)
        triplets, scenes = opened.read("triplets"), scenes_of(opened)
        pairs = zip(triplets["query_id"].to_pylist(), triplets["target_id"].to_pylist(), strict=True)
        triplets = triplets.filter(pa.array([pair not in measured.asked for pair in pairs], pa.bool_()))
        for seed in range(first_seed, first_seed + seeds):
            faulty = plant(triplets, shares, scenes, seed)
            for arm in ARMS:
                if any((row["arm"], row["seed"]) == (arm, seed) for row in rows()):
                    continue
                own = measured.profile.recipes[recipe].model_copy(update={"seed": seed, "steps": steps, "evaluate_every": None})
                planted = Planted(triplets) if arm == "clean" else faulty
                figures = run(measured, own, arm, planted, names, work / f"run-{os.getpid()}")
                of = {"arm": arm, "seed": seed, "steps": steps, "recipe": recipe, "lake": str(lake), "shares": shares}
                with log.open("a") as file:
                    file.write(json.dumps({**of, "filters": filters if arm == "filtered" else None, **figures}) + "\n")
    report(rows())


if __name__ == "__main__":
    typer.run(main)
