"""Mining on the device: a million rows in shards, five million from some pairs of shards, beside the bare products of their shapes.

Equality first: with brute force and with what a CPU finds, to the last bit. Vectors are those of :func:`bench.neighbours.vectors`
in distribution, drawn on the device, where five million are a matter of seconds. What a pair of shards costs is measured for each
size of tile; the million takes the best. Where time goes is a profile of the functions of mmret/mine, whose share includes
waiting for the device.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.gpu.machine import card_now
from bench.gpu.sheet import Sheet
from mmret.mine.candidates import ShardVectors, candidate_tables
from mmret.mine.operands import Matrix
from mmret.schemas import SIGNALS
from mmret.settings import BandSettings, MineSettings
from tests.mine.corpora import brute_force, mined, rows_of, shards

SIGNAL = SIGNALS[0]
BANDS = dict.fromkeys(SIGNALS, BandSettings())  # the paper's, 0.8 to 0.96
CLUSTER = 120
"""Images of a kind, of which some 70 lie in each other's band, as in bench/neighbours.py."""


@dataclass(frozen=True)
class Size:
    width: int
    shard: int
    million: int
    five_million: int
    equal: int
    tiles: tuple[int, ...]
    gemm: tuple[int, ...]


REAL = Size(768, 100_000, 1_000_000, 5_000_000, 20_000, (4096, 8192, 16_384, 32_768), (4096, 16_384))
SMALL = Size(64, 300, 900, 1500, 400, (64, 128), (128, 256))


def run(sheet: Sheet) -> None:
    size = SMALL if sheet.small else REAL
    sheet.ask("mining.equal_brute_force", lambda _: equal_brute_force(sheet, size))
    sheet.ask("mining.equal_cpu", lambda _: equal_cpu(sheet, size))
    bare = sheet.ask("mining.gemm", lambda _: bare_products(sheet, size)) or {}
    best = sheet.ask("mining.tile", lambda _: tiles(sheet, size, bare), needs=5.0) or size.tiles[0]
    sheet.ask("mining.where", lambda tile: where_time_goes(sheet, size, tile), [best, size.tiles[0]], needs=5.0)
    sheet.ask("mining.million", lambda tile: million(sheet, size, tile, bare), [best, size.tiles[0]], needs=10.0)
    sheet.ask("mining.five_million", lambda tile: five_million(sheet, size, tile, bare), [best, size.tiles[0]], needs=10.0)


