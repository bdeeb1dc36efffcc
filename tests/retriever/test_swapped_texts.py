"""Invariants: the loss over swapped texts is InfoNCE over composed queries that are really made, one a picture and text, as a loop
by the definition says; what asks for the target is no negative; rows of one part take no part; the addends of processes make up
the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mmret.errors import UserError
from mmret.retriever.train.batch import NONE, Batch
from mmret.retriever.train.objective import Objective
from mmret.retriever.train.parallel import Group
from mmret.settings import Recipe, load_profile
from tests.retriever.test_loss import brute_force, unit

QUERIES = np.array([0, 0, 2, 3, 4, 4, NONE, 5])  # rows 0 and 1 show one picture, 4 and 5 one query with two targets
TEXTS = ["red", "crimson", "red", "large", "old", "old", "a star", None]  # rows 0 and 2 share their text
TARGETS = np.array([10, 10, 11, 12, 13, 14, 15, 16])  # rows 0 and 1 ask for one picture
BOTH = [0, 1, 2, 3, 4, 5]
NO_NEGATIVES = {(0, 1), (1, 0), (0, 2), (2, 0), (4, 5), (5, 4)}  # same picture and target, same text, one query
COUNT = len(QUERIES)


def features():
    """Halves of the queries, of no special length, and unit vectors of the candidates."""
    pictures, texts = unit(COUNT, 1) * torch.linspace(0.5, 3, COUNT)[:, None], unit(COUNT, 2) * 1.7
    texts[2], texts[5] = texts[0], texts[4]
    pictures[1], pictures[5] = pictures[0], pictures[4]
    candidates = unit(COUNT + 3, 3)
    candidates[1] = candidates[0]
    return tuple(x.double().requires_grad_() for x in (pictures, texts, candidates))


def the_loss(pictures, texts, candidates, own=slice(0, COUNT), **changes):
    recipe = Recipe(**{"temperature": 0.1, "swapped_texts": 1.0} | changes)
    batch = Batch(QUERIES, TEXTS, np.append(TARGETS, [0, 2, 3]))
    objective = Objective(recipe, batch, own, torch.device("cpu"))
    return objective(normalize(pictures + texts, dim=-1), candidates, (pictures, texts))


def alone(*parts, **changes):
    """What the swapped texts add, by a weight of one."""
    return the_loss(*parts, **changes) - the_loss(*parts, **changes | {"swapped_texts": 0.0})


def by_definition(pictures, texts, candidates):
    rows = []
    for i in BOTH:
        made = normalize(torch.stack([pictures[i] + texts[j] for j in BOTH]), dim=-1)
        own = np.array([[j == i for j in BOTH]])
        ignored = np.array([[(i, j) in NO_NEGATIVES for j in BOTH]])
        rows.append(brute_force(normalize(candidates[i : i + 1], dim=-1), made, own, ignored, 0.1))
    return sum(rows) / COUNT


def test_it_is_the_loop_over_queries_that_are_really_made():
    pictures, texts, candidates = (x.detach() for x in features())
    assert float(alone(pictures, texts, candidates)) == pytest.approx(by_definition(pictures, texts, candidates), rel=1e-10)
    assert float(alone(pictures, texts, candidates, matryoshka=(4,))) == pytest.approx(
        (by_definition(pictures, texts, candidates) + by_definition(*(x[:, :4] for x in (pictures, texts, candidates)))) / 2,
        rel=1e-10,
    )


def test_without_the_mask_of_false_negatives_only_the_text_itself_and_the_query_itself_are_spared():
    pictures, texts, candidates = (x.detach() for x in features())
    masked, plain = (float(alone(pictures, texts, candidates, mask_false_negatives=m)) for m in (True, False))
    assert plain > masked  # crimson pushes red away, from one picture to one target


def test_rows_without_a_picture_or_without_a_text_take_no_part():
    parts = features()
    pictures, texts, candidates = torch.autograd.grad(alone(*parts), parts)
    for gradient in (pictures, texts, candidates):
        assert not gradient[6:].any() and gradient[:6].abs().sum(1).amin() > 0
    nothing = Batch(QUERIES[6:], TEXTS[6:], TARGETS[6:])
    objective = Objective(Recipe(swapped_texts=1.0), nothing, slice(0, 2), torch.device("cpu"))
    without = Objective(Recipe(), nothing, slice(0, 2), torch.device("cpu"))
    assert objective(unit(2, 1), unit(2, 2), (unit(2, 3), unit(2, 4))) == without(unit(2, 1), unit(2, 2))


@pytest.mark.parametrize("size", [2, 5])
def test_the_addends_of_several_processes_are_the_whole_and_so_are_their_gradients(size):
    parts, changes = features(), {"swapped_texts": 0.5, "matryoshka": (4,), "hardness": 2.0, "reverse": 0.5}
    whole = the_loss(*parts, **changes)
    shares = sum(the_loss(*parts, Group(rank, size).share(COUNT), **changes) for rank in range(size))
    torch.testing.assert_close(shares, whole, rtol=1e-12, atol=0)
    for one, other in zip(*(torch.autograd.grad(loss, parts) for loss in (shares, whole)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_blocks_of_rows_change_nothing(monkeypatch):
    parts = features()
    whole = torch.autograd.grad(alone(*parts), parts)
    monkeypatch.setattr("mmret.retriever.train.loss.ROWS", 2)
    for one, other in zip(torch.autograd.grad(alone(*parts), parts), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_a_recipe_without_it_is_as_before_it_existed_and_one_that_cannot_have_it_is_refused():
    assert "swapped_texts" not in Recipe().decisive() and Recipe(swapped_texts=0.5).decisive()["swapped_texts"] == 0.5
    for change, said in (
        ({"kind": "mllm"}, "no sum"),
        ({"kind": "reranker"}, "of retrievers"),
        ({"tasks": {"text_to_image": 1}}, "add composed"),
    ):
        with pytest.raises(UserError, match=said):
            load_profile("paper", {"recipes.new": {"swapped_texts": 0.5, **change}})
