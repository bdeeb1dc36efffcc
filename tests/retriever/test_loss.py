"""Invariants: the masked in-batch loss equals a brute-force loop; masks follow image ids; no candidate but the
positive is no loss."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from mmret.retriever.train.loss import info_nce, masks, nested_info_nce


def unit(rows: int, seed: int, width: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)


def brute_force(queries, candidates, positives, ignored, temperature):
    losses = []
    for i, q in enumerate(queries):
        scores = [math.exp(float(q @ c) / temperature) for c in candidates]
        negatives = sum(s for j, s in enumerate(scores) if not positives[i, j] and not ignored[i, j])
        own = [-math.log(s / (s + negatives)) for j, s in enumerate(scores) if positives[i, j]]
        losses.append(sum(own) / len(own))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("mask", [True, False])
def test_in_batch_loss_with_ragged_negatives_equals_a_loop(mask):
    targets = np.array([0, 1, 1, 2])  # two queries share their target
    candidates = np.array([0, 1, 1, 2, 5, 6, 1, 0, 9])  # the targets, then negatives; 1 and 0 are targets of others too
    queries, features = unit(4, 1), unit(9, 2)
    positives, ignored = masks(targets, candidates, mask_false_negatives=mask)
    loss = info_nce(queries, features, positives, ignored, 0.07)
    expected = brute_force(queries, features, positives.numpy(), ignored.numpy(), 0.07)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_several_positives_average_and_are_no_negatives_of_each_other():
    queries, features = unit(3, 3), unit(7, 4)
    positives = torch.tensor([[1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0]], dtype=torch.bool)
    ignored = torch.zeros_like(positives)
    ignored[1, 6] = True
    loss = info_nce(queries, features, positives, ignored, 0.05)
    expected = brute_force(queries, features, positives.numpy(), ignored.numpy(), 0.05)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_with_one_positive_and_no_mask_it_is_cross_entropy():
    queries, features = unit(5, 5), unit(11, 6)
    positives, ignored = masks(np.arange(5), np.arange(11), mask_false_negatives=False)
    assert torch.allclose(
        info_nce(queries, features, positives, ignored, 0.02),
        cross_entropy(queries @ features.T / 0.02, torch.arange(5)),
        rtol=1e-12,
    )


def test_masks_ignore_other_occurrences_of_the_target():
    positives, ignored = masks(np.array([7, 8]), np.array([7, 8, 7, 3]))
    assert positives.tolist() == [[True, False, False, False], [False, True, False, False]]
    assert ignored.tolist() == [[False, False, True, False], [False, False, False, False]]


def test_a_query_without_negatives_has_no_loss_and_a_finite_gradient():
    queries, features = unit(2, 7).requires_grad_(), unit(2, 8)
    positives = torch.eye(2, dtype=torch.bool)
    loss = info_nce(queries, features, positives, ~positives, 0.02)
    loss.backward()
    assert float(loss.detach()) == 0.0 and torch.isfinite(queries.grad).all()


def test_half_precision_features_are_compared_in_float32():
    queries, features = unit(4, 9).to(torch.bfloat16), unit(6, 10).to(torch.bfloat16)
    positives, ignored = masks(np.arange(4), np.arange(6))
    assert info_nce(queries, features, positives, ignored).dtype == torch.float32


@pytest.mark.parametrize("hardness", [0.0, 2.0])
@pytest.mark.parametrize("ignore", [True, False])
def test_a_loss_taken_in_blocks_of_queries_has_the_value_and_the_gradients_of_the_whole(monkeypatch, ignore, hardness):
    targets, candidates = np.array([0, 1, 1, 2, 3, 4, 5]), np.array([0, 1, 1, 2, 3, 4, 5, 1, 0, 9])

    def taken() -> tuple[torch.Tensor, ...]:
        queries, features = unit(7, 3).requires_grad_(), unit(10, 4).requires_grad_()
        positives, ignored = masks(targets, candidates)
        loss = info_nce(queries, features, positives, ignored if ignore else None, 0.07, hardness)
        return loss, *torch.autograd.grad(loss, [queries, features])

    whole = taken()
    monkeypatch.setattr("mmret.retriever.train.loss.ROWS", 3)
    for one, other in zip(whole, taken(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rows", [64, 3])  # at once, and in blocks of queries
def test_the_nested_loss_is_the_mean_over_prefixes_of_unit_length_and_the_whole(monkeypatch, rows):
    monkeypatch.setattr("mmret.retriever.train.loss.ROWS", rows)
    queries, features = unit(7, 11).requires_grad_(), unit(10, 12).requires_grad_()
    positives, ignored = masks(np.array([0, 1, 1, 2, 3, 4, 5]), np.array([0, 1, 1, 2, 3, 4, 5, 1, 0, 9]))
    loss = nested_info_nce(queries, features, positives, ignored, 0.07, 2.0, (2, 5))
    expected = info_nce(queries, features, positives, ignored, 0.07, 2.0) / 3
    for d in (2, 5):
        short = (normalize(vectors[:, :d], dim=1) for vectors in (queries, features))
        expected = expected + info_nce(*short, positives, ignored, 0.07, 2.0) / 3
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for ours, theirs in zip(*(torch.autograd.grad(x, [queries, features]) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
    plain = info_nce(queries, features, positives, ignored, 0.07)
    assert torch.equal(nested_info_nce(queries, features, positives, ignored, 0.07), plain), "off, it is the loss of before"


def test_the_nested_loss_weights_lengths_as_sentence_transformers_does():
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    theirs = losses.MultipleNegativesRankingLoss(None, scale=10.0)
    queries, targets = unit(5, 3), unit(5, 4)
    positives, ignored = masks(np.arange(5), np.arange(5))
    ours = nested_info_nce(queries, targets, positives, ignored, 0.1, dimensions=(2, 4))
    of_each = [theirs.compute_loss_from_embeddings([queries[:, :d], targets[:, :d]], None) for d in (8, 4, 2)]
    model = SimpleNamespace(get_embedding_dimension=lambda: 8)
    weights = losses.MatryoshkaLoss(model, theirs, [8, 4, 2]).matryoshka_weights
    assert len(set(weights)) == 1
    torch.testing.assert_close(ours, (sum(of_each) / 3).double(), rtol=1e-6, atol=0)
