"""Chooses pairs from neighbours: which targets a query gets, and which of its other neighbours are its hard negatives.

The paper publishes neither the targets per query nor how the three sets merge, so the rule is ours, built so that a
growing corpus keeps the pairs it has (their descriptions are paid for):

1. Candidates of a query are all targets in the band of any signal in use. Out go near-duplicates (above the band of
   an image signal), all but identical captions (above the band of the caption signal) and captions that are identical
   as text.
2. A candidate is *near* if, in some signal, fewer than ``max(k / 2, targets_per_query)`` better ones were in the corpus
   when both images had become part of it. Later images do not change that: they push a target down its list, and out of it
   if enough closer ones come, but a near candidate that is in the list stays near.
3. Targets are drawn among the near candidates by a hash of (seed, query, target), older candidates first: those sealed no
   later than the query, then the later shards in order. Otherwise every new candidate would be as likely as an old one to
   be drawn, and a tenth more images would cost at least a tenth of the pairs (measured at 10 % growth: 88 to 93 % of the
   pairs stay by the hash alone, 98 to 100 % with this rule). Without the column ``shard`` of the captions table all images
   count as one shard. With ``draw: by_signal`` the signals take turns among equally old candidates, each drawing from its own:
   drawn together, the signal with the most candidates decides what the pairs are about.
4. Hard negatives of a pair are drawn by the same kind of hash among all candidates that are no target of the query,
   not a near-duplicate of the query or of the target, and share no caption with either.

What is guaranteed of near-duplicates, given the bands: no negative is one of its target, whatever the lists say, for that
is computed (:mod:`mmret.mine.negatives`). No target and no negative is one of the query as far as the lists know: those of
the exact kernel know all once :func:`mmret.mine.negatives.beyond_full_lists` has completed the full ones, as it does on a
lake; an index may miss some, and its recall is measured.

Cost: about 1 us per neighbour row and the cosines of ``negatives``; text is touched once per image, pairs are numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.hashing import hash64, pair_draws, pair_id
from mmret.mine.images import Images
from mmret.mine.negatives import ChosenPairs, Negatives, Score, hard_negatives
from mmret.mine.ordering import arrange, place_in_group, unique_inverse
from mmret.mine.scores import SCORES
from mmret.schemas import PAIRS, SIGNALS
from mmret.settings import BandSettings, MineSettings

REASONS = ("chosen", "near_duplicate", "near_identical_caption", "identical_caption", "not_near", "beyond_targets_per_query")
"""What becomes of a (query, target) that was retrieved: each is exactly one of these."""

_CHOSEN, _DUPLICATE, _CAPTION_ABOVE, _SAME_CAPTION, _FAR, _BEYOND = range(len(REASONS))
_ROWS = 1_000_000  # neighbour rows worked on at a time


def choose(
    neighbours: pa.Table,
    captions: Mapping[str, str] | pa.Table,
    score: Score,
    settings: MineSettings,
    bands: Mapping[str, BandSettings] | None = None,
    near: Score | None = None,
) -> tuple[pa.Table, dict[str, int]]:
    """Pairs of the queries in ``neighbours`` (schema ``NEIGHBOURS``, any row order), schema ``PAIRS``, and counts.

    captions: caption of each image, or a table (image_id, caption[, shard]); with ``shard`` pairs stay the same when the corpus
    grows. score: function from a table (query_id, target_id) to its three score columns, row by row; called once, and again
    only where a pair draws many near-duplicates of its target. bands: those that ``neighbours`` were mined with, so that scores
    can tell near-duplicates; without them only the lists above the band can. near: a cheaper ``score`` for that alone
    (:func:`mmret.mine.negatives.hard_negatives`).

    The counts are, for each of ``REASONS``, the number of distinct (query, target) that were retrieved and have it; their sum
    ``retrieved``; and ``queries_without_candidates``: queries with neighbours none of which can be a target.
    The table is sorted by query and target id. Raises ValueError if ``score`` does not return one row for each row.

    >>> pairs, counts = choose(neighbours, {"a1": "a red car", "b2": "a blue car"}, score, profile.mine)
    """
    if not neighbours.num_rows:
        return PAIRS.empty_table(), {**dict.fromkeys(REASONS, 0), "retrieved": 0, "queries_without_candidates": 0}
    images = Images(neighbours, captions)
    slices = [_choose_slice(part, images, settings) for part in _slices(neighbours, images)]
    table = _table(slices, images, hard_negatives([s.pairs for s in slices], images, score, bands or {}, settings, near))
    reason_codes = np.bincount(np.concatenate([s.reason_codes for s in slices]), minlength=len(REASONS)).tolist()
    queries = sum(s.number for s in slices)
    return table, {
        **dict(zip(REASONS, reason_codes, strict=True)),
        "retrieved": sum(reason_codes),
        "queries_without_candidates": queries - pc.count_distinct(table["query_id"]).as_py(),
    }


@dataclass(frozen=True)
class _Rows:
    """Neighbour rows of whole queries, as arrays (rows,); ``signals`` are positions in ``SIGNALS``."""

    queries: np.ndarray
    targets: np.ndarray
    signals: np.ndarray
    ranks: np.ndarray
    above: np.ndarray

    def where(self, mask: np.ndarray) -> _Rows:
        return _Rows(*(getattr(self, field.name)[mask] for field in fields(self)))


def _slices(neighbours: pa.Table, images: Images) -> Iterator[_Rows]:
    """Yield about a million rows at a time; a query's rows are never split."""
    signals = pc.index_in(neighbours["signal"], value_set=pa.array(SIGNALS)).to_numpy()
    ranks = pc.fill_null(neighbours["rank"], -1).to_numpy()
    above = neighbours["above_band"].to_numpy()
    columns = [images.queries, images.targets, signals, ranks, above]
    if (images.queries[1:] < images.queries[:-1]).any():
        by = arrange(images.queries.astype(np.uint64))
        columns = [column[by] for column in columns]
    queries = columns[0]
    start = 0
    while start < len(queries):
        stop = min(start + _ROWS, len(queries))
        stop = int(np.searchsorted(queries, queries[stop - 1], side="right"))
        yield _Rows(*(column[start:stop] for column in columns))
        start = stop


