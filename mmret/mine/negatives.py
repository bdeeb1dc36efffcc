"""Draws hard negatives of chosen pairs, none of which is a near-duplicate of its target.

Why it needs vectors: the neighbour lists say what is near a query, not how near two of its neighbours are to each other. Those
two may lie in different shards, so their cosine is computed here, exactly, but only for the candidates that are drawn.

Cost: for each pair twice as many cosines as it gets negatives, in one pass over the shards' vectors; another pass only where
more than half of the candidates drawn for some pair were near-duplicates of its target. On a lake nearly none: there the lists of
candidates say which images are near-duplicates (:mod:`mmret.mine.above_band`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.hashing import hash64, pair_draws
from mmret.mine.images import Images
from mmret.mine.ordering import arrange, place_in_group
from mmret.mine.scores import SCORES
from mmret.mine.toplists import band_limits
from mmret.schemas import NEIGHBOURS, SIGNALS
from mmret.settings import BandSettings, MineSettings

Score = Callable[[pa.Table], pa.Table]
"""Function from a table (query_id, target_id) to its columns ``SCORES``, row by row; null where a signal has no vectors."""

SPARE = 2  # candidates drawn for each negative in the first round
_MORE = 4  # times as many in each further round


@dataclass(frozen=True)
class ChosenPairs:
    """Chosen pairs of some queries, and the images each of these queries may have as negatives.

    Images are numbers (:class:`mmret.mine.images.Images`): ``queries``, ``targets`` (n,) and ``pool_queries``, ``pool`` (m,)
    int64, both sorted by query.
    """

    queries: np.ndarray
    targets: np.ndarray
    pool_queries: np.ndarray
    pool: np.ndarray


@dataclass(frozen=True)
class Negatives:
    """``negatives``: image numbers, those of the first pair first; ``counts`` (n,): how many each pair has; ``scores`` of the pairs
    themselves, columns ``SCORES``, computed in the same pass over the vectors."""

    negatives: np.ndarray
    counts: np.ndarray
    scores: pa.Table


def hard_negatives(
    parts: Sequence[ChosenPairs],
    images: Images,
    score: Score,
    bands: Mapping[str, BandSettings],
    settings: MineSettings,
    near: Score | None = None,
) -> Negatives:
    """Up to ``settings.hard_negatives`` for every pair of ``parts``, drawn by the hash of (seed, query, target, candidate).

    ``near``: scores for telling near-duplicates, which need be exact only where they reach the upper end of a band; None: those of
    ``score``, asked for together with those of the pairs. The result does not depend on that, nor on how many candidates a round
    draws. Raises ValueError if ``score`` does not return one row for each row.
    """
    queries, targets = (np.concatenate([getattr(part, name) for part in parts]) for name in ("queries", "targets"))
    limit, pairs = settings.hard_negatives, len(queries)
    result, counts = np.full((pairs, limit), -1, np.int64), np.zeros(pairs, np.int64)
    pending, drawn, scores = np.ones(pairs, bool), SPARE * limit, None
    if near is not None:
        drawn, scores = limit, _scores(images, queries, targets, score)
    while scores is None or pending.any():
        pair, candidate = _drawn(parts, pending, drawn, images, settings.seed) if limit else (np.zeros(0, np.int64),) * 2
        asked = [(targets[pair], candidate)] if scores is not None else [(queries, targets), (targets[pair], candidate)]
        answer = _scores(images, *(np.concatenate(side) for side in zip(*asked, strict=True)), near or score)
        if scores is None:
            scores, answer = answer.slice(0, pairs), answer.slice(pairs)
        more = np.bincount(pair, minlength=pairs) == drawn  # whose pool may hold more candidates than were drawn
        clean = ~above_band(answer, bands)
        pair, candidate = pair[clean], candidate[clean]
        place = place_in_group(pair)
        keep = place < limit
        result[pair[keep], place[keep]] = candidate[keep]
        counts[pending] = np.bincount(pair[keep], minlength=pairs)[pending]
        pending = pending & more & (counts < limit)
        drawn *= _MORE
    return Negatives(result[np.arange(limit) < counts[:, None]], counts, scores)


def above_band(scores: pa.Table, bands: Mapping[str, BandSettings]) -> np.ndarray:
    """(n,) bool: the rows of ``scores`` (columns ``SCORES``) that reach the upper end of a band in any signal."""
    above = np.zeros(scores.num_rows, bool)
    for signal, band in bands.items():
        values = pc.fill_null(scores[SCORES[SIGNALS.index(signal)]], -2.0).to_numpy()
        above |= values >= band_limits(band)[1]
    return above


def beyond_full_lists(neighbours: pa.Table, score: Score, bands: Mapping[str, BandSettings], k: int) -> pa.Table:
    """Near-duplicates of queries whose list above the band was too short for them, schema ``NEIGHBOURS``.

    A list ends after ``k`` images, so a query may have more near-duplicates in a signal than its list has, and one of those may
    be in the band of another signal. Only images that ``neighbours`` has for the query are scored, so this costs nothing where no
    list is full.
    """
    sizes = neighbours.filter(neighbours["above_band"]).group_by(["query_id", "signal"]).aggregate([([], "count_all")])
    full = sizes.filter(pc.greater_equal(sizes["count_all"], k))
    unknown = []
    for signal in bands:
        queries = full.filter(pc.equal(full["signal"], signal))["query_id"].combine_chunks()
        rows = neighbours.filter(pc.is_in(neighbours["query_id"], value_set=queries))
        here = rows.filter(pc.equal(rows["signal"], signal)).select(["query_id", "target_id"])
        pairs = rows.group_by(["query_id", "target_id"]).aggregate([])
        pairs = pairs.join(here, ["query_id", "target_id"], join_type="left anti")
        unknown.append(pairs.append_column("signal", pa.repeat(pa.scalar(signal), pairs.num_rows)))
    table = pa.concat_tables(unknown) if unknown else NEIGHBOURS.empty_table()
    if not table.num_rows:
        return NEIGHBOURS.empty_table()
    scores = score(table.select(["query_id", "target_id"]))
    found = []
    for signal, band in bands.items():
        of_signal = pc.equal(table["signal"], signal)
        rows, values = table.filter(of_signal), scores[SCORES[SIGNALS.index(signal)]].filter(of_signal)
        rows = rows.append_column("score", values).append_column("rank", pa.nulls(rows.num_rows, pa.int32()))
        rows = rows.append_column("above_band", pc.fill_null(pc.greater_equal(values, band_limits(band)[1]), False))
        found.append(rows.filter(rows["above_band"]).select(NEIGHBOURS.names).cast(NEIGHBOURS))
    return pa.concat_tables(found)


def _drawn(
    parts: Sequence[ChosenPairs], pending: np.ndarray, count: int, images: Images, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` candidates of each pair that is ``pending``: positions of pairs, ascending, and image numbers."""
    pairs, candidates, offset = [], [], 0
    for part in parts:
        of_part = np.flatnonzero(pending[offset : offset + len(part.queries)])
        pair, candidate = _by_priority(part, of_part, images, seed)
        keep = place_in_group(pair) < count
        pairs.append(pair[keep] + offset)
        candidates.append(candidate[keep])
        offset += len(part.queries)
    return np.concatenate(pairs), np.concatenate(candidates)


