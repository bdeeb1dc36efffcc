"""Neighbours of every image: ours against faiss-cpu's exact index, in turn in one process, equal results asserted first.

    python bench/neighbours.py                     # three signals of 50,000 x 512 and one, against as many IndexFlatIP searches
    python bench/neighbours.py --growth --no-peer  # a tenth more images against mining all again
    python bench/neighbours.py --memory            # peak memory at 50,000 and at 200,000
    python bench/neighbours.py --million --shard 50000   # 1,000,000 x 512, one signal, shard by shard from 1 GB of files
    python bench/neighbours.py --device cuda --n 1000000 --dim 768 --no-peer   # also prints the share of the bare products

The peer gets its vectors as float32 beforehand and returns top k of the scores, near-duplicates included, so it is asked for
``k + 1 + a`` results, ``a`` the most near-duplicates any image has (a handful here: one image in fifty has one). Cutting its
lists to the band is not timed. Ours is timed whole: float16 vectors and ids in, a table with ids out, band and ties settled.
Wall-clock ratios are of alternating runs; on a busy machine look at the processor times beside them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmret.devices import device_of
from mmret.mine.candidates import ShardVectors, candidate_tables, candidates
from mmret.mine.merge import neighbours
from mmret.mine.operands import Matrix
from mmret.mine.tiles import tile_rows
from mmret.schemas import SIGNALS
from mmret.settings import BandSettings, MineSettings

BAND = BandSettings()  # the paper's, 0.8 to 0.96
BANDS = dict.fromkeys(SIGNALS, BAND)
CLUSTER = 120  # images of a kind; about 70 of them lie in each other's band
ROUNDING = 1e-5  # scores of the peer are float32 sums


def vectors(count: int, dim: int, seed: int, kinds: int) -> np.ndarray:
    """(count, dim) float16 unit vectors of ``kinds`` kinds, in and out of the band; a fiftieth have a near-duplicate.

    ``kinds`` are the same for every ``seed``, so that shards made one by one belong together.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(kinds, size=count)
    centres = np.empty((count, dim), np.float32)
    for at in np.unique(kind):
        centre = np.random.default_rng([7, at]).standard_normal(dim, dtype=np.float32)
        centres[kind == at] = centre / np.linalg.norm(centre)
    made = centres + rng.uniform(0.2, 0.7, (count, 1)).astype(np.float32) * rng.standard_normal((count, dim), np.float32) / dim**0.5
    copied = rng.choice(count, count // 50 * 2, replace=False).reshape(2, -1)
    made[copied[0]] = made[copied[1]] + 0.15 * rng.standard_normal((copied.shape[1], dim), np.float32) / dim**0.5
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)


