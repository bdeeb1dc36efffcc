"""What shorter and coarser vectors cost in recall and give in memory and time, with and without rescoring by full vectors.

    python bench/precision.py --lake DIR --work DIR [--matryoshka 8,16,32] [--steps 1000]
    python bench/precision.py --lake DIR --work DIR --checkpoint FOLDER [--checkpoint FOLDER]
    python bench/precision.py --timing 100000x512

Without --checkpoint two are trained on the lake's triplets into the second folder by its first recipe, one of them with
``matryoshka``, all else equal; they are taken up again where they are there. Queries: the lake's held-out edits, or its held-out
triplets where the corpus is not made of shapes; the gallery is the whole corpus without the reference. Scores are those of
:mod:`mmret.quantise` (queries are quantised as the gallery is), ties rank behind; rescored: the first 10 k = 100 by their full
vectors. Nothing is written to the lake.

--timing: synthetic vectors; seconds per query that a search (:class:`mmret.search.block.Block`, rescoring the first 100) takes over
those of a float32 product in numpy with the ten best picked, in turns, one thread. Cost: the trainings, some seconds a checkpoint.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from neighbours import CLUSTER, vectors

from mmret.benchmarks.stage import held_out_edits, held_out_triplets
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.quantise import from_int8, hamming, shorten, to_binary, to_int8
from mmret.ranking import rank, recall_at, target_ranks
from mmret.retriever.models.load import Retriever, query_options
from mmret.retriever.train.loop import train
from mmret.retriever.train.loss import nested_info_nce
from mmret.retriever.train.stage import TrainingJob, base_folder
from mmret.search.block import Block
from mmret.search.options import SearchOptions

K, RESCORED = 10, 100
BYTES: dict[str, Callable[[int], float]] = {
    "float32": lambda d: 4 * d,
    "float16": lambda d: 2 * d,
    "int8": lambda d: d + 4,  # and a scale
    "binary": lambda d: -(-d // 8),
}
"""Bytes of a vector of d dimensions."""


def scores(queries: np.ndarray, gallery: np.ndarray, precision: str, dimensions: int) -> np.ndarray:
    """(q, n) float32: cosines of the first ``dimensions``, after both sides went through ``precision``."""
    queries, gallery = shorten(queries, dimensions), shorten(gallery, dimensions)
    if precision == "binary":
        return 1 - 2 * hamming(to_binary(queries), to_binary(gallery)).astype(np.float32) / dimensions
    if precision == "int8":
        return from_int8(*to_int8(queries)) @ from_int8(*to_int8(gallery)).T
    return queries.astype(precision).astype(np.float32) @ gallery.astype(precision).astype(np.float32).T


def rescored(rough: np.ndarray, full: np.ndarray, best: int = RESCORED) -> np.ndarray:
    """``full`` (q, n) where a row's ``rough`` is among its ``best`` highest, else -1, below every cosine."""
    first = np.argpartition(rough, -best, axis=1)[:, -best:] if best < rough.shape[1] else np.argsort(rough, axis=1)
    kept = np.full_like(full, -1)
    np.put_along_axis(kept, first, np.take_along_axis(full, first, axis=1), axis=1)
    return kept


def recall(found: np.ndarray, targets: Sequence[Sequence[int]], references: Sequence[int] | None) -> dict[str, float]:
    """R@1 and R@10 by scores (q, n); the references are left out, and of equal scores the target counts last."""
    rows = found.copy()
    if references is not None:
        rows[np.arange(len(rows)), references] = -2
    ranks = np.concatenate([target_ranks(np.ones((1, 1)), row[:, None], [own]) for row, own in zip(rows, targets, strict=True)])
    return recall_at(ranks, (1, K))


def table(
    queries: np.ndarray,
    gallery: np.ndarray,
    targets: Sequence[Sequence[int]],
    references: Sequence[int] | None,
    widths: Sequence[int],
) -> list[dict[str, Any]]:
    """A row for each width and precision: recall without and with rescoring, and megabytes of a million vectors."""
    full, rows = queries @ gallery.T, []
    for width in widths:
        for precision, size in BYTES.items():
            rough = scores(queries, gallery, precision, width)
            plain, again = recall(rough, targets, references), recall(rescored(rough, full), targets, references)
            rows.append(
                {"dimensions": width, "precision": precision, **plain, **{f"rescored {k}": v for k, v in again.items()},
                 "MB per million": round(size(width), 1)}
            )  # fmt: skip
    return rows


