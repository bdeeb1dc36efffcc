"""Ranking equals brute force whatever the block; ties never help; vectors that are not numbers are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmret import ranking as module
from mmret.errors import UserError
from mmret.ranking import best_first, rank, recall_at, target_ranks


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
        patch.setattr(module, "BLOCK_BYTES", block_bytes)
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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_by_the_one_ordering(value):
    with pytest.raises(UserError, match="1 of 3 scores are not finite"):
        best_first(np.array([1, value, 0], np.float32))


def test_products_that_overflow_are_refused_instead_of_ranked_first():
    huge = np.full((2, 4), 1e38, np.float32)
    with pytest.raises(UserError, match="overflow"):
        target_ranks(huge, huge, [{0}, {1}])


def test_equal_scores_are_ordered_by_level_then_by_place():
    assert best_first(np.array([1, 2, 1, 1])).tolist() == [1, 0, 2, 3]
    assert best_first(np.array([1, 2, 1, 1]), np.array([2, 0, 1, 0])).tolist() == [1, 3, 2, 0]
