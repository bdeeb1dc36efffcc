"""Invariants: a candidate nearer to a query than its target by more than the margin is no negative, as a loop by the definition
says, and nothing else changes; the query's own picture stays a negative; the mask is taken once, from whole vectors, without a
gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmret.retriever.train.batch import NONE, Batch
from mmret.retriever.train.loss import masks, nested_info_nce
from mmret.retriever.train.margin import beyond_margin, own_pictures
from mmret.retriever.train.objective import Objective
from mmret.settings import Recipe
from tests.retriever.test_loss import brute_force, unit
from tests.retriever.test_trainer import a_step, made, run

QUERIES = np.array([0, 1, 2, 3, 4])
CANDIDATES = np.array([10, 11, 11, 12, 2, 0, 1, 2, 3, 4, 30, 31])  # targets, the pictures that ask, mined ones; 2 is a target too


def a_batch(**changes) -> Batch:
    return Batch(QUERIES, [f"text {n}" for n in QUERIES], CANDIDATES, **changes)


def a_recipe(**changes) -> Recipe:
    return Recipe(temperature=0.1, **changes)


def masked_by_definition(queries, candidates, margin: float) -> torch.Tensor:
    found = torch.zeros(len(QUERIES), len(CANDIDATES), dtype=torch.bool)
    for i, query in enumerate(queries):
        target = float(query @ candidates[i])
        for j, candidate in enumerate(candidates):
            same = CANDIDATES[j] == CANDIDATES[i] or CANDIDATES[j] == QUERIES[i]
            found[i, j] = not same and float(query @ candidate) > target + margin
    return found


@pytest.mark.parametrize("rows", [64, 2])  # at once, and in blocks of queries
@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5])
def test_the_loss_is_that_of_a_loop_without_what_exceeds_the_target_by_more_than_the_margin(monkeypatch, margin, rows):
    monkeypatch.setattr("mmret.retriever.train.loss.ROWS", rows)
    monkeypatch.setattr("mmret.retriever.train.margin.ROWS", rows)
    queries, candidates = unit(len(QUERIES), 1), unit(len(CANDIDATES), 2)
    objective = Objective(a_recipe(mask_margin=margin), a_batch(), slice(0, 5), torch.device("cpu"))
    positives, ignored = masks(CANDIDATES[:5], CANDIDATES)
    masked = masked_by_definition(queries, candidates, margin)
    assert masked.any() and not masked.all(dim=1).any()
    expected = brute_force(queries, candidates, positives.numpy(), (ignored | masked).numpy(), 0.1)
    assert float(objective(queries, candidates)) == pytest.approx(expected, rel=1e-12)
    assert objective.figures() == {"masked": pytest.approx(float(masked.sum() / (~positives & ~ignored).sum()))}


def test_the_picture_that_asks_stays_a_negative_beside_a_text_however_near_it_is_and_no_other_does():
    queries, candidates = unit(5, 1), unit(len(CANDIDATES), 2)
    candidates[[5, 6, 7, 8, 9]] = queries  # each query is its own picture
    recipe = a_recipe(mask_margin=0.0)
    objective = Objective(recipe, a_batch(), slice(0, 5), torch.device("cpu"))
    masked = objective._ignored(queries, candidates) & ~objective.ignored
    assert not masked[range(5), range(5, 10)].any() and not masked[2, 4], "also where another row brings it"
    assert masked[4, 11] == (float(queries[4] @ candidates[11]) > float(queries[4] @ candidates[4]))
    assert own_pictures(a_batch()).sum() == 6


def test_of_a_query_of_one_part_nothing_says_that_its_own_picture_is_wrong_and_a_caption_shows_its_picture():
    sources = {"query_sources": np.array([[0, 0], [1, 1], [2, 2]]), "candidate_sources": np.array([[5, 5], [1, 1], [2, 2], [1, 1]])}
    batch = Batch(np.array([0, 1, NONE]), [None, "green", "a hat"], np.array([5, NONE, 2, 1]), [None, "cap", None, None], **sources)
    assert own_pictures(batch).tolist() == [[False] * 4, [False, True, False, True], [False] * 4]


def test_of_several_positives_the_nearest_counts_and_none_is_masked():
    queries = torch.tensor([[1.0, 0.0]])
    candidates = torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.9, 0.43589], [1.0, 0.0]])
    positives = torch.tensor([[True, True, False, False]])
    assert beyond_margin(queries, candidates, positives, 0.15).tolist() == [[False, False, False, True]]
    farther = torch.tensor([[True, False, False, False]])
    assert beyond_margin(queries, candidates, farther, 0.15).tolist() == [[False, True, True, True]]


def test_every_length_of_a_nested_loss_has_the_mask_of_whole_vectors_and_no_gradient_flows_through_it():
    queries, candidates = unit(5, 1).requires_grad_(), unit(len(CANDIDATES), 2).requires_grad_()
    recipe = a_recipe(mask_margin=0.1, matryoshka=(2, 5), hardness=3.0)
    loss = Objective(recipe, a_batch(), slice(0, 5), torch.device("cpu"))(queries, candidates)
    positives, ignored = masks(CANDIDATES[:5], CANDIDATES)
    ignored |= masked_by_definition(queries.detach(), candidates.detach(), 0.1)
    expected = nested_info_nce(queries, candidates, positives, ignored, 0.1, 3.0, (2, 5))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for one, other in zip(*(torch.autograd.grad(x, [queries, candidates]) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_the_log_has_the_share_masked_where_the_setting_is_on_and_a_resumed_run_the_same_rows(triplets, tmp_path):
    plain = run(made(triplets, tmp_path / "plain"))
    assert all("masked" not in row for row in plain.log)
    whole = run(made(triplets, tmp_path / "whole", mask_margin=0.0, checkpoint_every=6))
    shares = [row["masked"] for row in whole.log]
    assert all(0 < share < 1 for share in shares)
    resumed = run(made(triplets, tmp_path / "whole", mask_margin=0.0, checkpoint_every=6))  # from step 6, amid a row of the log
    assert [row["masked"] for row in resumed.log] == shares and len(shares) == 3


def test_a_margin_that_nothing_exceeds_is_no_mask_to_the_bit(triplets, tmp_path):
    plain, wide = made(triplets, tmp_path / "plain"), made(triplets, tmp_path / "wide", mask_margin=2.0)
    assert a_step(plain) == a_step(wide) and torch.equal(plain.embedder.model.weight, wide.embedder.model.weight)