@dataclass(frozen=True)
class _Slice:
    """What was chosen for the queries of a slice: ``signals`` a bit per signal of each pair, ``reason_codes`` of all retrieved
    (places in ``REASONS``), ``number`` of queries seen."""

    pairs: ChosenPairs
    signals: np.ndarray
    reason_codes: np.ndarray
    number: int


def _choose_slice(rows: _Rows, images: Images, settings: MineSettings) -> _Slice:
    number = 1 + np.count_nonzero(np.diff(rows.queries))
    rows = rows.where(rows.above | np.isin(rows.signals, [SIGNALS.index(s) for s in settings.signals]))
    keys, pair_of = unique_inverse(images.key(rows.queries, rows.targets))
    queries, targets = np.divmod(keys, len(images.names))

    def any_row(mask: np.ndarray) -> np.ndarray:
        result = np.zeros(len(keys), bool)
        result[pair_of[mask]] = True
        return result

    near = _near(rows, images, settings)
    of_images = np.isin(rows.signals, [SIGNALS.index("clip_image"), SIGNALS.index("dino_image")])
    reason_codes = np.select(
        [
            any_row(rows.above & of_images),
            any_row(rows.above),
            images.same_caption(queries, targets),
            ~any_row(near),
        ],
        [_DUPLICATE, _CAPTION_ABOVE, _SAME_CAPTION, _FAR],
        _BEYOND,
    )

    ready = np.flatnonzero(reason_codes == _BEYOND)
    priority = pair_draws(
        images.hashes[queries[ready]], images.hashes[targets[ready]], np.uint64(hash64(f"{settings.seed} target"))
    )
    late = np.maximum(images.shards[targets[ready]], images.shards[queries[ready]])
    turn = np.zeros(len(ready), np.int64)
    if settings.draw == "by_signal":
        place = np.full(len(keys), -1)
        place[ready] = np.arange(len(ready))
        found = near & (place[pair_of] >= 0)
        turn = _turns(place[pair_of[found]], rows.signals[found], queries[ready], late, priority, images)
    ready = ready[np.lexsort((priority, turn, late, queries[ready]))]
    reason_codes[ready[place_in_group(queries[ready]) < settings.targets_per_query]] = _CHOSEN

    chosen, pool = np.flatnonzero(reason_codes == _CHOSEN), np.flatnonzero(np.isin(reason_codes, (_BEYOND, _FAR)))
    inside = ~rows.above
    bits = np.zeros(len(keys), np.int64)
    np.bitwise_or.at(bits, pair_of[inside], 1 << rows.signals[inside].astype(np.int64))
    pairs = ChosenPairs(queries[chosen], targets[chosen], queries[pool], targets[pool])
    return _Slice(pairs, bits[chosen], reason_codes, number)


