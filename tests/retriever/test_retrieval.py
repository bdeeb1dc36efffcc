"""Invariants of ranking and of a gallery: ranking equals brute force whatever the block; ties never help; broken
vectors are refused; the reference is out of the gallery; gallery vectors are computed once per checkpoint and image."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmret import ranking
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.ranking import rank, recall_at, target_ranks
from mmret.retriever.models.clip import ClipRetriever
from mmret.schemas import IMAGES_INDEX
from mmret.search.rank import evaluate_composed, forget_galleries, gallery


@st.composite
def problems(draw):
    """Small integer vectors, so that ties are common and products exact."""
    n, q = draw(st.integers(1, 12)), draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    vectors, queries = rng.integers(-1, 2, (n, 3)).astype(np.float32), rng.integers(-1, 2, (q, 3)).astype(np.float32)
    exclude = [set(rng.choice(n, rng.integers(0, n), replace=False).tolist()) for _ in range(q)]
    targets = [set(rng.choice(n, rng.integers(1, n + 1), replace=False).tolist()) for _ in range(q)]
    targets = [t - e or {next(iter(set(range(n)) - e))} for t, e in zip(targets, exclude, strict=True)]
    return queries, vectors, exclude, targets


def brute_force(query, vectors, exclude, targets):
    allowed = [i for i in range(len(vectors)) if i not in exclude]
    return sorted(allowed, key=lambda i: (-float(vectors[i] @ query), i in targets, i))


@given(problems(), st.integers(1, 14), st.sampled_from([1, 100, 2**20]))
def test_ranking_equals_brute_force_with_targets_behind_their_ties(problem, k, block_bytes):
    queries, vectors, exclude, targets = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK_BYTES", block_bytes)
        found = rank(queries, vectors, k, exclude, behind=targets)
        ranks = target_ranks(queries, vectors, targets, exclude)
    for i, query in enumerate(queries):
        expected = brute_force(query, vectors, exclude[i], targets[i])
        assert [p for p in found[i] if p >= 0] == expected[:k]
        assert ranks[i] == 1 + next(n for n, p in enumerate(expected) if p in targets[i])


def test_without_targets_ties_are_in_the_gallerys_order_and_short_rows_end_in_minus_one():
    vectors = np.ones((4, 2), np.float32)
    assert rank(np.ones((1, 2), np.float32), vectors, 6, [{1}]).tolist() == [[0, 2, 3, -1, -1, -1]]
    assert rank(np.ones((1, 2), np.float32), vectors, 2).tolist() == [[0, 1]]


def test_a_model_that_gives_everything_one_vector_finds_nothing():
    vectors = np.ones((50, 4), np.float32)
    assert target_ranks(vectors[:3], vectors, [{0}, {7}, {3, 4}]).tolist() == [50, 50, 49]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", [0, 1])
def test_vectors_that_are_not_finite_are_refused(value, part):
    arrays = [np.ones((3, 2), np.float32), np.ones((5, 2), np.float32)]
    arrays[part][1, 0] = value
    with pytest.raises(UserError, match="1 vectors of the (queries|gallery) are not finite"):
        rank(*arrays, 2)
    with pytest.raises(UserError, match="not finite"):
        target_ranks(*arrays, [{0}] * 3)


def test_recall_is_in_percent_of_queries():
    assert recall_at(np.array([1, 3, 6, 60]), (1, 5, 10, 50)) == {"R@1": 25.0, "R@5": 50.0, "R@10": 75.0, "R@50": 75.0}
    assert recall_at(np.array([], np.int64), (1,)) == {"R@1": 0.0}


def test_composed_evaluation_leaves_the_reference_out_and_reports_the_parts(clip_folder, pictures, load):
    retriever = ClipRetriever.load(clip_folder, device="cpu")
    ids = sorted(pictures)
    vectors = retriever.encode([pictures[i] for i in ids])
    queries = [(ids[i], "make it green", {ids[i + 1], ids[i + 2]}) for i in range(8)]
    found = evaluate_composed(retriever, ids, vectors, queries, load, ks=(1, 10, 23))
    assert set(found) == {f"{part}R@{k}" for part in ("", "image ", "text ", "kept ") for k in (1, 10, 23)}
    assert found["R@23"] == found["image R@23"] == 100.0  # 24 pictures less the reference, one of two targets anywhere
    composed = retriever.encode([pictures[q[0]] for q in queries], [q[1] for q in queries])
    orders = [(i, brute_force(v, vectors, {i}, {i + 1, i + 2})) for i, v in enumerate(composed)]
    ranks = np.array([1 + min(order.index(i + 1), order.index(i + 2)) for i, order in orders])
    assert recall_at(ranks, (1, 10)).items() <= found.items()
    kept = [(i, brute_force(v, vectors, set(), {i + 1, i + 2})) for i, v in enumerate(composed)]
    ranks = np.array([1 + min(order.index(i + 1), order.index(i + 2)) for i, order in kept])
    assert {f"kept {k}": v for k, v in recall_at(ranks, (1, 10)).items()}.items() <= found.items()
    own_target = [(ids[0], "no hat", {ids[0], ids[1]})]  # the reference among the targets counts for nothing
    assert evaluate_composed(retriever, ids, vectors, own_target, load, (23,))["R@23"] == 100.0


@pytest.mark.parametrize(
    "query, said",
    [
        (("nowhere", "x", {"0"}), "not in the gallery: nowhere"),
        (("0", "x", {"nowhere"}), "not in the gallery: nowhere"),
        (("0", "x", {"0"}), "no target besides its reference"),
    ],
)
def test_queries_that_do_not_fit_the_gallery_are_refused(clip_folder, query, said):
    with pytest.raises(UserError, match=said):
        evaluate_composed(ClipRetriever.load(clip_folder, "cpu"), ["0", "1"], np.eye(2, 16, dtype=np.float32), [query], dict)


@pytest.fixture
def lake(tmp_path, pictures, monkeypatch):
    """Two shards of pictures; ``lake.shown`` counts the pictures that were embedded."""
    lake, ids = Lake(tmp_path), sorted(pictures)
    shards = {"shard-00000": ids[:15], "shard-00001": ids[15:]}
    for shard, members in shards.items():
        rows = [{**dict.fromkeys(IMAGES_INDEX.names), "image_id": i, "shard": shard, "position": n} for n, i in enumerate(members)]
        lake.write("images", shard, pa.Table.from_pylist(rows, IMAGES_INDEX), "x")
    lake.shown = 0

    def read(_, shard, batch_rows, ids):
        for start in range(0, len(shards[shard]), 4):
            part = [i for i in shards[shard][start : start + 4] if i in ids and i not in lake.missing]
            lake.shown += len(part)
            yield pa.record_batch({"image_id": part, "data": pa.array([pictures[i] for i in part], pa.large_binary())})

    lake.missing = set()
    monkeypatch.setattr("mmret.search.rank.read_images", read)
    return lake


def test_the_gallery_holds_every_image_once_and_is_computed_once_per_checkpoint(lake, clip_folder, pictures):
    ids, vectors = gallery(lake, clip_folder)
    assert ids == lake.read("images", columns=["image_id"])["image_id"].to_pylist() and lake.shown == 24
    expected = ClipRetriever.load(clip_folder, "cpu").encode([pictures[i] for i in ids])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    again = gallery(lake, clip_folder)
    assert again[0] == ids and np.array_equal(again[1], vectors) and lake.shown == 24


def test_a_gallery_that_was_interrupted_goes_on_with_the_missing_shard(lake, clip_folder):
    whole = gallery(lake, clip_folder)[1]
    (file,) = (lake.root / "gallery").glob("*/shard-00001.parquet")
    file.unlink()
    assert np.array_equal(gallery(lake, clip_folder)[1], whole) and lake.shown == 24 + 9


def test_a_picture_without_a_vector_is_an_error_and_leaves_no_file(lake, clip_folder):
    lake.missing = {lake.read("images", "shard-00001")["image_id"][3].as_py()}
    with pytest.raises(UserError, match="1 images of shard-00001 have no vector"):
        gallery(lake, clip_folder)
    assert [p.name for p in (lake.root / "gallery").rglob("*.parquet")] == ["shard-00000.parquet"]


def test_galleries_of_checkpoints_that_are_gone_are_forgotten(lake, clip_folder, tmp_path_factory):
    gallery(lake, clip_folder)
    other = tmp_path_factory.mktemp("other")
    retriever = ClipRetriever.load(clip_folder, "cpu")
    retriever.model.visual_projection.weight.data += 1
    retriever.save(other)
    gallery(lake, other)
    assert forget_galleries(lake, [other]) == 1
    assert len(list((lake.root / "gallery").iterdir())) == 1
    gallery(lake, other)
    assert lake.shown == 48


def test_a_lake_without_images_says_so(tmp_path, clip_folder):
    with pytest.raises(UserError, match="holds no images yet"):
        gallery(Lake(tmp_path), clip_folder)
