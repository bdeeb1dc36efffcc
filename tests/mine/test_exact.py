"""Invariants: mining equals brute force to the last bit, whatever the tile, the sketch and the sharding, with ties and
duplicates; a grown corpus equals a fresh one; the band is open; vectors without a cosine are refused by name; one tile
serves both directions; the memory does not grow with the corpus."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmret.errors import UserError
from mmret.mine import tiles
from mmret.mine.candidates import ShardVectors, candidate_tables, candidates
from mmret.mine.merge import neighbours
from mmret.mine.operands import Matrix, exact_scores, exact_scores_of_few
from mmret.mine.toplists import TopLists
from mmret.schemas import CANDIDATES, SIGNALS
from mmret.settings import BandSettings, MineSettings
from tests.mine.corpora import BAND, BANDS, brute_force, clustered, image_ids, mined, rows_of, shards

CPU = torch.device("cpu")
devices = st.sampled_from(["cpu", *(["cuda"] if torch.cuda.is_available() else [])])


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(2, 150),
    width=st.sampled_from([3, 24, 64, 100]),
    k=st.integers(1, 12),
    seed=st.integers(0, 9999),
    cuts=st.lists(st.integers(0, 150), max_size=3),
    tile=st.sampled_from([64, 100, 4096]),
    device=devices,
    low=st.sampled_from([-1.0, -0.2, 0.3, 0.7]),
    repeats=st.sampled_from([0.0, 0.2, 0.9]),
)
def test_any_tile_and_any_sharding_equal_brute_force(count, width, k, seed, cuts, tile, device, low, repeats):
    ids, bands = image_ids(count, seed), dict.fromkeys(SIGNALS, BandSettings(low=low, high=0.9))
    vectors = {s: clustered(count, width, seed + at, repeats=repeats) for at, s in enumerate(SIGNALS)}
    options = MineSettings(k=k, tile=tile, device=device)
    parts = shards(ids, vectors, [c for c in cuts if c <= count])
    assert rows_of(mined(parts, options, bands)) == brute_force(ids, vectors, k, bands)


def test_the_test_data_have_ties_duplicates_and_full_lists():
    vectors = {"caption": clustered(200, 24, 0)}
    rows = brute_force(image_ids(200), vectors, 10)
    per_list = Counter((query, above) for query, *_, above in rows)
    ties = Counter((query, score) for query, _, _, score, _, above in rows if not above)
    assert max(ties.values()) > 1 and per_list.most_common(1)[0][1] == 10
    assert {above for *_, above in rows} == {True, False}


def test_a_grown_corpus_equals_a_fresh_one_and_leaves_the_old_files_alone():
    ids, vectors = image_ids(300), {s: clustered(300, 48, at) for at, s in enumerate(SIGNALS)}
    options = MineSettings(k=6, tile=64)
    before = shards(ids[:270], {s: v[:270] for s, v in vectors.items()}, [100])
    after = shards(ids, vectors, [100, 270])
    for at, shard in enumerate(before):
        assert candidates(shard, before[:at], options, BANDS) == candidates(after[at], after[:at], options, BANDS)
    assert mined(after, options) == mined(shards(ids, vectors), options)


def test_files_of_a_shard_do_not_depend_on_the_order_of_its_images():
    ids, vectors = image_ids(150), {"caption": clustered(150, 24, 1)}
    shuffled = np.random.default_rng(0).permutation(150)
    options = MineSettings(k=5, tile=64, signals=("caption",))
    again = ShardVectors("shard-00000", [ids[i] for i in shuffled], {"caption": vectors["caption"][shuffled]})
    assert candidates(*shards(ids, vectors), [], options, BANDS) == candidates(again, [], options, BANDS)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 9999),
    width=st.sampled_from([5, 64, 130, 192]),
    outlier=st.sampled_from([0.0, 1.0, 30.0]),
    int8=st.booleans(),
)
def test_the_error_of_a_sketch_is_bounded_by_what_it_says(seed, width, outlier, int8):
    vectors = np.random.default_rng(seed).standard_normal((60, width))
    vectors[:, 0] += outlier
    vectors[:5] = np.eye(width)[:5]  # as far from a Gaussian as a direction can be
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    (block,) = Matrix(vectors, list(map(str, range(60))), "caption", 64, CPU, int8).blocks
    products = (block.rows.double() @ block.columns.double()).numpy()[:60, :60] * block.unit**2
    wide = vectors.astype(np.float64)
    assert (np.abs(products - wide @ wide.T) <= block.error[:, None] + block.error).all()
    assert block.error.max() < (0.1 if int8 else 1e-4)


@pytest.mark.parametrize("int8", [False, True])
def test_both_sketches_lead_to_the_same_lists(int8):
    ids, vectors = image_ids(200), clustered(200, 40, 3)
    by_id = np.argsort(ids)
    matrix = Matrix(vectors[by_id], sorted(ids), "caption", 64, CPU, int8)
    lists = TopLists(200, 200, 7, BAND, 64)
    tiles.compare_within(matrix, lists)
    edges = lists.result()
    names = sorted(ids)
    found = sorted(
        (names[r], float(s) < np.float32(BAND.high), -float(s), names[t])
        for r, t, s in zip(edges.rows, edges.targets, edges.scores, strict=True)
    )
    wanted = sorted((q, not above, -score, t) for q, _, t, score, _, above in brute_force(ids, {"caption": vectors}, 7))
    assert found == wanted


def test_exact_scores_do_not_depend_on_how_they_are_summed():
    a, b = (torch.from_numpy(clustered(90, 512, seed)) for seed in (0, 1))
    i, j = np.divmod(np.arange(90 * 90), 90)
    scores = exact_scores(a, b, i, j)
    shuffled = np.random.default_rng(0).permutation(512)
    assert (scores == exact_scores_of_few(a, b, i, j)).all()
    assert (scores == exact_scores(a[:, shuffled], b[:, shuffled], i, j)).all()
    assert (scores.reshape(90, 90) == exact_scores(b, a, i, j).reshape(90, 90).T).all()


def test_both_ends_of_the_band_are_outside_of_it():
    pair = np.array([[1, 0], [0.6, 0.8]], np.float16)
    score = float(np.float32(pair[0].astype(np.float64) @ pair[1].astype(np.float64)))

    def found(low, high):
        parts = shards(["a", "b"], {"caption": pair})
        band = {"caption": BandSettings(low=low, high=high)}
        table = candidates(*parts, [], MineSettings(signals=("caption",)), band)
        return table["above_band"].to_pylist()

    below, over = (float(np.nextafter(np.float32(score), np.float32(way))) for way in (-1, 2))
    assert found(score, 0.9) == []
    assert found(below, score) == [True, True]
    assert found(below, over) == [False, False]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ([np.nan, 0, 0, 1], "not finite"),
        ([np.inf, 0, 0, 0], "not finite"),
        ([0, 0, 0, 0], "is zero"),
        ([1, 1, 0, 0], "length 1.414"),
    ],
)
def test_a_vector_without_a_cosine_is_refused_by_signal_and_id(row, problem):
    vectors = clustered(70, 4, 0)
    vectors[41] = row
    ids = image_ids(70)
    with pytest.raises(UserError, match=rf"dino_image.*{ids[41]}.*{problem}.*encode the image again"):
        candidates(*shards(ids, {"dino_image": vectors}), [], MineSettings(signals=("dino_image",)), BANDS)


def test_shards_that_do_not_fit_together_are_refused():
    options = MineSettings(signals=("caption",))
    (one,) = shards(["a", "b"], {"caption": clustered(2, 8, 0)})
    (wider,) = shards(["c", "d"], {"caption": clustered(2, 9, 0)})
    with pytest.raises(UserError, match="same model"):
        candidates(one, [wider], options, BANDS)
    with pytest.raises(UserError, match="image a is in"):
        candidates(one, shards(["a", "z"], {"caption": clustered(2, 8, 0)}), options, BANDS)
    with pytest.raises(UserError, match="no clip_image vectors"):
        candidates(one, [], MineSettings(), BANDS)
    with pytest.raises(UserError, match="1 caption vectors for 2 images"):
        candidates(ShardVectors("shard-00000", ["a", "b"], {"caption": clustered(1, 8, 0)}), [], options, BANDS)
    with pytest.raises(UserError, match="no band for caption"):
        candidates(one, [], options, {})


@pytest.mark.parametrize("count", [0, 1])
def test_a_shard_with_nothing_to_compare_gives_an_empty_table(count):
    (part,) = shards(image_ids(count), {"caption": clustered(2, 8, 0)[:count]})
    table = candidates(part, [], MineSettings(signals=("caption",)), BANDS)
    assert table.num_rows == 0 and table.schema == CANDIDATES


@pytest.fixture
def three_threads():
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


def test_threads_change_neither_the_lists_nor_the_setting(three_threads, monkeypatch):
    ids, vectors = image_ids(400), {s: clustered(400, 24, at) for at, s in enumerate(SIGNALS)}
    options = MineSettings(k=6, tile=64)
    assert rows_of(mined(shards(ids, vectors, [150]), options)) == brute_force(ids, vectors, 6)
    assert torch.get_num_threads() == 3

    monkeypatch.setattr(tiles._Scan, "tile", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="division"):
        mined(shards(ids, vectors), options)
    assert torch.get_num_threads() == 3


def test_one_product_serves_both_directions(monkeypatch):
    calls = []
    product = tiles._Scan._product
    monkeypatch.setattr(tiles._Scan, "_product", lambda *a: calls.append(1) or product(*a))
    ids, vectors = image_ids(256), {"caption": clustered(256, 16, 0)}
    mined(shards(ids, vectors), MineSettings(tile=64, signals=("caption",)))
    assert len(calls) == 4 * 5 // 2


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 30), st.sampled_from([0.5, 0.6, 0.61, 0.75, 0.9, 0.95, 1.0])),
        unique_by=lambda e: e[:2],
        max_size=120,
    ),
    st.integers(1, 4),
    st.randoms(),
)
def test_a_top_list_is_the_same_in_whatever_order_its_entries_come(entries, k, random):
    def listed(order):
        lists = TopLists(10, 31, k, BandSettings(low=0.55, high=0.93), 4)
        for row, target, score in order:
            lists.add(row // 4, np.array([row]), np.array([target]), np.array([score], np.float32))
            if random.random() < 0.2:
                lists._cut_lists(row // 4)
        edges = lists.result()
        return list(zip(edges.rows.tolist(), edges.targets.tolist(), edges.scores.round(3).tolist(), strict=True))

    wanted = [
        (row, target, score)
        for row in range(10)
        for above in (True, False)
        for score, target in sorted(
            ((s, t) for r, t, s in entries if r == row and s > 0.55 and (s >= 0.93) == above), key=lambda e: (-e[0], e[1])
        )[:k]
    ]
    random.shuffle(entries)
    assert [(r, t, pytest.approx(s)) for r, t, s in wanted] == listed(entries)


def test_peak_memory_is_that_of_two_shards_whatever_the_corpus():
    centres = np.random.default_rng(0).standard_normal((20, 64)) * 0.3

    def shard(at: int) -> ShardVectors:
        rng = np.random.default_rng(at)
        vectors = rng.standard_normal((1000, 64)) * 0.15 + centres[rng.integers(20, size=1000)]
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        return ShardVectors(f"shard-{at:05d}", [f"{at:04d}{i:028d}" for i in range(1000)], {"caption": vectors})

    def peak(count: int) -> tuple[int, int]:
        """Bytes at most held by numpy and Arrow while one shard meets ``count`` others, and bytes produced. The garbage
        collector is off: a cycle that holds a shard would be found by it now and then only."""
        before, held, produced = pa.total_allocated_bytes(), 0, 0
        gc.disable()
        tracemalloc.start()
        try:
            for table in candidate_tables(shard(99), map(shard, range(count)), options, BANDS):
                held, produced = max(held, pa.total_allocated_bytes() - before), produced + table.nbytes
            return tracemalloc.get_traced_memory()[1] + held, produced
        finally:
            tracemalloc.stop()
            gc.enable()

    options = MineSettings(k=30, signals=("caption",))
    peak(1)  # trials of the processor and tables that are made once
    (few, _), (many, produced) = peak(2), peak(16)
    assert produced > 2 * few, "so little was found that keeping it all would not show"
    assert many < 1.2 * few


@settings(max_examples=15, deadline=None)
@given(
    old=st.integers(1, 90),
    new=st.integers(1, 60),
    k=st.integers(1, 9),
    seed=st.integers(0, 9999),
    int8=st.booleans(),
    repeats=st.sampled_from([0.1, 0.9]),
    group=st.integers(0, 2),
)
def test_a_grown_corpus_merged_in_any_grouping_equals_brute_force_with_either_sketch(old, new, k, seed, int8, repeats, group):
    ids = image_ids(old + new, seed)
    vectors = {s: clustered(old + new, 24, seed + at, repeats=repeats) for at, s in enumerate(SIGNALS)}
    parts, options = shards(ids, vectors, [old, old + new // 2]), MineSettings(k=k, tile=64)
    with patch("mmret.mine.operands.int8_products", lambda device: int8):
        files = [candidates(shard, parts[:at], options, BANDS) for at, shard in enumerate(parts)]
    together = neighbours([files[group], neighbours([f for at, f in enumerate(files) if at != group], k)], k)
    assert rows_of(together) == brute_force(ids, vectors, k)
    inside = {(q, s, t): score for q, s, t, score, _, above in rows_of(together) if not above}
    for (query, signal, target), score in inside.items():  # one score for both directions, to the last bit
        assert inside.get((target, signal, query), score) == score
