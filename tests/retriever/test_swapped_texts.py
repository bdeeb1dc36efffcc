"""Invariants: the loss over swapped texts is InfoNCE over composed queries that are really made, one a picture and text, as a loop
by the definition says; what asks for the target is no negative; rows of one part take no part; the addends of processes make up
the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mmret.errors import UserError
from mmret.retriever.train.batch import NONE, Batch
from mmret.retriever.train.objective import Objective
from mmret.retriever.train.parallel import Group
from mmret.settings import Recipe, load_profile
from tests.retriever.runs import a_trainer, small
from tests.retriever.test_loss import unit

QUERIES = np.array([0, 0, 2, 3, 4, 4, NONE, 5, 4, 6])  # rows 0 and 1 show one picture, 4 and 5 one query with two targets
TEXTS = ["red", "crimson", "red", "large", "old", "old", "a star", None, "aged", "green"]  # rows 0 and 2 share their text
TARGETS = np.array([10, 10, 11, 12, 13, 14, 15, 16, 13, 12])  # 0 and 1 ask for one picture; 3 and 9, from others; 8 as 4 does
BOTH = [0, 1, 2, 3, 4, 5, 8, 9]
NO_NEGATIVES = {(0, 1), (1, 0), (0, 2), (2, 0), (4, 5), (5, 4), (4, 8), (8, 4), (8, 5)}
"""A row, and a row whose text is spared: same picture and target; same text; one query with two targets, of which 8 has one."""
COUNT, CPU = len(QUERIES), torch.device("cpu")


def features():
    """Halves of the queries, of no special length, and unit vectors of the candidates."""
    pictures, texts = unit(COUNT, 1) * torch.linspace(0.5, 3, COUNT)[:, None], unit(COUNT, 2) * 1.7
    texts[2], texts[5] = texts[0], texts[4]
    pictures[1], pictures[5], pictures[8] = pictures[0], pictures[4], pictures[4]
    candidates = unit(COUNT + 3, 3)
    candidates[1], candidates[8], candidates[9] = candidates[0], candidates[4], candidates[3]
    return tuple(x.double().requires_grad_() for x in (pictures, texts, candidates))


def the_loss(pictures, texts, candidates, own=slice(0, COUNT), **changes):
    recipe = Recipe(**{"temperature": 0.1, "swapped_texts": 1.0} | changes)
    batch = Batch(QUERIES, TEXTS, np.append(TARGETS, [0, 2, 3]))
    halves = (pictures, texts) if recipe.swapped_texts else None
    return Objective(recipe, batch, own, CPU)(normalize(pictures + texts, dim=-1), candidates, halves)


def alone(*parts, **changes):
    """What the swapped texts add, by a weight of one if no other is given."""
    return the_loss(*parts, **changes) - the_loss(*parts, **changes | {"swapped_texts": 0.0})


def of_a_row(target, made, own, ignored, temperature, hardness):
    """InfoNCE of one target and the queries ``made``, by the formula."""
    cosines = [float(target @ query) for query in made]
    negatives = [c for c, mine, spared in zip(cosines, own, ignored, strict=True) if not mine and not spared]
    positive = math.exp(cosines[own.index(True)] / temperature)
    return -math.log(positive / (positive + sum(math.exp(c / temperature + hardness * c) for c in negatives)))


def by_definition(pictures, texts, candidates, spared=NO_NEGATIVES, hardness=0.0):
    rows = []
    for i in BOTH:
        made = normalize(torch.stack([pictures[i] + texts[j] for j in BOTH]), dim=-1)
        own, ignored = [j == i for j in BOTH], [(i, j) in spared for j in BOTH]
        rows.append(of_a_row(normalize(candidates[i], dim=-1), made, own, ignored, 0.1, hardness))
    return sum(rows) / COUNT


def test_it_is_the_loop_over_queries_that_are_really_made():
    parts = [x.detach() for x in features()]
    assert float(alone(*parts)) == pytest.approx(by_definition(*parts), rel=1e-10)
    assert float(alone(*parts, swapped_texts=0.5)) == pytest.approx(by_definition(*parts) / 2, rel=1e-10)
    assert float(alone(*parts, hardness=3.0)) == pytest.approx(by_definition(*parts, hardness=3.0), rel=1e-10)
    both = by_definition(*parts) + by_definition(*(x[:, :4] for x in parts))
    assert float(alone(*parts, matryoshka=(4,))) == pytest.approx(both / 2, rel=1e-10)


def test_without_the_mask_of_false_negatives_only_the_text_itself_and_a_query_with_several_targets_are_spared():
    parts = [x.detach() for x in features()]
    spared = {(0, 2), (2, 0), (4, 5), (5, 4)}
    assert float(alone(*parts, mask_false_negatives=False)) == pytest.approx(by_definition(*parts, spared=spared), rel=1e-10)


def test_rows_without_a_picture_or_without_a_text_take_no_part():
    parts = features()
    pictures, texts, candidates = torch.autograd.grad(alone(*parts), parts)
    for gradient in (pictures, texts, candidates):
        assert not gradient[6:8].any() and gradient[BOTH].abs().sum(1).amin() > 0 and not gradient[COUNT:].any()
    nothing = Batch(QUERIES[6:8], TEXTS[6:8], TARGETS[6:8])
    objective, without = (Objective(Recipe(swapped_texts=weight), nothing, slice(0, 2), CPU) for weight in (1.0, 0.0))
    assert objective(unit(2, 1), unit(2, 2), (unit(2, 3), unit(2, 4))) == without(unit(2, 1), unit(2, 2))


@pytest.mark.parametrize("masked", [True, False])
def test_texts_shown_together_spare_those_of_their_triplet_and_no_others_of_their_picture(masked):
    """One picture, triplets a and b of two texts each: the texts of b, another target, are the best negatives of those of a."""
    batch = Batch(
        np.zeros(4, np.int64),
        ["a", "aa", "b", "bb"],
        np.array([1, 1, 2, 2]),
        groups=np.array([0, 0, 1, 1]),
        visits=np.zeros(4, int),
    )
    recipe = Recipe(swapped_texts=1.0, reverse=1.0, mask_false_negatives=masked)
    objective = Objective(recipe, batch, slice(0, 4), CPU)
    of_the_triplet = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], dtype=torch.bool)
    assert torch.equal(objective.swapped_texts.ignored, of_the_triplet)
    assert torch.equal(objective.reverse.ignored, of_the_triplet)


def test_halves_that_cancel_neither_explode_nor_count_for_more_than_a_cosine():
    for nearly in range(30):  # of some of which the squared length comes out as zero or below in float32
        pictures, texts, candidates = (x.detach().float() for x in features())
        texts[3] = -pictures[0] * (1 + nearly * 1e-7)
        parts = tuple(x.requires_grad_() for x in (pictures, texts, candidates))
        loss = alone(*parts)
        assert 0 < float(loss.detach()) < 2 / 0.1 + math.log(COUNT)
        assert all(float(g.abs().max()) < 1e4 for g in torch.autograd.grad(loss, parts))


def test_halves_of_half_precision_are_compared_in_float32():
    half = [x.detach().bfloat16() for x in features()]
    recipe = Recipe(swapped_texts=1.0, temperature=0.1)
    objective = Objective(recipe, Batch(QUERIES, TEXTS, TARGETS), slice(0, COUNT), CPU)
    unit_again = normalize(half[2].float(), dim=-1)
    found = objective.swapped_texts((half[0], half[1]), unit_again, recipe)
    assert float(found) == pytest.approx(by_definition(half[0].double(), half[1].double(), unit_again.double()), rel=1e-5)


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
    ):
        with pytest.raises(UserError, match=said):
            load_profile("paper", {"recipes.new": {"swapped_texts": 0.5, **change}})


def test_the_embedders_halves_are_the_retrievers_features_and_add_up_to_its_queries(clip_folder, triplets, load, tmp_path):
    trainer = a_trainer(small("clip", swapped_texts=1.0), clip_folder, triplets, load, tmp_path)
    batch, embedder = trainer.data.batch(0), trainer.embedder
    embedder.model.eval()
    with torch.no_grad():
        parts, gather = embedder.parts(batch, embedder.read(batch))
        found = [part.in_order(torch.cat([part.encode(chunk) for chunk in part.chunks])) for part in parts]
        queries, _, (pictures, texts) = gather(*found)
    ids = trainer.data.images.take(batch.queries).to_pylist()
    shown = load(ids)
    alone = embedder.encode([shown[i] for i in ids]), embedder.retriever.encode(texts=list(batch.texts))
    for half, vectors in zip((pictures, texts), alone, strict=True):
        np.testing.assert_allclose(normalize(half, dim=-1).numpy(), vectors, atol=1e-5)
    torch.testing.assert_close(normalize(pictures + texts, dim=-1), queries)