def _by_priority(part: ChosenPairs, rows: np.ndarray, images: Images, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """All candidates of the pairs in ``rows`` that are not ruled out by the lists or captions, best priority first."""
    queries, targets = part.queries[rows], part.targets[rows]
    first = np.searchsorted(part.pool_queries, queries)
    sizes = np.searchsorted(part.pool_queries, queries, side="right") - first
    pair = np.repeat(np.arange(len(queries)), sizes)
    candidate = part.pool[np.arange(len(pair)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(first, sizes)]
    allowed = ~(images.same_caption(targets[pair], candidate) | images.near_duplicates(targets[pair], candidate))
    pair, candidate = pair[allowed], candidate[allowed]
    of_pair = pair_draws(images.hashes[queries], images.hashes[targets], np.uint64(hash64(f"{seed} negatives")))
    priority = pair_draws(of_pair[pair], images.hashes[candidate], np.uint64(0))
    by = arrange((pair.astype(np.uint64) << np.uint64(40)) | (priority >> np.uint64(24)), lambda at: priority[at])
    return rows[pair[by]], candidate[by]


def _scores(images: Images, one: np.ndarray, other: np.ndarray, score: Score) -> pa.Table:
    names = (images.names.take(pa.array(side)) for side in (one, other))
    pairs = pa.table(dict(zip(("query_id", "target_id"), names, strict=True)))
    scores = score(pairs)
    if scores.num_rows != pairs.num_rows:
        raise ValueError(f"score() returned {scores.num_rows} rows for {pairs.num_rows} pairs")
    return scores