def _near(rows: _Rows, images: Images, settings: MineSettings) -> np.ndarray:
    """Rows in the band that are near: few better ones were in the corpus when both images had become part of it (rule 2)."""
    near = ~rows.above
    if not near.any():
        return near
    ranks = rows.ranks[near]
    lists, at = unique_inverse(rows.queries[near] * len(SIGNALS) + rows.signals[near])
    since = np.full((len(lists), ranks.max() + 1), np.iinfo(np.int64).max)
    since[at, ranks] = np.maximum(images.shards[rows.queries[near]], images.shards[rows.targets[near]])
    better = np.stack([(since[:, :r] <= since[:, r, None]).sum(1) for r in range(since.shape[1])], axis=1)
    near[near] = better[at, ranks] < max(-(-settings.k // 2), settings.targets_per_query)
    return near


def _turns(
    pair: np.ndarray, signals: np.ndarray, queries: np.ndarray, late: np.ndarray, priority: np.ndarray, images: Images
) -> np.ndarray:
    """In which turn each of n pairs is drawn, (n,) int64, smallest first, where the signals of a query take turns.

    ``pair`` and ``signals`` (rows,): which signal has which pair among its near candidates; ``queries``, ``late``, ``priority``
    (n,). In its turn a signal draws one of its own by ``priority``, among those that are equally late. Which signal begins
    depends on the query.
    """
    by = np.lexsort((priority[pair], signals, late[pair], queries[pair]))
    pair, signals = pair[by], signals[by]
    groups = (queries[pair] * (1 + late.max(initial=0)) + late[pair]) * len(SIGNALS) + signals
    first = images.hashes[queries[pair]] % np.uint64(len(SIGNALS))
    turn = np.full(len(queries), np.iinfo(np.int64).max)
    np.minimum.at(turn, pair, place_in_group(groups) * len(SIGNALS) + (signals + first.astype(np.int64)) % len(SIGNALS))
    return turn


def _table(slices: list[_Slice], images: Images, chosen: Negatives) -> pa.Table:
    queries, targets = (np.concatenate([getattr(s.pairs, name) for s in slices]) for name in ("queries", "targets"))
    pairs = {"query_id": images.names.take(pa.array(queries)), "target_id": images.names.take(pa.array(targets))}
    sets = pa.array(
        [[s for at, s in enumerate(SIGNALS) if bit >> at & 1] for bit in range(1 << len(SIGNALS))], pa.list_(pa.string())
    )
    starts = pa.array(np.append(0, np.cumsum(chosen.counts)), pa.int32())
    names = zip(pairs["query_id"].to_pylist(), pairs["target_id"].to_pylist(), strict=True)
    return pa.table(
        {
            "pair_id": pa.array([pair_id(query, target) for query, target in names], pa.string()),
            **pairs,
            "signals": sets.take(pa.array(np.concatenate([s.signals for s in slices]))),
            **{name: chosen.scores[name] for name in SCORES},
            "hard_negatives": pa.ListArray.from_arrays(starts, images.names.take(pa.array(chosen.negatives))),
        },
        schema=PAIRS,
    )
