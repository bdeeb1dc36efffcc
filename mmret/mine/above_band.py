"""Tells which of two images are near-duplicates by what the candidates list above the band, instead of by their vectors.

A pair of images was compared in one file of candidates, that of the later shard, and for each of the two the file has the best
``k`` above the band. So a pair that it does not list is none, unless both lists are full. Only such a pair, and one of a file that
does not prove what it was computed from, is scored by its vectors. What lies above the band is little of the file, and each shard
needs that of all: it is kept apart, ``above_band/<shard>.parquet``, where it can be deleted at any time.

Cost: the edges above the band of the whole lake, some microseconds each; memory those between the images named.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmret.atomic import replacing
from mmret.lake import Lake
from mmret.lake.inputs import read_inputs
from mmret.mine.lake_scores import KnownScores, LakeScores, NumberedImages, score_columns
from mmret.schemas import SIGNALS

FOLDER = "above_band"
_DIGEST = b"candidates"
"""Key in a file's metadata: the digest of the candidates whose edges it has."""
_COLUMNS = ["query_id", "signal", "target_id", "score"]


def keep_above_band(lake: Lake, shard: str, candidates: pa.Table, digest: str) -> pa.Table:
    """Store the edges above the band of ``candidates``, whose digest is ``digest``, and return them."""
    edges = candidates.filter(candidates["above_band"]).select(_COLUMNS)
    with replacing(lake.root / FOLDER / f"{shard}.parquet") as aside:
        pq.write_table(edges.replace_schema_metadata({_DIGEST: digest.encode()}), aside, compression="zstd")
    return edges


def above_band(lake: Lake, shard: str, digest: str) -> pa.Table:
    """The edges above the band of the candidates of ``shard``, columns query_id, signal, target_id, score; read from the candidates
    where what is kept is not that of ``digest``."""
    try:
        with pq.ParquetFile(lake.root / FOLDER / f"{shard}.parquet") as file:
            if (file.schema_arrow.metadata or {}).get(_DIGEST) == digest.encode():
                return file.read(_COLUMNS).replace_schema_metadata(None)
    except (FileNotFoundError, pa.ArrowInvalid):
        pass
    return keep_above_band(lake, shard, lake.read("candidates", shard, filters=pc.field("above_band")), digest)


def proven(lake: Lake, shard: str, shards: Sequence[str], k: int) -> dict[str, str]:
    """Those of ``shards`` whose candidates are exact and prove to be computed like those of ``shard``, with lists of ``k``, from
    the vectors of ``shards`` as they are now; with their digests."""
    own = lake.facts("candidates", shard)
    like = read_inputs(lake, own.inputs) if own else None
    if like is None or like["settings"].get("k") != k:
        return {}
    signals = own.notes["bands"]
    vectors = {signal: {s: [f.digest, f.rows] for s in shards if (f := lake.facts(signal, s))} for signal in signals}
    found = {}
    for other in shards:
        facts = lake.facts("candidates", other)
        if facts is None or "index" in facts.notes or facts.notes.get("bands") != own.notes["bands"]:
            continue
        made = read_inputs(lake, facts.inputs)
        if made is None or any(made[part] != like[part] for part in ("version", "settings")):
            continue
        compared = [s for s in shards if s <= other]
        read = made["upstream"]
        if all(s in vectors[g] and read.get(g, {}).get(s) == vectors[g][s] for g in signals for s in compared):
            found[other] = facts.digest
    return found


class NearDuplicates:
    """Function from a table (query_id, target_id) of ``images`` to columns ``SCORES`` that are exact wherever they reach the upper
    end of the band of one of the signals ``bands``, and anything lower or null where they do not.

    ``files``: digests of candidates that may be asked, by shard (:func:`proven`); ``k`` what their lists were cut to; ``score`` has
    the scores that no file decides.
    """

    def __init__(
        self, lake: Lake, images: NumberedImages, files: Mapping[str, str], bands: Collection[str], k: int, score: LakeScores
    ):
        self.images, self.score, self.signals = images, score, tuple(bands)
        names, self._shards = np.unique(np.asarray(images.shards.to_pylist(), object), return_inverse=True)
        self._proven = np.array([name in files for name in names], bool)
        edges: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {signal: [] for signal in bands}
        full: dict[str, list[np.ndarray]] = {signal: [] for signal in bands}
        self._files = len(names)
        for place, name in enumerate(names):
            if name not in files:
                continue
            rows = above_band(lake, name, files[name])
            signals = pc.index_in(rows["signal"], value_set=pa.array(SIGNALS)).to_numpy()
            one, other = (images.numbers(rows[side]) for side in ("query_id", "target_id"))
            keys, scores = images.keys(one, other), rows["score"].to_numpy()
            for signal in bands:
                of_signal = signals == SIGNALS.index(signal)
                between = of_signal & (keys >= 0)
                edges[signal].append((keys[between], scores[between]))
                queries, counts = np.unique(one[of_signal & (one >= 0)], return_counts=True)
                full[signal].append(queries[counts >= k] * self._files + place)
        none = (np.zeros(0, np.int64), np.zeros(0, np.float32))
        self._known = {s: KnownScores(*map(np.concatenate, zip(none, *parts, strict=True))) for s, parts in edges.items()}
        self._full = {s: np.sort(np.concatenate([none[0], *parts])) for s, parts in full.items()}

    def __call__(self, pairs: pa.Table) -> pa.Table:
        one, other = self.images.sides(pairs)
        file = np.maximum(self._shards[one], self._shards[other])
        keys, values = self.images.keys(one, other), {}
        for signal in self.signals:
            listed = self._known[signal].of(keys)
            full = [np.isin(side * self._files + file, self._full[signal]) for side in (one, other)]
            undecided = np.flatnonzero(np.isnan(listed) & (~self._proven[file] | (full[0] & full[1])))
            listed[undecided] = self.score.of(signal, one[undecided], other[undecided])
            values[signal] = listed
        return score_columns(values)