def corpus(count: int, dim: int, signals: int) -> ShardVectors:
    ids = [f"{at:032x}" for at in range(count)]
    return ShardVectors(
        "shard-00000", ids, {s: vectors(count, dim, at, max(1, count // CLUSTER)) for at, s in enumerate(SIGNALS[:signals])}
    )


def timed(work: Callable[[], object]) -> tuple[float, float, object]:
    """Wall seconds, processor seconds, result."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - processor, result


def faiss_search(wide: list[np.ndarray], k: int, threads: int) -> list[tuple[np.ndarray, np.ndarray]]:
    import faiss

    faiss.omp_set_num_threads(threads)
    found = []
    for matrix in wide:
        index = faiss.IndexFlatIP(matrix.shape[1])
        index.add(matrix)
        found.append(index.search(matrix, k))
    return found


def assert_equal(table: pa.Table, peer: list[tuple[np.ndarray, np.ndarray]], k: int) -> float:
    """Fail unless both found the same neighbours, but for those that the peer's rounding puts on the other side of a cut.

    Returns the recall of ours against the peer's lists, such cases left out: 1.0, or it has failed.
    """
    inside = table.filter(pa.compute.invert(table["above_band"]))
    for signal, (scores, targets) in zip(SIGNALS, peer, strict=False):
        mine = inside.filter(pa.compute.equal(inside["signal"], signal))
        ours_query, ours_target = (np.array([int(i, 16) for i in mine[c].to_pylist()]) for c in ("query_id", "target_id"))
        count = len(scores)
        own = targets == np.arange(count)[:, None]
        ok = (scores > BAND.low) & (scores < BAND.high) & ~own
        kept = ok & (np.cumsum(ok, axis=1) <= k)
        last = np.where(ok.sum(1) >= k, np.where(kept, scores, np.inf).min(1), BAND.low)  # score of each query's last neighbour
        complete = (scores[:, -1] <= last + ROUNDING) | (ok.sum(1) >= k)
        assert complete.all(), "the peer was asked for too few results"
        query, place = np.nonzero(kept)
        theirs = query * count + targets[query, place]
        ours = ours_query * count + ours_target

        def certain(keys: np.ndarray, values: np.ndarray, last: np.ndarray = last, count: int = count) -> np.ndarray:
            return keys[
                (np.abs(values - last[keys // count]) > ROUNDING)
                & (np.abs(values - BAND.low) > ROUNDING)
                & (np.abs(values - BAND.high) > ROUNDING)
            ]

        missed = np.setdiff1d(certain(theirs, scores[query, place]), ours)
        invented = np.setdiff1d(certain(ours, mine["score"].to_numpy()), theirs)
        assert not len(missed) and not len(invented), f"{signal}: {len(missed)} missed, {len(invented)} invented"
    return 1.0


def against_faiss(n: int, dim: int, k: int, signals: int, rounds: int, threads: int, device: str, only: int | None = None) -> dict:
    """Ratios of ours to the peer for the first signal alone and for all; ``only``: for so many signals, and no bare products."""
    own = corpus(n, dim, signals)
    wide = [m.astype(np.float32) for m in own.vectors.values()]
    report = {}
    few = ShardVectors(own.shard, own.ids[:500], {s: v[:500] for s, v in own.vectors.items()})
    candidates(few, [], MineSettings(k=k, signals=SIGNALS[:signals], device=device), BANDS)  # both sides start warm
    faiss_search([wide[0][:500]], k, threads)
    for used in [only] if only else sorted({1, signals}):
        settings = MineSettings(k=k, signals=SIGNALS[:used], device=device)
        walls, processors, edges = [], [], 0
        for _ in range(rounds):
            wall, processor, table = timed(lambda s=settings: candidates(own, [], s, BANDS))
            above = table.filter(table["above_band"])
            most = max(above.group_by(["query_id", "signal"]).aggregate([("score", "count")])["score_count"].to_pylist(), default=0)
            peer_wall, peer_processor, found = timed(lambda u=used, m=most: faiss_search(wide[:u], k + 1 + m, threads))
            if not walls:
                recall, edges = assert_equal(table, found, k), table.num_rows
            assert table.num_rows == edges, "another round found another number of edges"
            print(f"{used} signal(s), s: {wall:.2f} and {peer_wall:.2f}", file=sys.stderr, flush=True)
            walls.append((wall, peer_wall))
            processors.append((processor, peer_processor))
        ratio = [statistics.median(a / b for a, b in pairs) for pairs in (walls, processors)]
        report[f"{used} signal(s)"] = {
            "rows": n,
            "in_band_per_image": round((table.num_rows - above.num_rows) / n / used, 1),
            "recall": recall,
            "ours_s": round(statistics.median(w for w, _ in walls), 2),
            "faiss_s": round(statistics.median(w for _, w in walls), 2),
            "ratio_wall": round(ratio[0], 3),
            "ratio_processor": round(ratio[1], 3),
            "ratios_wall": [round(a / b, 3) for a, b in walls],
            "ratios_processor": [round(a / b, 3) for a, b in processors],
            "target": 0.8 if used == 1 else 0.6,
        }
        del found, table
    if not only:
        report["bare_products"] = bare_products(own, n, dim, device)
    return report


def without_peer(n: int, dim: int, k: int, signals: int, rounds: int, device: str) -> dict:
    """Seconds of ours alone for all ``signals``, and the share that their bare products would take."""
    own = corpus(n, dim, signals)
    settings = MineSettings(k=k, signals=SIGNALS[:signals], device=device)
    few = ShardVectors(own.shard, own.ids[:500], {s: v[:500] for s, v in own.vectors.items()})
    candidates(few, [], settings, BANDS)
    spent = [timed(lambda: candidates(own, [], settings, BANDS))[:2] for _ in range(rounds)]
    wall, processor = (statistics.median(column) for column in zip(*spent, strict=True))
    bare = bare_products(own, n, dim, device)
    return {
        "rows": n,
        "signals": signals,
        "ours_s": round(wall, 2),
        "ours_processor_s": round(processor, 2),
        "bare_products": bare,
        "bare_over_ours": round(signals * bare["as_mined_s"] / wall, 4),
    }


def gate() -> dict[str, float | list[float]]:
    """Processor and wall time over faiss, of one signal at the size of the promise and of three at a small one, and of growth by a
    tenth over mining all again. A list has a cost per row and faiss has none, so with few rows the ratios are near 1.
    """
    torch.set_num_threads(2)
    figures: dict[str, float | list[float]] = {"recall": 1.0}
    for n, used, name in ((50_000, 1, "one_signal"), (6_000, 3, "three_signals")):
        found = against_faiss(n, 512, 100, used, 3, 2, "cpu", only=used)[f"{used} signal(s)"]
        figures["recall"] = min(figures["recall"], found["recall"])
        figures[f"{name}_over_faiss_wall"] = found["ratios_wall"]
        figures[f"{name}_over_faiss_processor"] = found["ratios_processor"]
    grown = [growth(6_000, 512, 100, 1, "cpu") for _ in range(3)]
    figures["grown_is_fresh"] = int(all(g["identical"] for g in grown))
    figures["growth_over_full_processor"] = [g["ratio_processor"] for g in grown]
    return figures


def bare_products(own: ShardVectors, n: int, dim: int, device: str) -> dict:
    """Seconds that the products alone of one signal would take, from a few tiles: as mined (int8 or float32) and in float32."""
    where = device_of(device)
    side = min(tile_rows(MineSettings().tile, where), n)
    report = {}
    for name, int8 in (("as_mined", None), ("float32", False)):
        part = own.vectors[SIGNALS[0]][:side]
        block = Matrix(part, own.ids[:side], SIGNALS[0], side, where, int8).blocks[0]

        def product(block=block) -> None:
            torch._int_mm(block.rows, block.columns) if block.rows.dtype == torch.int8 else block.rows @ block.columns
            if where.type == "cuda":
                torch.cuda.synchronize()

        product()
        one = statistics.median(timed(product)[0] for _ in range(7))
        report[f"{name}_s"] = round(one * n * n / 2 / side**2, 2)
    return report


def growth(n: int, dim: int, k: int, signals: int, device: str) -> dict:
    """A tenth more images: the new shard's comparisons, and the merge, against mining and merging all again."""
    everything = corpus(n + n // 10, dim, signals)
    settings = MineSettings(k=k, signals=SIGNALS[:signals], device=device)
    old, new = (
        ShardVectors(f"shard-0000{at}", everything.ids[part], {s: v[part] for s, v in everything.vectors.items()})
        for at, part in enumerate((slice(n), slice(n, None)))
    )
    base = candidates(old, [], settings, BANDS)
    grown_s, grown_cpu, added = timed(lambda: candidates(new, [old], settings, BANDS))
    full_s, full_cpu, full = timed(lambda: candidates(everything, [], settings, BANDS))
    merges = []
    for _ in range(4):  # the first of each pays for memory that is new to the process
        merge_grown_s, merge_grown_cpu, grown = timed(lambda: neighbours([base, added], k))
        merge_full_s, merge_full_cpu, whole = timed(lambda: neighbours([full], k))
        assert grown.equals(whole), "a grown corpus differs from a fresh one"
        merges.append((merge_grown_s, merge_full_s, merge_grown_cpu, merge_full_cpu))
    first, *later = merges
    merge = [statistics.median(column) for column in zip(*later, strict=True)]
    return {
        "rows": n,
        "added": n // 10,
        "identical": True,
        "growth_s": round(grown_s, 2),
        "full_s": round(full_s, 2),
        "ratio_wall": round(grown_s / full_s, 3),
        "ratio_processor": round(grown_cpu / full_cpu, 3),
        "edges": [base.num_rows, added.num_rows, full.num_rows],
        "merge_s": [round(x, 2) for x in merge[:2]],
        "first_merge_s": [round(x, 2) for x in first[:2]],
        "with_merge_wall": round((grown_s + merge[0]) / (full_s + merge[1]), 3),
        "with_merge_processor": round((grown_cpu + merge[2]) / (full_cpu + merge[3]), 3),
        "target": 0.25,
    }


def streamed(
    n: int, dim: int, k: int, shard: int, device: str, folder: Path, write: bool = False
) -> Iterator[tuple[int, int, float, float]]:
    """Mine a corpus by shards, whose vectors are made once and lie in ``folder``; yields rows done, edges found, and the wall and
    processor seconds that went on making vectors so far. ``write``: the tables too, there."""
    settings = MineSettings(k=k, signals=SIGNALS[:1], device=device)
    kinds, making, making_cpu = max(1, n // CLUSTER), 0.0, 0.0

    def made(at: int) -> ShardVectors:
        nonlocal making, making_cpu
        count, file = min(shard, n - at * shard), folder / f"{at}.npy"
        if not file.exists():
            wall, processor, _ = timed(lambda: np.save(file, vectors(count, dim, 1000 + at, kinds)))
            making, making_cpu = making + wall, making_cpu + processor
        ids = [f"{at:016x}{i:016x}" for i in range(count)]
        return ShardVectors(f"shard-{at:05d}", ids, {SIGNALS[0]: np.load(file)})

    edges = 0
    for at in range(-(-n // shard)):
        writer = None
        for table in candidate_tables(made(at), map(made, range(at)), settings, BANDS):
            edges += table.num_rows
            if write:
                writer = writer or pq.ParquetWriter(folder / f"shard-{at:05d}.parquet", table.schema, compression="zstd")
                writer.write_table(table)
        if writer:
            writer.close()
        yield min(n, (at + 1) * shard), edges, making, making_cpu


def peak_memory(n: int, dim: int, k: int, shard: int) -> int:
    """Bytes of resident memory beyond the start, of a run of its own."""
    code = (
        "import sys, tempfile; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import neighbours as b\n"
        "def peak():\n"
        "    return next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) * 1024\n"
        "n, dim, k, shard = map(int, sys.argv[2:])\n"
        "b.torch.set_num_threads(2)\n"
        "start = peak()\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    for _ in b.streamed(n, dim, k, shard, 'auto', Path(folder), True): pass\n"
        "print(peak() - start)\n"
    )
    arguments = [str(Path(__file__).parent), *map(str, (n, dim, k, shard))]
    return int(subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True).stdout)


def main(
    n: Annotated[int, typer.Option(help="rows per signal")] = 50_000,
    dim: Annotated[int, typer.Option(help="width of a vector")] = 512,
    k: Annotated[int, typer.Option(help="neighbours kept in the band")] = 100,
    signals: Annotated[int, typer.Option(min=1, max=3)] = 3,
    only: Annotated[bool, typer.Option("--only", help="all signals in one pass, without the run of one signal alone")] = False,
    peer: Annotated[bool, typer.Option(help="compare with faiss")] = True,
    growth_: Annotated[bool, typer.Option("--growth", help="a tenth more images against mining all again")] = False,
    memory: Annotated[bool, typer.Option(help="peak memory at n and at 4 n")] = False,
    million: Annotated[bool, typer.Option(help="1,000,000 rows, one signal, in shards")] = False,
    shard: Annotated[int, typer.Option(help="rows per shard where the corpus is streamed")] = 25_000,
    rounds: Annotated[int, typer.Option(help="alternating runs of ours and the peer")] = 3,
    threads: Annotated[int, typer.Option(help="processor threads of both")] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda, for ours")] = "cpu",
) -> None:
    """Measure and print one JSON object per question."""
    torch.set_num_threads(threads)
    if million:
        start, processor = time.perf_counter(), time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            for done, edges, making, making_cpu in streamed(1_000_000, dim, k, shard, device, Path(folder)):
                seconds, cpu = time.perf_counter() - start - making, time.process_time() - processor - making_cpu
                so_far = {"rows": done, "edges": edges, "seconds": round(seconds, 1), "processor_s": round(cpu, 1)}
                print(json.dumps(so_far | {"projected_s": round(seconds * (1_000_000 / done) ** 2, 1)}), flush=True)
        print(json.dumps({"million": {"seconds": round(seconds, 1), "rows_per_s": round(1_000_000 / seconds, 1)}}))
        return
    if memory:
        small, large = (peak_memory(m, dim, k, shard) for m in (n, 4 * n))
        print(
            json.dumps(
                {
                    "memory": {
                        "rows": [n, 4 * n],
                        "peak_mb": [small >> 20, large >> 20],
                        "ratio": round(large / small, 3),
                        "target": 1.2,
                    }
                }
            )
        )
        return
    if growth_:
        print(json.dumps({"growth": growth(n, dim, k, signals, device)}))
    if peer:
        print(json.dumps(against_faiss(n, dim, k, signals, rounds, threads, device, signals if only else None), indent=1))
    elif not growth_:
        print(json.dumps({"alone": without_peer(n, dim, k, signals, rounds, device)}))


if __name__ == "__main__":
    typer.run(main)
