"""A gallery is the lake's corpus: blocks found by brute force, growth that shares them, an index whose recall is measured and
right."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mmret.search.gallery as gallery_module
from mmret.search.corpus_vectors import StoredShard
from mmret.search.gallery import Gallery, ImageIds
from mmret.search.options import SearchOptions
from tests.search.test_block import agree, brute_force, unit


def stored(folder, shard: str, vectors: np.ndarray, first: int, digest: str = "d") -> StoredShard:
    ids = [f"{first + i:032x}" for i in range(len(vectors))]
    path = folder / f"{shard}.parquet"
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"image_id": ids, "vector": flat}), path)
    return StoredShard(shard, digest, ids, path)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    return unit(rng.standard_normal((60, 32))[rng.integers(0, 60, 3000)] + 0.4 * rng.standard_normal((3000, 32)))


@pytest.fixture
def shards(tmp_path, vectors) -> list[StoredShard]:
    cuts = [0, 1000, 1010, 3000]
    return [stored(tmp_path, f"shard-{n}", vectors[a:b], a) for n, (a, b) in enumerate(zip(cuts, cuts[1:], strict=False))]


def test_every_shard_is_searched_whether_small_ones_are_joined_or_not(shards, vectors, monkeypatch):
    queries = vectors[::300]
    allowed = np.arange(len(vectors)) % 3 > 0
    for rows in (1, 1005, 10_000):
        monkeypatch.setattr(gallery_module, "_BLOCK_ROWS", rows)
        made = Gallery(shards)
        assert len(made) == 3000 and made.recall is None
        for mask in (None, allowed):
            for query, found in zip(queries, made.nearest(queries, 40, mask), strict=True):
                agree(found, brute_force(vectors, query, 40, mask))
        np.testing.assert_allclose(made.scores(queries[0]), vectors @ queries[0], atol=1e-6)
        np.testing.assert_array_equal(made.vectors([0, 1000, 1009, 2999]), vectors[[0, 1000, 1009, 2999]])


def test_a_gallery_that_has_grown_shares_the_blocks_of_the_one_before(shards, vectors, monkeypatch, tmp_path):
    monkeypatch.setattr(gallery_module, "_BLOCK_ROWS", 500)
    before = Gallery(shards[:2])
    after = Gallery(shards, before=before)
    assert after._parts[0].block is before._parts[0].block and len(after) == 3000 and len(before) == 1010
    agree(after.nearest(vectors[:1], 10)[0], brute_force(vectors, vectors[0], 10))
    changed = stored(tmp_path, "shard-0", vectors[2000:2500], 9000, "other")
    third = Gallery([changed, *shards[1:]], before=after)
    assert third._parts[0].block is not after._parts[0].block
    agree(third.nearest(vectors[:1], 10)[0], brute_force(np.concatenate([vectors[2000:2500], vectors[1000:]]), vectors[0], 10))


@pytest.mark.parametrize(
    "options", [SearchOptions("int8"), SearchOptions("binary", rescore=20), SearchOptions(dimensions=24)], ids=str
)
def test_at_a_lower_precision_vectors_stay_on_disk_and_scores_are_exact(shards, vectors, options):
    made = Gallery(shards, options)
    assert all(isinstance(part.block.vectors, np.memmap) for part in made._parts)
    hit = []
    for query, (rows, scores) in zip(vectors[::300], made.nearest(vectors[::300], 10), strict=True):
        np.testing.assert_allclose(scores, vectors[rows] @ query, atol=1e-6)
        hit.append(np.isin(brute_force(vectors, query, 10)[0], rows).mean())
    assert np.mean(hit) > 0.85


def test_the_index_finds_what_it_says_follows_the_lake_and_keeps_to_a_filter(shards, vectors, tmp_path):
    options = SearchOptions(index_from=100)
    made = Gallery(shards[:2], options)
    assert len(made) == 1010 and 0.8 < made.recall <= 1
    made = Gallery(shards, options, made)
    queries, allowed = vectors[::40], np.arange(3000) % 2 == 0
    for mask in (None, allowed):
        found = made.nearest(queries, 10, mask)
        exact = [brute_force(vectors, query, 10, mask)[0] for query in queries]
        recall = np.mean([np.isin(e, rows).mean() for e, (rows, _) in zip(exact, found, strict=True)])
        assert abs(recall - made.recall) < 0.1 and all(mask is None or mask[rows].all() for rows, _ in found)
        for query, (rows, scores) in zip(queries, found, strict=True):
            np.testing.assert_allclose(scores, vectors[rows] @ query, atol=1e-6)
    few = np.arange(3000) % 300 == 7
    agree(made.nearest(queries[:1], 10, few)[0], brute_force(vectors, queries[0], 10, few))
    again = Gallery(shards, options)
    assert again.recall == made.recall  # written down, not measured again
    # a shard is replaced, after a crash between writing the record and the table
    record = tmp_path / "index" / "record.json"
    noted = json.loads(record.read_text())
    del noted["shards"]["shard-2"]
    record.write_text(json.dumps(noted | {"recall": None}))
    changed = [*shards[:2], stored(tmp_path, "shard-2", vectors[:600], 5000, "other")]
    third = Gallery(changed, options)
    assert third.index.table.count_rows() == 1610 == len(third)
    assert third.nearest(vectors[:1], 10)[0][0][0] in (0, 1010)


def test_an_id_is_found_where_it_is_and_nothing_else_is():
    ids = [f"{(i * 7919) % 1000:032x}" for i in range(1000)]
    places = ImageIds(ids)
    assert [places.position(i) for i in ids] == list(range(1000)) and places[5] == ids[5] and len(places) == 1000
    for other in (None, "", "x", "0" * 31, "0" * 33, "f" * 32, "é" * 32, ids[0] + "0"):
        assert places.position(other) is None