class Corpus:
    """The lake's pictures and queries in memory."""

    def __init__(self, lake: Lake):
        self.lake, self.profile = lake, resolve(lake)[0]
        self.asked = held_out_edits(lake, self.profile.evaluate) or held_out_triplets(lake, self.profile.evaluate)
        self.ids = lake.read("images", columns=["image_id"])["image_id"].to_pylist()
        self.pictures = images_by_id(lake, self.ids)

    def trained(self, work: Path, steps: int | None, matryoshka: tuple[int, ...]) -> list[Path]:
        """The folders of two checkpoints of the lake's first recipe, without ``matryoshka`` and with it."""
        name = next(iter(self.profile.train or self.profile.recipes))
        job = TrainingJob.of(self.lake, self.profile, name)
        changes: dict[str, Any] = {"evaluate_every": None, "outside": False, **({"steps": steps} if steps else {})}
        recipe = job.recipe.model_copy(update=changes)
        for arm, dimensions in (("plain", ()), ("matryoshka", matryoshka)):
            began = time.process_time()
            facts = train(
                recipe.model_copy(update={"matryoshka": dimensions}),
                job.rows(),
                lambda ids: {i: self.pictures[i] for i in ids},
                base_folder(self.lake, recipe.base),
                work / arm,
            )
            seconds = time.process_time() - began
            print(f"{arm}: {facts['step']} steps, {seconds:.0f} processor s here, loss {facts['loss']:.3f}", file=sys.stderr)
        return [work / "plain", work / "matryoshka"]

    def rows_of(self, folder: Path, widths: Sequence[int] | None) -> list[dict[str, Any]]:
        """:func:`table` of a checkpoint over the corpus."""
        retriever = Retriever.load(folder, "cpu")
        gallery = retriever.encode([self.pictures[i] for i in self.ids])
        place = {image_id: at for at, image_id in enumerate(self.ids)}
        queries = np.concatenate(
            [
                retriever.encode([self.pictures[q.reference] for q in part], [q.text for q in part], **query_options(folder))
                for part in (self.asked[at : at + 256] for at in range(0, len(self.asked), 256))
            ]
        )
        targets = [[place[t] for t in q.targets if t != q.reference] for q in self.asked]
        widths = widths or [retriever.dim // part for part in (1, 2, 4, 8)]
        return table(queries, gallery, targets, [place[q.reference] for q in self.asked], widths)


def by_numpy(queries: np.ndarray, gallery: np.ndarray) -> None:
    """The baseline: a float32 product for each query, and the ten best in order."""
    for query in queries:
        found = gallery @ query
        best = np.argpartition(found, -K)[-K:]
        best[np.argsort(-found[best], kind="stable")]


def timings(rows: int, dim: int, arms: Sequence[SearchOptions], rounds: int = 5, asked: int = 8) -> list[dict[str, Any]]:
    """Milliseconds a query of each arm, and paired ratios to numpy's float32: by processor time, and by the clock."""
    torch.set_num_threads(1)
    gallery = vectors(rows, dim, 0, max(1, rows // CLUSTER)).astype(np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    queries, found = gallery[:: max(1, rows // asked)][:asked], []
    truth = [set(best) for best in rank(queries, gallery, K)]
    for options in arms:
        block, pairs = Block(gallery, options), []
        overlap = statistics.fmean(len(t & set(r)) / K for t, (r, _) in zip(truth, block.nearest(queries, K), strict=True))
        for at in range(-1, rounds):
            pair = []
            for work in (lambda: by_numpy(queries, gallery), lambda b=block: [b.nearest(q[None], K) for q in queries]):
                processor, wall = time.process_time(), time.perf_counter()
                work()
                pair.append((time.process_time() - processor, time.perf_counter() - wall))
            if at >= 0:  # the first warms the caches
                pairs.append(pair)
        found.append(
            {
                "precision": options.precision,
                "dimensions": options.dimensions or dim,
                "ms_a_query": round(1e3 * statistics.median(own[0] for _, own in pairs) / asked, 2),
                "numpy_ms": round(1e3 * statistics.median(base[0] for base, _ in pairs) / asked, 2),
                "processor_ratios": [own[0] / base[0] for base, own in pairs],
                "wall_ratios": [own[1] / base[1] for base, own in pairs],
                "of_the_ten": round(overlap, 4),
            }
        )
    return found


def projected(matryoshka: tuple[int, ...], seed: int = 0, dim: int = 32, steps: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (n, dim) of noisy queries and of their targets, by one linear map trained with or without ``matryoshka``: the
    smallest thing that the loss can be seen to work on."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(2000, 64, generator=generator)
    mixing = torch.randn(64, 256, generator=generator)
    targets = latent @ mixing
    noise = torch.linspace(0.1, 3, 64) * torch.randn(latent.shape, generator=generator)  # some directions tell more than others
    queries = (latent + noise) @ mixing
    weights = (torch.randn(256, dim, generator=generator) / 16).requires_grad_()
    optimizer = torch.optim.AdamW([weights], lr=3e-3, weight_decay=0.0)
    for step in range(steps):
        rows = torch.randint(0, 1000, (128,), generator=torch.Generator().manual_seed(step))
        own, others = (torch.nn.functional.normalize(x[rows] @ weights, dim=-1) for x in (queries, targets))
        optimizer.zero_grad()
        nested_info_nce(own, others, torch.eye(128, dtype=torch.bool), temperature=0.1, dimensions=matryoshka).backward()
        optimizer.step()
    with torch.no_grad():
        made = [torch.nn.functional.normalize(x[1000:] @ weights, dim=-1).numpy() for x in (queries, targets)]
    return made[0], made[1]


def gate() -> dict[str, float | list[float]]:
    """Points of R@10 that a map trained with ``matryoshka`` gains at 4 of 32 dimensions and loses at all of them; points that int8
    loses, and binary with rescoring; and the time of an int8 search over numpy's float32."""
    torch.set_num_threads(1)
    made = {arm: projected(dims) for arm, dims in (("plain", ()), ("matryoshka", (4, 8, 16)))}
    own = [[at] for at in range(1000)]
    found = {
        arm: {(row["dimensions"], row["precision"]): row for row in table(*pair, own, None, (32, 4))} for arm, pair in made.items()
    }
    nested, plain = found["matryoshka"], found["plain"]
    timing = timings(20_000, 256, [SearchOptions(precision="int8")])[0]
    return {
        "queries": len(own),
        "int8_bytes": nested[32, "int8"]["MB per million"],
        "short_gain": nested[4, "float32"]["R@10"] - plain[4, "float32"]["R@10"],
        "whole_loss": plain[32, "float32"]["R@10"] - nested[32, "float32"]["R@10"],
        "int8_loss": nested[32, "float32"]["R@10"] - nested[32, "int8"]["R@10"],
        "binary_rescored_loss": nested[32, "float32"]["R@10"] - nested[32, "binary"]["rescored R@10"],
        "int8_of_the_ten": timing["of_the_ten"],
        "int8_over_numpy_processor": timing["processor_ratios"],
    }


def _print(rows: list[dict[str, Any]]) -> None:
    """Rows as a markdown table."""
    print(f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print("| " + " | ".join(f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values()) + " |")


def main(
    lake: Annotated[Path | None, typer.Option(help="folder of the lake whose queries are asked")] = None,
    work: Annotated[Path | None, typer.Option(help="folder of the checkpoints that are trained")] = None,
    checkpoint: Annotated[list[Path] | None, typer.Option(help="instead: these; given again for more")] = None,
    matryoshka: Annotated[str, typer.Option(help="of the checkpoint that is trained with it")] = "8,16,32",
    dimensions: Annotated[str | None, typer.Option(help="of the table; default: all, a half, a quarter, an eighth")] = None,
    steps: Annotated[int | None, typer.Option(help="of each training; default: the recipe's")] = None,
    timing: Annotated[str | None, typer.Option(help="vectors x dimensions, such as 100000x512: time alone")] = None,
) -> None:
    if timing:
        rows, dim = map(int, timing.split("x"))
        arms = [SearchOptions(precision=p, dimensions=d) for d in (None, dim // 2, dim // 4) for p in ("float32", "int8", "binary")]
        for row in timings(rows, dim, arms):
            ratios = {name: round(statistics.median(row.pop(name)), 3) for name in ("processor_ratios", "wall_ratios")}
            print(json.dumps({**row, **ratios}), flush=True)
        return
    if lake is None or (work is None and not checkpoint):
        raise typer.BadParameter("give --lake, and --work or --checkpoint")
    corpus = Corpus(Lake(lake))
    folders = checkpoint or corpus.trained(work, steps, tuple(map(int, matryoshka.split(","))))
    print(f"{len(corpus.asked)} queries over {len(corpus.ids)} pictures, percent")
    for folder in folders:
        print(f"\n{folder.name}\n")
        _print(corpus.rows_of(folder, [int(d) for d in dimensions.split(",")] if dimensions else None))


if __name__ == "__main__":
    typer.run(main)
