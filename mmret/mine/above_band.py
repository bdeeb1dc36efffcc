"""Tells which of two images are near-duplicates by what the candidates list above the band, instead of by their vectors.

A pair of images was compared in one file of candidates, that of the later shard, and for each of the two the file has the best
``k`` above the band. So a pair that it does not list is none, unless both lists are full. Only such a pair, and one of a file that
does not prove what it was computed from, is scored by its vectors. What lies above the band is little of the file, and each shard
needs that of all: it is kept apart, ``above_band/<shard>.parquet``, where it can be deleted at any time.

Cost: the edges above the band of the whole lake, some microseconds each; memory those between the images named.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmret.lake import Facts, Lake
from mmret.lake.inputs import read_inputs
from mmret.mine.lake_scores import KnownScores, LakeScores, NumberedImages, score_columns
from mmret.mine.lake_vectors import at_once
from mmret.schemas import SIGNALS

FOLDER = "above_band"
_DIGEST = b"candidates"
"""Key in a file's metadata: the digest of the candidates whose edges it has."""
_COLUMNS = ["query_id", "signal", "target_id", "score"]


def keep_above_band(lake: Lake, shard: str, candidates: pa.Table, digest: str) -> pa.Table:
    """Store the edges above the band of ``candidates``, whose digest is ``digest``, and return them."""
    edges = candidates.filter(candidates["above_band"]).select(_COLUMNS)
    with lake.storage.replacing(_key(shard)) as aside:
        pq.write_table(edges.replace_schema_metadata({_DIGEST: digest.encode()}), aside, compression="zstd")
    return edges


def above_band(lake: Lake, shard: str, digest: str) -> pa.Table:
    """The edges above the band of the candidates of ``shard``, columns query_id, signal, target_id, score; read from the candidates
    where what is kept is not that of ``digest``."""
    try:
        with lake.storage.open(_key(shard)) as opened, pq.ParquetFile(opened) as file:
            if (file.schema_arrow.metadata or {}).get(_DIGEST) == digest.encode():
                return file.read(_COLUMNS).replace_schema_metadata(None)
    except (FileNotFoundError, pa.ArrowInvalid):
        pass
    except OSError as error:
        if error.errno is not None or isinstance(error, ConnectionError):
            raise  # the system's or the network's, not the file's
    return keep_above_band(lake, shard, lake.read("candidates", shard, filters=pc.field("above_band")), digest)


def _key(shard: str) -> str:
    return f"{FOLDER}/{shard}.parquet"


def proven(lake: Lake, shard: str, vectors: Mapping[str, Mapping[str, Facts]], k: int) -> dict[str, str]:
    """The shards whose candidates are exact and prove to be computed like those of ``shard``, with lists of ``k``, from the vectors
    of which ``vectors`` is recorded, by signal and shard; with the candidates' digests."""
    own = lake.facts("candidates", shard)
    like = read_inputs(lake, own.inputs) if own else None
    if like is None or like["settings"].get("k") != k or not own.notes["bands"]:
        return {}
    now = {signal: {s: [facts.digest, facts.rows] for s, facts in vectors[signal].items()} for signal in own.notes["bands"]}
    shards = sorted(set.intersection(*(set(of_signal) for of_signal in now.values())))

    def digest(other: str) -> str | None:
        facts = lake.facts("candidates", other)
        if facts is None or "index" in facts.notes or facts.notes.get("bands") != own.notes["bands"]:
            return None
        made = read_inputs(lake, facts.inputs)
        if made is None or any(made[part] != like[part] for part in ("version", "settings")):
            return None
        read = made["upstream"]
        compared = all(read.get(signal, {}).get(s) == now[signal][s] for signal in now for s in shards if s <= other)
        return facts.digest if compared else None

    return {s: found for s, found in zip(shards, at_once(lake, digest, shards), strict=True) if found is not None}


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
        self._files = len(names)
        asked = [(place, name) for place, name in enumerate(names) if name in files]
        listed = at_once(lake, lambda file: self._listed(above_band(lake, file[1], files[file[1]]), file[0], k), asked)
        none = np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64)
        joined = {signal: [np.concatenate(c) for c in zip(none, *(of[signal] for of in listed), strict=True)] for signal in bands}
        self._known = {signal: KnownScores(keys, scores) for signal, (keys, scores, _) in joined.items()}
        self._full = {signal: np.sort(full) for signal, (*_, full) in joined.items()}

    def _listed(self, rows: pa.Table, place: int, k: int) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """What the file at ``place`` lists of the images, by signal: keys of pairs, their scores, and the lists that are full."""
        signals = pc.index_in(rows["signal"], value_set=pa.array(SIGNALS)).to_numpy()
        one, other = (self.images.numbers(rows[side]) for side in ("query_id", "target_id"))
        keys, scores, found = self.images.keys(one, other), rows["score"].to_numpy(), {}
        for signal in self.signals:
            of_signal = signals == SIGNALS.index(signal)
            between = of_signal & (keys >= 0)
            queries, counts = np.unique(one[of_signal & (one >= 0)], return_counts=True)
            found[signal] = keys[between], scores[between], queries[counts >= k] * self._files + place
        return found

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
