"""Small vector sets that contain what breaks miners: duplicates, exact ties, clusters, images without any neighbour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from mmret.mine.candidates import ShardVectors, candidates
from mmret.mine.merge import neighbours
from mmret.schemas import SIGNALS
from mmret.settings import BandSettings, MineSettings

BAND = BandSettings(low=0.55, high=0.93)
BANDS = dict.fromkeys(SIGNALS, BAND)


def clustered(count: int, width: int, seed: int, clusters: int = 6, spread: float = 1.2, repeats: float = 0.2) -> np.ndarray:
    """(count, width) float16 unit vectors around ``clusters`` centres; a share ``repeats`` are copies of others."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, width))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    noise = rng.standard_normal((count, width)) / width**0.5
    vectors = centres[rng.integers(clusters, size=count)] + rng.uniform(0, spread, (count, 1)) * noise
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    copies = rng.random(count) < repeats
    vectors[copies] = vectors[rng.integers(count, size=copies.sum())]
    return vectors


def image_ids(count: int, seed: int = 0) -> list[str]:
    """Ids in an order that has nothing to do with their alphabet."""
    return [f"{value:08x}" for value in np.random.default_rng(seed).permutation(count * 7)[:count]]


def shards(ids: Sequence[str], vectors: Mapping[str, np.ndarray], cuts: Sequence[int] = ()) -> list[ShardVectors]:
    """The corpus cut at ``cuts`` into shards, in order."""
    ends = [0, *sorted(cuts), len(ids)]
    return [
        ShardVectors(f"shard-{at:05d}", list(ids[a:b]), {s: v[a:b] for s, v in vectors.items()})
        for at, (a, b) in enumerate(zip(ends[:-1], ends[1:], strict=True))
    ]


def mined(parts: Sequence[ShardVectors], settings: MineSettings, bands: Mapping[str, BandSettings] = BANDS) -> pa.Table:
    """Neighbours of all images: every shard against itself and the earlier ones, then merged."""
    return neighbours([candidates(shard, parts[:at], settings, bands) for at, shard in enumerate(parts)], settings.k)


def brute_force(
    ids: Sequence[str], vectors: Mapping[str, np.ndarray], k: int, bands: Mapping[str, BandSettings] = BANDS
) -> list[tuple]:
    """What mining must find, by the definition: rows (query, signal, target, score, rank, above_band)."""
    rows = []
    for signal, matrix in vectors.items():
        wide = matrix.astype(np.float64)
        scores = (wide @ wide.T).astype(np.float32)
        low, high = np.float32(bands[signal].low), np.float32(bands[signal].high)
        for at, query in enumerate(ids):
            found = sorted((-scores[at, i], target) for i, target in enumerate(ids) if i != at and scores[at, i] > low)
            for above in (False, True):
                cut = [(target, -score) for score, target in found if (-score >= high) == above][:k]
                rows += [(query, SIGNALS.index(signal), above, rank, t, s) for rank, (t, s) in enumerate(cut)]
    return [
        (query, SIGNALS[signal], target, float(score), None if above else rank, above)
        for query, signal, above, rank, target, score in sorted(rows)
    ]


def rows_of(table: pa.Table) -> list[tuple]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
