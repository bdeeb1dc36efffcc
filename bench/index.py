"""Neighbours through LanceDB's index against exact mining: time and in-band recall of one lake, one signal.

    python bench/index.py [--n 20000] [--dim 512] [--k 100] [--grow 512] [--partition-rows 4096] [--probes 32] [--pq]

A lake of one large shard and one small one is written with synthetic vectors (those of bench/neighbours.py). Exact mining of
the small shard against everything is what growth costs; then the same through each index. Per row: processor and wall
seconds of the small shard's candidates, seconds to train the index, in-band recall of the lists found (256 images searched
exactly). Small partitions on a small corpus stand for what a large one does: a search looks into ``probes`` of them all.
Training product quantisation takes minutes whatever the corpus, so it is measured where asked for.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from neighbours import BAND, CLUSTER, vectors

from mmret.encode.vectors import vector_table
from mmret.lake import Lake
from mmret.mine.approximate import build_index, index_candidates
from mmret.mine.candidates import ShardVectors, candidates
from mmret.mine.lake_vectors import select_images, shard_vectors
from mmret.mine.recall import exact_lists, in_band_recall, sample
from mmret.settings import IndexSettings, MineSettings
from tests.mine.lakes import add_shard

SIGNAL = "clip_image"


def timed(work: Callable[[], object]) -> tuple[float, float, object]:
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - processor, result


def two_shards(folder: str, n: int, dim: int, grow: int) -> tuple[Lake, ShardVectors, ShardVectors]:
    """A lake of ``n`` clustered vectors, and those of its old shard and of the new one, which has ``grow``."""
    made = vectors(n, dim, 0, max(1, n // CLUSTER))
    ids = [f"{at:032x}" for at in np.random.default_rng(0).permutation(n)]
    lake = Lake(folder)
    for shard, rows in (("shard-00000", slice(0, n - grow)), ("shard-00001", slice(n - grow, n))):
        add_shard(lake, shard, ids[rows], {SIGNAL: made[rows]})
    old, new = (shard_vectors(lake, s, [SIGNAL]) for s in lake.shards())
    return lake, old, new


def gate() -> dict[str, float | list[float]]:
    """In-band recall of exact mining, and through an index of which a search looks into a sixth."""
    torch.set_num_threads(2)
    n, dim, k, grow = 6000, 128, 50, 512
    with tempfile.TemporaryDirectory() as folder:
        lake, old, new = two_shards(folder, n, dim, grow)
        settings, bands = MineSettings(k=k, signals=(SIGNAL,)), {SIGNAL: BAND}
        queries = select_images(new, sample(new.ids, 128))
        truth = exact_lists(queries, [old, new], settings, bands)
        exact = candidates(new, [old], settings, bands)
        index = IndexSettings(kind="ivf_rq", bits=4, from_rows=1, partition_rows=256, probes=4)
        build_index(vector_table(lake, "shard-00001", SIGNAL), index, dim)
        edges = index_candidates(lake, "shard-00001", settings.model_copy(update={"index": index}), bands)
        recalls = [in_band_recall(found, truth, [SIGNAL])[SIGNAL] for found in (exact, edges)]
        return {"queries": len(queries.ids), "exact_recall": recalls[0], "index_recall": recalls[1]}


def main(
    n: Annotated[int, typer.Option(help="rows of the corpus")] = 20_000,
    dim: Annotated[int, typer.Option(help="width of a vector")] = 512,
    k: Annotated[int, typer.Option(help="neighbours kept in the band")] = 100,
    grow: Annotated[int, typer.Option(help="rows of the new shard, of the n")] = 512,
    partition_rows: Annotated[int, typer.Option(help="vectors in a partition of the index")] = 4096,
    probes: Annotated[int, typer.Option(help="partitions a search looks into")] = 32,
    pq: Annotated[bool, typer.Option("--pq", help="product quantisation too")] = False,
    threads: Annotated[int, typer.Option(help="processor threads of exact mining")] = 2,
) -> None:
    """Measure and print one JSON object per way of searching."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        lake, old, new = two_shards(folder, n, dim, grow)
        settings, bands = MineSettings(k=k, signals=(SIGNAL,)), {SIGNAL: BAND}
        wall, processor, _ = timed(lambda: candidates(new, [old], settings, bands))
        queries = select_images(new, sample(new.ids, 256))
        truth = exact_lists(queries, [old, new], settings, bands)
        print(
            json.dumps(
                {
                    "search": "exact",
                    "rows": n,
                    "new": grow,
                    "wall_s": round(wall, 2),
                    "processor_s": round(processor, 2),
                    "recall": 1.0,
                    "in_band_per_image": round(truth.num_rows / len(queries.ids), 1),
                }
            ),
            flush=True,
        )
        for kind, bits in (("ivf_rq", 1), ("ivf_rq", 4), ("ivf_rq", 8), *([("ivf_pq", 2)] if pq else [])):
            index = IndexSettings(kind=kind, bits=bits, from_rows=1, partition_rows=partition_rows, probes=probes)
            chosen = settings.model_copy(update={"index": index})
            train = timed(lambda i=index: build_index(vector_table(lake, "shard-00001", SIGNAL), i, dim))[:2]
            own_wall, own_processor, edges = timed(lambda c=chosen: index_candidates(lake, "shard-00001", c, bands))
            print(
                json.dumps(
                    {
                        "search": kind,
                        "bits": bits,
                        "rows": n,
                        "new": grow,
                        "wall_s": round(own_wall, 2),
                        "processor_s": round(own_processor, 2),
                        "train_wall_s": round(train[0], 2),
                        "train_processor_s": round(train[1], 2),
                        "partitions": max(1, n // partition_rows),
                        "probes": probes,
                        "recall": in_band_recall(edges, truth, [SIGNAL])[SIGNAL],
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
