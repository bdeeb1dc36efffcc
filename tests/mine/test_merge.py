"""Invariants: merging lists is associative, commutative and idempotent; ranks count the neighbours in the band only;
equal scores go by target id; rows come by query, signal, side of the band, rank; neither the order of edges in the files nor
the width of ids nor how files are cut into batches and blocks changes a row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmret.mine.merge import neighbours
from mmret.mine.ordering import arrange, as_text, order, place_in_group, text_ranks, to_fixed_width
from mmret.schemas import CANDIDATES, NEIGHBOURS, SIGNALS

names = st.sampled_from(["a", "b", "ba", "c", "é", "Z", "image-00000001", "image-00000002"])
wide = st.sampled_from([f"{at:032x}" for at in (0, 1, 2**40, 2**127, 2**128 - 1)])
scores = st.sampled_from([-0.5, 0.0, 0.25, 0.5, 0.875])
edge = st.tuples(names, st.sampled_from(SIGNALS), names, scores)
wide_edge = st.tuples(wide, st.sampled_from(SIGNALS), wide, scores)


def table(edges) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"query_shard": "shard-00000", "query_id": q, "signal": s, "target_id": t, "score": x, "above_band": x > 0.8}
            for q, s, t, x in edges
        ],
        CANDIDATES,
    )


def cut(edges, k) -> list[dict]:
    """The result, written plainly."""
    rows = []
    for query, signal, side in sorted(
        {(e[0], SIGNALS.index(e[1]), e[3] > 0.8) for e in edges}, key=lambda g: (g[0].encode(), *g[1:])
    ):
        mine = sorted((-x, t.encode(), t) for q, s, t, x in edges if (q, SIGNALS.index(s), x > 0.8) == (query, signal, side))
        rows += [
            {
                "query_id": query,
                "signal": SIGNALS[signal],
                "target_id": t,
                "score": -x,
                "rank": None if side else rank,
                "above_band": side,
            }
            for rank, (x, _, t) in enumerate(mine[:k])
        ]
    return rows


@settings(max_examples=60, deadline=None)
@given(
    st.lists(edge, max_size=80, unique_by=lambda e: e[:3]), st.integers(1, 4), st.lists(st.integers(0, 3), min_size=80, max_size=80)
)
def test_merged_lists_are_the_sorted_cut_of_all_edges_however_they_are_grouped(edges, k, group):
    parts = [table([e for e, g in zip(edges, group, strict=False) if g == at]) for at in range(4)]
    merged = neighbours(parts, k)
    assert merged.to_pylist() == cut(edges, k) and merged.schema == NEIGHBOURS
    assert neighbours(reversed(parts), k) == merged
    assert neighbours([neighbours(parts[:2], k), neighbours(parts[2:], k)], k) == merged
    assert neighbours([parts[0], neighbours(parts[1:], k)], k) == merged
    assert neighbours([merged, *parts], k) == merged


@pytest.mark.parametrize("block", [1, 7, 65_536])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(wide_edge, max_size=60, unique_by=lambda e: e[:3]), st.integers(1, 4), st.integers(1, 9), st.booleans())
def test_ids_of_one_width_batches_and_blocks_change_no_row(monkeypatch, block, edges, k, batch, in_order):
    monkeypatch.setattr("mmret.mine.merge.BLOCK", block)
    if in_order:  # as candidate files are
        edges = sorted(edges, key=lambda e: (SIGNALS.index(e[1]), e[0], -e[3], e[2]))
    whole = table(edges)
    parts = [whole.slice(at, batch) for at in range(0, len(edges), batch)]
    assert neighbours([whole], k).to_pylist() == neighbours(parts, k).to_pylist() == cut(edges, k)
    assert neighbours([whole, *parts], k) == neighbours([whole], k), "an edge that appears twice counts once"
    crumbs = pa.concat_tables([CANDIDATES.empty_table(), *parts, whole.slice(0, 0)])
    assert neighbours([crumbs], k) == neighbours([whole], k)


def test_merging_in_steps_to_save_memory_changes_nothing(monkeypatch):
    import mmret.mine.merge as module

    rng = np.random.default_rng(0)
    parts = [
        table([(f"q{rng.integers(5)}", SIGNALS[rng.integers(3)], f"t{at}-{i}", rng.choice([0.1, 0.2, 0.9])) for i in range(200)])
        for at in range(6)
    ]
    merged = neighbours(parts, 3)
    monkeypatch.setattr(module, "ROWS_WAITING", 0)
    assert neighbours(parts, 3) == merged


def test_a_large_first_file_is_not_merged_by_itself(monkeypatch):
    import mmret.mine.merge as module

    calls, merge = [], module._merge
    monkeypatch.setattr(module, "ROWS_WAITING", 1)
    monkeypatch.setattr(module, "_merge", lambda parts, k: calls.append(len(parts)) or merge(parts, k))
    first = table([("q", SIGNALS[0], f"t{at}", 0.5) for at in range(20)])
    assert neighbours([first, table([("q", SIGNALS[0], "new", 0.6)])], 5)["target_id"][0].as_py() == "new"
    assert calls == [2]


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


def test_texts_of_one_width_are_seen_without_offsets_and_others_left_alone():
    column = pa.array(["aa", "bb", "é", "cc"])
    parts = [column.slice(1, 2), column.slice(4), column.slice(3)]
    fixed = to_fixed_width(parts)
    assert {part.type for part in fixed} == {pa.binary(2)} and [as_text(part) for part in fixed] == parts
    assert as_text(fixed[0].take(pa.array([1, 0, 1]))).to_pylist() == ["é", "bb", "é"]
    for others in ([pa.array(["a", "bc"])], [column, pa.array(["a"])], [pa.array(["aa", None])], [pa.array(["", ""])], []):
        assert to_fixed_width(others) is others and [as_text(part) for part in others] == others


def test_arrange_sorts_keys_of_any_size():
    for low, high in ((0, 2**64), (2**63 - 5, 2**63 + 5), (2**40, 2**40 + 2**62), (7, 8)):
        key = np.random.default_rng(0).integers(low, high, 999, np.uint64)
        assert (arrange(key) == np.argsort(key, kind="stable")).all()
    assert len(arrange(np.zeros(0, np.uint64))) == 0


def test_arrange_is_stable_and_alphabetical_ranks_bytes():
    key = np.random.default_rng(0).integers(0, 50, 3000).astype(np.uint64)
    assert (arrange(key) == np.argsort(key, kind="stable")).all()
    assert text_ranks(pa.array(["b", "Z", "é", "b"])).tolist() == [1, 0, 2, 1]
    assert place_in_group(np.array([3, 3, 5, 3])).tolist() == [0, 1, 0, 0] and len(place_in_group(np.array([]))) == 0
