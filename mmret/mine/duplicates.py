"""Groups near-duplicates: pictures that models of pictures place above their bands, together with whatever lies between them.

Pictures are numbered in the order in which they were sealed. The edges come a file at a time and are merged into a forest at once,
so memory is the ids, 13 bytes a picture and one file's edges. A group is called after the oldest of its pictures, so that it keeps
its name when the corpus grows. Cost: some microseconds an edge.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
import pyarrow as pa
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from mmret.schemas import DUPLICATES, SIGNALS
from mmret.settings import DuplicateSettings


def duplicate_groups(images: pa.Table, files: Iterable[pa.Table], settings: DuplicateSettings) -> pa.Table:
    """Table ``DUPLICATES`` of the pictures that have a near-duplicate, in the order of ``images`` (image_id, shard), oldest first.

    ``files``: tables (query_id, target_id, signal, score) of edges above the band, each in any order; an edge that lies in two of
    them counts once, and one with a picture that is not among ``images`` does not.

    >>> duplicate_groups(lake.read("images", columns=["image_id", "shard"]), edges, profile.duplicates)["group_id"]
    """
    numbers = pl.DataFrame({"image_id": pl.from_arrow(images["image_id"])}).with_row_index("number")
    groups = _Groups(len(images))
    for rows in files:
        groups.add(_edges(rows, numbers, settings))
    return groups.table(images)


def _edges(rows: pa.Table, numbers: pl.DataFrame, settings: DuplicateSettings) -> pl.DataFrame:
    """``one``, ``other``: numbers of two pictures; ``signals``: their bits; ``score``: the highest cosine. Each pair once."""
    bits = pl.DataFrame({"signal": SIGNALS, "bit": [1 << at for at in range(len(SIGNALS))]}, schema_overrides={"bit": pl.UInt8})
    found = pl.from_arrow(rows.select(["query_id", "target_id", "signal", "score"])).filter(
        pl.col("signal").is_in(settings.signals)
    )
    for side in ("query_id", "target_id"):
        found = found.join(numbers.rename({"image_id": side, "number": f"n_{side}"}), on=side, how="inner")
    return (
        found.join(bits, on="signal")
        .with_columns(one=pl.min_horizontal("n_query_id", "n_target_id"), other=pl.max_horizontal("n_query_id", "n_target_id"))
        .filter(pl.col("one") != pl.col("other"))
        .group_by("one", "other", "bit")
        .agg(pl.col("score").max())
        .group_by("one", "other")
        .agg(signals=pl.col("bit").sum(), agreeing=pl.len(), score=pl.col("score").max())
        .filter(pl.col("agreeing") >= settings.agree)
        .sort("one", "other")
    )


class _Groups:
    """A forest over ``n`` pictures whose roots are the oldest of their trees, and each picture's nearest near-duplicate."""

    def __init__(self, n: int):
        self._above = np.arange(n, dtype=np.int32)
        self._nearest = np.full(n, -1, np.int32)
        self._score = np.full(n, -np.inf, np.float32)
        self._signals = np.zeros(n, np.uint8)

    def add(self, edges: pl.DataFrame) -> None:
        """Merge the trees that ``edges`` connect."""
        if not edges.height:
            return
        one, other = (edges[side].to_numpy().astype(np.int32) for side in ("one", "other"))
        roots, places = np.unique(np.concatenate([self._roots(one), self._roots(other)]), return_inverse=True)
        ends = np.split(places, 2)
        _, labels = connected_components(
            coo_matrix((np.ones(len(one), bool), ends), shape=(len(roots), len(roots))), directed=False
        )
        oldest = np.full(labels.max() + 1, len(self._above), np.int32)
        np.minimum.at(oldest, labels, roots)
        self._above[roots] = oldest[labels]
        score, signals = edges["score"].to_numpy(), edges["signals"].to_numpy()
        self._note(np.concatenate([one, other]), np.concatenate([other, one]), np.tile(score, 2), np.tile(signals, 2))

    def _note(self, pictures: np.ndarray, others: np.ndarray, score: np.ndarray, signals: np.ndarray) -> None:
        np.bitwise_or.at(self._signals, pictures, signals.astype(np.uint8))
        by = np.lexsort((others, -score, pictures))  # the nearest first, of equals the oldest
        first = by[np.unique(pictures[by], return_index=True)[1]]
        at, near = pictures[first], others[first]
        better = (score[first] > self._score[at]) | ((score[first] == self._score[at]) & (near < self._nearest[at]))
        self._score[at[better]], self._nearest[at[better]] = score[first][better], near[better]

    def _roots(self, pictures: np.ndarray) -> np.ndarray:
        found = self._above[pictures]
        while (self._above[found] != found).any():
            found = self._above[found]
        self._above[pictures] = found
        return found

    def table(self, images: pa.Table) -> pa.Table:
        members = np.flatnonzero(self._nearest >= 0)
        groups = self._roots(members.astype(np.int32))
        ids, shards = images["image_id"].combine_chunks(), images["shard"].combine_chunks()
        sets = pa.array(
            [[s for at, s in enumerate(SIGNALS) if bit >> at & 1] for bit in range(1 << len(SIGNALS))], pa.list_(pa.string())
        )
        _, places, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        return pa.table(
            {
                "image_id": ids.take(pa.array(members)),
                "shard": shards.take(pa.array(members)),
                "group_id": ids.take(pa.array(groups)),
                "pictures": pa.array(sizes[places], pa.int32()),
                "first": pa.array(groups == members),
                "nearest_id": ids.take(pa.array(self._nearest[members])),
                "score": pa.array(self._score[members], pa.float32()),
                "signals": sets.take(pa.array(self._signals[members])),
            },
            schema=DUPLICATES,
        )
