"""Invariants: the loss asked back is InfoNCE from each target to the batch's queries, as a loop by the definition says; a query
that asks for the target too is no negative; the way there is as it was; processes' addends make up the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmret.retriever.train.batch import Batch
from mmret.retriever.train.objective import Objective
from mmret.retriever.train.parallel import Group
from mmret.settings import Recipe
from tests.retriever.test_loss import brute_force, unit

QUERIES = np.array([0, 1, 2, 3, 4, 4])  # the last two are one query with two targets
TEXTS = ["red", "blue", "small", "large", "old", "old"]
CANDIDATES = np.array([10, 11, 11, 12, 13, 14, 0, 1, 2, 3, 4, 4, 11])  # two rows share a target; one is a mined negative too
COUNT = len(QUERIES)
CPU = torch.device("cpu")


def the_loss(queries, candidates, own=slice(0, COUNT), **changes):
    recipe = Recipe(temperature=0.1, **changes)
    return Objective(recipe, Batch(QUERIES, TEXTS, CANDIDATES), own, CPU)(queries, candidates)


def vectors():
    return unit(COUNT, 1).requires_grad_(), unit(len(CANDIDATES), 2).requires_grad_()


@pytest.mark.parametrize("masked", [True, False])
def test_it_is_the_loop_of_its_definition_besides_the_loss_there(masked):
    queries, candidates = vectors()
    found = the_loss(queries, candidates, reverse=0.5, mask_false_negatives=masked)
    own = np.eye(COUNT, dtype=bool)
    asks_for = np.zeros_like(own)  # of targets, which other queries ask for them
    asks_for[4, 5] = asks_for[5, 4] = True  # one query: its targets are no negatives of one another
    if masked:
        asks_for |= CANDIDATES[:COUNT, None] == CANDIDATES[None, :COUNT]
    back = brute_force(candidates[:COUNT].detach(), queries.detach(), own, asks_for & ~own, 0.1)
    there = float(the_loss(queries, candidates, mask_false_negatives=masked).detach())
    assert float(found.detach()) == pytest.approx(there + 0.5 * back, rel=1e-12)


@pytest.mark.parametrize("size", [2, 4])
def test_the_addends_of_several_processes_are_the_whole_and_so_are_their_gradients(size):
    queries, candidates = vectors()
    changes = {"reverse": 0.5, "matryoshka": (4,), "hardness": 2.0}
    whole = the_loss(queries, candidates, **changes)
    shares = sum(the_loss(queries, candidates, Group(rank, size).share(COUNT), **changes) for rank in range(size))
    torch.testing.assert_close(shares, whole, rtol=1e-12, atol=0)
    for one, other in zip(*(torch.autograd.grad(loss, [queries, candidates]) for loss in (shares, whole)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_a_target_is_drawn_from_the_queries_that_do_not_ask_for_it_and_hard_negatives_are_not_asked():
    queries, candidates = vectors()
    there, both = (torch.autograd.grad(the_loss(queries, candidates, reverse=w), candidates)[0] for w in (0.0, 1.0))
    back = both - there
    assert not back[COUNT:].any() and back[:COUNT].abs().amin() > 0


def test_a_recipe_without_it_is_as_before_it_existed():
    assert "reverse" not in Recipe().decisive() and Recipe(reverse=0.5).decisive()["reverse"] == 0.5