def vectors(rows: int, width: int, seed: int, kinds: int, device: torch.device) -> np.ndarray:
    """(rows, width) float16 unit vectors; the same ``kinds`` for every ``seed``, a fiftieth near-duplicates of others."""
    own, shared = (torch.Generator(device).manual_seed(s) for s in (seed, 7))
    centres = torch.nn.functional.normalize(torch.randn(kinds, width, generator=shared, device=device))
    made = torch.randn(rows, width, generator=own, device=device) / width**0.5
    made *= 0.2 + 0.5 * torch.rand(rows, 1, generator=own, device=device)
    made += centres[torch.randint(kinds, (rows,), generator=own, device=device)]
    copies, copied = torch.randperm(rows, generator=own, device=device)[: rows // 50 * 2].view(2, -1)
    noise = torch.randn(len(copies), width, generator=own, device=device)
    made[copies] = made[copied] + 0.15 * noise / width**0.5
    return torch.nn.functional.normalize(made).half().cpu().numpy()


def shard(at: int, rows: int, width: int, kinds: int, device: torch.device) -> ShardVectors:
    ids = [f"{at:016x}{i:016x}" for i in range(rows)]
    return ShardVectors(f"shard-{at:05d}", ids, {SIGNAL: vectors(rows, width, 1000 + at, kinds, device)})


def settings(sheet: Sheet, tile: int) -> MineSettings:
    return MineSettings(signals=(SIGNAL,), tile=tile, device=str(sheet.device))


def equal_brute_force(sheet: Sheet, size: Size) -> None:
    few = vectors(min(600, size.equal), size.width, 1, 5, sheet.device)
    ids = [f"{i:08x}" for i in np.random.default_rng(0).permutation(len(few))]
    expected = brute_force(ids, {SIGNAL: few}, 50, BANDS)
    for tile in (64, size.tiles[-1]):
        found = mined(shards(ids, {SIGNAL: few}, [len(few) // 3]), settings(sheet, tile), BANDS)
        assert rows_of(found) == expected, f"tile {tile}: {len(found)} neighbours, by brute force {len(expected)}, or others"
    sheet.row("mining.equal_brute_force", len(expected), "neighbours", f"of {len(few)} rows", "equal to the last bit, float64 sums")


def equal_cpu(sheet: Sheet, size: Size) -> None:
    parts = [shard(at, size.equal // 2, size.width, size.equal // CLUSTER, sheet.device) for at in range(2)]
    here, there = (
        list(candidate_tables(parts[1], parts[:1], MineSettings(signals=(SIGNAL,), tile=tile, device=device), BANDS))
        for tile, device in ((size.tiles[0], str(sheet.device)), (64 if sheet.small else 2048, "cpu"))
    )
    assert len(here) == len(there) and all(a.equals(b) for a, b in zip(here, there, strict=True)), "the CPU finds others"
    sheet.row("mining.equal_cpu", sum(map(len, here)), "candidates", f"of {size.equal} rows", "tables equal to the last bit")


def bare_products(sheet: Sheet, size: Size) -> dict[str, float]:
    """Seconds a comparison of the bare product, by kind and side: of the very operands that are mined, and of bfloat16."""
    found = {}
    for side in size.gemm:
        block = Matrix(vectors(side, size.width, 3, side, sheet.device), [str(i) for i in range(side)], SIGNAL, side, sheet.device)
        one = block.blocks[0]
        wide = one.vectors.bfloat16()
        kind = "int8" if one.rows.dtype == torch.int8 else "float32"
        products = {
            kind: lambda one=one: torch._int_mm(one.rows, one.columns) if one.rows.dtype == torch.int8 else one.rows @ one.columns,
            "bf16": lambda wide=wide: wide @ wide.T,
        }
        for name, product in products.items():
            spent = sheet.short(product)
            found[f"{'int8' if name == kind else name}_{side}"] = spent / side**2
            key = f"mining.gemm_{'int8' if name == kind else name}_{'tile' if side == size.gemm[0] else 'large'}"
            note = card_now() if side == size.gemm[-1] else ""
            sheet.row(key, 2 * side**2 * size.width / spent / 1e12, "TOP/s", f"{name}, {side} x {size.width} x {side}", note)
    return found


def share(bare: dict[str, float], comparisons: float, seconds: float) -> str:
    """Of the time that the fastest bare product of each kind would take for as many comparisons."""
    best = {kind: min((v for k, v in bare.items() if k.startswith(kind)), default=None) for kind in ("int8", "bf16")}
    return ", ".join(f"{v * comparisons / seconds:.3f} of bare {kind}" for kind, v in best.items() if v) or "bare product unknown"


def tiles(sheet: Sheet, size: Size, bare: dict[str, float]) -> int:
    """A shard against itself and another, in each size of tile; returns the quickest."""
    kinds = size.million // CLUSTER
    parts = [shard(at, size.shard, size.width, kinds, sheet.device) for at in range(2)]
    comparisons, first, times = 1.5 * size.shard**2, None, {}
    for tile in size.tiles:
        if times and sheet.left < 3 * max(times.values()):
            break
        try:
            if not times:
                list(candidate_tables(parts[1], parts[:1], settings(sheet, tile), BANDS))  # kernels are loaded
            started = time.perf_counter()
            tables = list(candidate_tables(parts[1], parts[:1], settings(sheet, tile), BANDS))
            times[tile] = time.perf_counter() - started
        except torch.OutOfMemoryError as error:
            sheet.say(f"tile {tile} does not fit: {error}")
            break
        first = first or tables
        assert all(a.equals(b) for a, b in zip(first, tables, strict=True)), f"tile {tile} finds other candidates"
        at = f"mining.tile_{REAL.tiles[size.tiles.index(tile)]}"
        sheet.row(at, times[tile], "s", share(bare, comparisons, times[tile]), f"{size.shard} rows against themselves and as many")
    return min(times, key=times.__getitem__)


def where_time_goes(sheet: Sheet, size: Size, tile: int) -> None:
    kinds = size.million // CLUSTER
    parts = [shard(at, size.shard, size.width, kinds, sheet.device) for at in range(2)]
    profile = cProfile.Profile()
    started = time.perf_counter()
    profile.runcall(lambda: list(candidate_tables(parts[1], parts[:1], settings(sheet, tile), BANDS)))
    whole = time.perf_counter() - started
    shares = cumulative_shares(profile, whole)
    said = ", ".join(f"{name} {part:.0%}" for name, part in shares.items())
    sheet.row("mining.where", whole, "s", said, f"profiled, tile {tile}; a function's share has that of what it calls")


def cumulative_shares(profile: cProfile.Profile, whole: float) -> dict[str, float]:
    """Functions of mmret/mine that took two percent or more, the largest first."""
    mine = str(Path("mmret") / "mine")
    found: dict[str, float] = {}
    for (file, _, name), (*_, cumulative, _) in pstats.Stats(profile).stats.items():
        if mine in file and cumulative > 0.02 * whole:
            found[f"{Path(file).stem}.{name}"] = max(found.get(f"{Path(file).stem}.{name}", 0.0), cumulative / whole)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def million(sheet: Sheet, size: Size, tile: int, bare: dict[str, float]) -> None:
    """All shards, each against itself and the earlier ones, until the time is up; what is left is put in by comparisons."""
    count, kinds = size.million // size.shard, size.million // CLUSTER
    until = sheet.left * 0.65
    parts = [shard(at, size.shard, size.width, kinds, sheet.device) for at in range(count)]
    edges = done = 0
    started = time.perf_counter()
    for new in range(count):
        edges += sum(map(len, candidate_tables(parts[new], parts[:new], settings(sheet, tile), BANDS)))
        done, spent = new + 1, time.perf_counter() - started
        if spent * (1 + 2 * done) / done**2 + spent > until and done < count:
            break
    compared = (done * size.shard) ** 2 / 2
    whole = spent * (count / done) ** 2
    note = f"{edges / (done * size.shard):.0f} candidates a row, tile {tile}, {count} shards"
    if done < count:
        note += f"; measured {spent:.1f} s of the first {done} shards, the rest put in by comparisons"
    sheet.row("mining.million", whole, "s", share(bare, compared, spent), note)
    sheet.row("mining.million_rows", size.million / whole, "rows/s", "1,943 on two CPU cores at 512 dimensions", note)


def five_million(sheet: Sheet, size: Size, tile: int, bare: dict[str, float]) -> None:
    """A newest shard against itself and some earlier ones; the whole by arithmetic."""
    count, kinds = size.five_million // size.shard, size.five_million // CLUSTER
    new = shard(count - 1, size.shard, size.width, kinds, sheet.device)
    until = time.time() + 0.8 * sheet.left
    within = sheet.median(lambda: list(candidate_tables(new, [], settings(sheet, tile), BANDS)), rounds=1)
    times: list[float] = []

    def earlier() -> Any:
        for at in range(min(count - 1, 12)):
            if times and time.time() + 2 * times[-1] > until:
                return
            yield shard(at, size.shard, size.width, kinds, sheet.device)

    # a shard is drawn while the clock stands: the generator is asked for it behind the table of the one before
    tables = candidate_tables(new, timed_between(earlier(), times, sheet), settings(sheet, tile), BANDS)
    for _ in tables:
        pass
    between = statistics.median(times[1:] or times)
    pairs = count * (count - 1) // 2
    whole = count * within + pairs * between
    note = f"from {len(times)} of {pairs} pairs of shards ({between:.2f} s each, {within:.2f} s a shard with itself), by arithmetic"
    sheet.row("mining.five_million", whole, "s", share(bare, size.five_million**2 / 2, whole), f"{note}; tile {tile}")


def timed_between(parts: Any, times: list[float], sheet: Sheet) -> Any:
    """``parts``; ``times`` gets the seconds from the moment each is handed out until the next one is asked for."""
    for part in parts:
        sheet.wait()
        started = time.perf_counter()
        yield part
        sheet.wait()
        times.append(time.perf_counter() - started)
