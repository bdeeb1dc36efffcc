"""Invariants: merging lists is associative, commutative and idempotent; ranks count the neighbours in the band only;
equal scores go by target id; rows come by query, signal, side of the band, rank."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mmret.mine.merge import neighbours
from mmret.mine.ordering import alphabetical, arrange, order, within_group
from mmret.schemas import CANDIDATES, NEIGHBOURS, SIGNALS

names = st.sampled_from(["a", "b", "ba", "c", "é", "Z", "image-00000001", "image-00000002"])
edge = st.tuples(names, st.sampled_from(SIGNALS), names, st.sampled_from([-0.5, 0.0, 0.25, 0.5, 0.875]))


def table(edges) -> pa.Table:
    return pa.Table.from_pylist([
        {"query_shard": "shard-00000", "query_id": q, "signal": s, "target_id": t, "score": x, "above_band": x > 0.8}
        for q, s, t, x in edges], CANDIDATES)


@settings(max_examples=60, deadline=None)
@given(st.lists(edge, max_size=80, unique_by=lambda e: e[:3]), st.integers(1, 4),
       st.lists(st.integers(0, 3), min_size=80, max_size=80))
def test_merged_lists_are_the_sorted_cut_of_all_edges_however_they_are_grouped(edges, k, group):
    wanted = []
    for query, signal, side in sorted({(e[0], SIGNALS.index(e[1]), e[3] > 0.8) for e in edges},
                                      key=lambda g: (g[0].encode(), *g[1:])):
        mine = sorted((-x, t.encode(), t) for q, s, t, x in edges
                      if (q, SIGNALS.index(s), x > 0.8) == (query, signal, side))
        wanted += [{"query_id": query, "signal": SIGNALS[signal], "target_id": t, "score": -x,
                    "rank": None if side else rank, "above_band": side} for rank, (x, _, t) in enumerate(mine[:k])]
    parts = [table([e for e, g in zip(edges, group, strict=False) if g == at]) for at in range(4)]
    merged = neighbours(parts, k)
    assert merged.to_pylist() == wanted and merged.schema == NEIGHBOURS
    assert neighbours(reversed(parts), k) == merged
    assert neighbours([neighbours(parts[:2], k), neighbours(parts[2:], k)], k) == merged
    assert neighbours([parts[0], neighbours(parts[1:], k)], k) == merged
    assert neighbours([merged, *parts], k) == merged


def test_merging_in_steps_to_save_memory_changes_nothing(monkeypatch):
    import mmret.mine.merge as module

    rng = np.random.default_rng(0)
    parts = [table([(f"q{rng.integers(5)}", SIGNALS[rng.integers(3)], f"t{at}-{i}", rng.choice([0.1, 0.2, 0.9]))
                    for i in range(200)]) for at in range(6)]
    merged = neighbours(parts, 3)
    monkeypatch.setattr(module, "ROWS_HELD", 0)
    assert neighbours(parts, 3) == merged


def test_nothing_to_merge_gives_an_empty_table():
    for parts in ([], [CANDIDATES.empty_table()]):
        assert neighbours(parts, 5) == NEIGHBOURS.empty_table()


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1.02]), names), max_size=60))
def test_order_is_group_then_best_score_then_id(rows):
    groups, scores = np.array([r[0] for r in rows], np.int64), np.array([r[1] for r in rows], np.float32)
    ids = pa.array([r[2] for r in rows], pa.string())
    by = order(groups, scores, lambda at: ids.take(pa.array(at)))
    key = [(r[0], -r[1], r[2].encode()) for r in rows]
    assert [key[i] for i in by] == sorted(key)


def test_arrange_is_stable_and_alphabetical_ranks_bytes():
    key = np.random.default_rng(0).integers(0, 50, 3000).astype(np.uint64)
    assert (arrange(key) == np.argsort(key, kind="stable")).all()
    assert alphabetical(pa.array(["b", "Z", "é", "b"])).tolist() == [1, 0, 2, 1]
    assert within_group(np.array([3, 3, 5, 3])).tolist() == [0, 1, 0, 0] and len(within_group(np.array([]))) == 0
