"""Invariants: the divergence between the texts of a triplet is that of a loop by its definition, whatever of the batch a process
takes and in how many blocks; texts that find the same have none; a query is drawn to the mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmret.retriever.train.agreement import Agreement
from mmret.retriever.train.batch import Batch
from mmret.retriever.train.parallel import Group
from tests.retriever.test_loss import unit

GROUPS = np.array([0, 0, 0, 1, 2, 3, 3, 2, 4, 3])  # of one to three texts, and not one after the other
CANDIDATES = np.array([10, 10, 10, 11, 12, 13, 13, 12, 11, 13, 20, 21, 10, 20])


def a_batch(groups=GROUPS) -> Batch:
    texts = [f"text {n}" for n in range(len(GROUPS))]
    return Batch(np.arange(len(GROUPS)), texts, CANDIDATES, groups=groups, visits=groups)


def by_definition(queries, candidates, temperature) -> float:
    first = [list(CANDIDATES).index(n) for n in sorted(set(CANDIDATES))]
    found = []
    for group in range(5):
        rows = [row for row, of in enumerate(GROUPS) if of == group]
        own = []
        for row in rows:
            odds = [math.exp(float((queries[row] @ candidates[c]).detach()) / temperature) for c in first]
            own.append([odd / sum(odds) for odd in odds])
        mean = [sum(values) / len(rows) for values in zip(*own, strict=True)]
        if len(rows) > 1:
            found.append(sum(m * math.log(m / p) for values in own for m, p in zip(mean, values, strict=True)) / len(rows))
    return sum(found) / len(found)


def inputs():
    return unit(len(GROUPS), 1).requires_grad_(), unit(len(CANDIDATES), 2).requires_grad_()


@pytest.mark.parametrize("rows", [64, 4, 1])
@pytest.mark.parametrize("size", [1, 2, 3, 12])
def test_it_is_the_loop_of_its_definition_for_any_number_of_processes_and_blocks(monkeypatch, rows, size):
    queries, candidates = inputs()
    whole = Agreement(a_batch(), slice(0, len(GROUPS)))(queries, candidates, 0.07)
    assert float(whole.detach()) == pytest.approx(by_definition(queries, candidates, 0.07), rel=1e-12)
    monkeypatch.setattr("mmret.retriever.train.agreement.ROWS", rows)
    shares = [Group(rank, size).share(len(GROUPS)) for rank in range(size)]
    addends = sum(Agreement(a_batch(), own)(queries, candidates, 0.07) for own in shares)
    torch.testing.assert_close(addends, whole, rtol=1e-12, atol=0)
    for one, other in zip(*(torch.autograd.grad(x, [queries, candidates]) for x in (addends, whole)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-15)


def test_the_gradient_of_a_querys_cosines_is_its_own_distribution_less_the_mean():
    queries, candidates = inputs()
    loss = Agreement(a_batch(), slice(0, len(GROUPS)))(queries, candidates, 0.07)
    (gradient,) = torch.autograd.grad(loss, queries)
    first = candidates[torch.from_numpy(np.unique(CANDIDATES, return_index=True)[1])]
    own = torch.softmax(queries @ first.T / 0.07, dim=1)
    for rows in ([0, 1, 2], [4, 7], [5, 6, 9]):
        expected = (own[rows] - own[rows].mean(dim=0)) @ first / 0.07 / len(rows) / 3
        torch.testing.assert_close(gradient[rows], expected, rtol=1e-10, atol=1e-14)
    assert not gradient[[3, 8]].any(), "a triplet of one text has nothing to agree with"


def test_texts_that_find_the_same_have_no_divergence_and_so_have_triplets_of_one_text():
    queries, candidates = inputs()
    alike = queries.detach()[torch.from_numpy(GROUPS)].requires_grad_()
    loss = Agreement(a_batch(), slice(0, len(GROUPS)))(alike, candidates, 0.02)
    assert abs(float(loss.detach())) < 1e-12 and torch.autograd.grad(loss, alike)[0].abs().max() < 1e-10
    for groups in (None, np.arange(len(GROUPS))):
        assert float(Agreement(a_batch(groups), slice(0, len(GROUPS)))(queries, candidates, 0.02)) == 0


def test_it_is_finite_where_two_texts_find_nothing_in_common_in_float32():
    queries = torch.eye(10)[[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]].requires_grad_()
    candidates = torch.eye(14)[:, :10]
    loss = Agreement(a_batch(), slice(0, len(GROUPS)))(queries, candidates, 0.001)
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, queries)[0]).all()
