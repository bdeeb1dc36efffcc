"""A block of a gallery finds what brute force finds, whatever the processor, the batch and the filter; short vectors do so
nearly."""

import numpy as np
import pytest

import mmret.search.block as block
from mmret.errors import UserError
from mmret.ranking import best_first
from mmret.search.block import Block, merged
from mmret.search.options import SearchOptions
from mmret.search.sketch import Sketch


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def galleries() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((3001, 70))
    clusters = rng.standard_normal((40, 96))[rng.integers(0, 40, 2500)] + 0.2 * rng.standard_normal((2500, 96))
    alike = np.ones((1500, 64)) + 0.05 * rng.standard_normal((1500, 64))
    twins = np.repeat(rng.standard_normal((50, 33)), 20, axis=0)
    return {"spread": unit(spread), "clusters": unit(clusters), "alike": unit(alike), "twins": unit(twins), "one": unit(spread[:1])}


def brute_force(vectors, query, k, allowed=None):
    scores = (vectors.astype(np.float64) * query.astype(np.float64)).sum(1).astype(np.float32)
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    order = best_first(scores[rows])[:k]
    return rows[order], scores[rows[order]]


def agree(found, expected):
    np.testing.assert_allclose(found[1], expected[1], atol=1e-7)
    different = found[0] != expected[0]
    assert not different.any() or np.ptp(expected[1][different]) < 1e-6, "other rows, and no tie"


@pytest.mark.parametrize("fast", [True, False], ids=["sketch", "floats"])
@pytest.mark.parametrize("name", galleries())
def test_an_exact_block_finds_what_brute_force_finds(monkeypatch, name, fast):
    monkeypatch.setattr(block, "fast_sketches", lambda: fast)
    vectors, rng = galleries()[name], np.random.default_rng(1)
    queries = unit(np.concatenate([rng.standard_normal((3, vectors.shape[1])), vectors[:4]]))
    made = Block(vectors)
    for share in (None, 0.5, 0.02, 0.0):
        allowed = None if share is None else rng.random(len(vectors)) < share
        for k in (1, 10, 5000):
            for query, found in zip(queries, made.nearest(queries, k, allowed), strict=True):
                agree(found, brute_force(vectors, query, k, allowed))


def test_an_answer_does_not_depend_on_what_else_is_asked_in_the_batch():
    vectors = galleries()["clusters"]
    made, queries = Block(vectors), vectors[::100]
    together = made.nearest(queries, 20)
    for query, found in zip(queries, together, strict=True):
        alone = made.nearest(query[None], 20)[0]
        assert np.array_equal(alone[0], found[0]) and np.array_equal(alone[1], found[1])


@pytest.mark.parametrize("name", ["spread", "clusters", "alike", "twins"])
def test_a_sketch_is_never_further_from_a_score_than_it_says(name):
    vectors = galleries()[name]
    queries = unit(np.random.default_rng(2).standard_normal((5, vectors.shape[1])))
    products, base, scale, slack = Sketch(vectors).products(queries)
    off = np.abs(base[:, None] + scale[:, None] * products.numpy() - queries.astype(np.float64) @ vectors.astype(np.float64).T)
    assert (off.max(1) <= slack).all()
    if name == "alike":
        assert slack.max() < 0.01  # centred: short vectors, tight bounds


@pytest.mark.parametrize("options", [SearchOptions("int8"), SearchOptions("binary"), SearchOptions(dimensions=48)], ids=str)
def test_short_vectors_with_rescoring_give_exact_scores_and_nearly_all_neighbours(options):
    vectors = galleries()["clusters"]
    queries = vectors[::50]
    recall = []
    for query, (rows, scores) in zip(queries, Block(vectors, options).nearest(queries, 10), strict=True):
        np.testing.assert_allclose(scores, vectors[rows] @ query, atol=1e-6)
        recall.append(len(np.intersect1d(rows, brute_force(vectors, query, 10)[0])) / 10)
    assert np.mean(recall) > 0.95
    bare = Block(vectors, SearchOptions(options.precision, options.dimensions, rescore=0)).nearest(queries, 10)
    assert all(len(rows) == 10 and (np.diff(scores) <= 0).all() for rows, scores in bare)
    allowed = np.zeros(len(vectors), bool)
    allowed[::3] = True
    assert all(allowed[rows].all() for rows, _ in Block(vectors, options).nearest(queries, 10, allowed))


def test_blocks_merged_are_the_whole_gallery():
    vectors = galleries()["clusters"]
    starts = [0, 700, 701]
    blocks = [Block(part) for part in np.split(vectors, starts[1:])]
    for query in vectors[::200]:
        agree(merged([b.nearest(query[None], 30)[0] for b in blocks], starts, 30), brute_force(vectors, query, 30))


def test_options_that_make_no_sense_are_a_message():
    for options, said in ({"precision": "int4"}, "no precision 'int4'"), ({"dimensions": 0}, "1 or more"), ({"rescore": -1}, "0"):
        with pytest.raises(UserError, match=said):
            SearchOptions(**options)
    with pytest.raises(UserError, match="80"):
        Block(galleries()["alike"], SearchOptions(dimensions=80))
