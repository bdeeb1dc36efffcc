"""Invariants: a pass holds as many tokens as the budget says, padding counted, and rows of like length share it; features, and so
loss and gradient, are those of any other chunks, whatever order the rows went through in; one long text makes no
other chunk smaller."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from mmret.retriever.train import gradcache
from mmret.retriever.train.batch import Batch
from mmret.retriever.train.chunks import Limits, Together, by_tokens, cut
from mmret.retriever.train.pairs import Pairs
from mmret.retriever.train.part import Part
from tests.retriever.mllm_folders import qwen2_vl, with_answers
from tests.retriever.runs import a_trainer, small
from tests.retriever.test_cached_gradient import close, gradients, one_graph
from tests.retriever.test_recipe_settings import assert_close

LONG = "a red square left of a blue circle " * 2


@pytest.fixture(scope="module")
def bases(clip_folder, tmp_path_factory):
    mllm = qwen2_vl(tmp_path_factory.mktemp("qwen2_vl"))
    return {"clip": clip_folder, "mllm": mllm, "reranker": clip_folder}


@pytest.fixture(scope="module")
def one_long(triplets):
    """The triplets, of which every fifth has one long text."""
    texts = [[LONG] if n % 5 == 0 else own for n, own in enumerate(triplets["texts"].to_pylist())]
    column = triplets.schema.get_field_index("texts")
    return triplets.set_column(column, "texts", pa.array(texts, triplets.schema.field("texts").type))


def test_chunks_by_hand_of_one_long_text_among_short_ones():
    lengths = [5, 4, 77, 6, 5, 5, 4, 6, 5]
    assert by_tokens(lengths, Limits(80)) == [[2], [3, 7, 0, 4, 5, 8, 1, 6]]
    assert by_tokens(lengths, Limits(24)) == [[2], [3, 7, 0, 4], [5, 8, 1, 6]]
    assert by_tokens(lengths, Limits(24, 2)) == [[2], [3, 7], [0, 4], [5, 8], [1, 6]]
    assert by_tokens(lengths, Limits(1)) == [[2], [3], [7], [0], [4], [5], [8], [1], [6]]  # beyond the budget: by itself
    assert by_tokens([], Limits(24)) == []


def test_what_belongs_together_is_never_parted_and_counts_all_its_sequences():
    units = [Together((0, 1, 2), 8, 3), Together((3,), 9, 1), Together((4, 5), 7, 2), Together((6,), 2, 1)]

    def chunks(limits):
        return [[unit.rows for unit in chunk] for chunk in cut(units, limits)]

    assert chunks(Limits(tokens=36)) == [[(3,), (0, 1, 2)], [(4, 5), (6,)]]
    assert chunks(Limits(rows=3)) == [[(0, 1, 2)], [(3,), (4, 5)], [(6,)]]
    assert chunks(Limits(rows=2)) == [[(0, 1, 2)], [(3,)], [(4, 5)], [(6,)]]
    assert chunks(Limits()) == [[unit.rows for unit in units]]


@pytest.mark.parametrize("budget, rows", [(1, None), (9, None), (60, 4), (200, None), (10**6, 3)])
def test_every_row_is_in_one_chunk_within_both_limits_whatever_the_lengths(budget, rows):
    lengths = np.random.default_rng(budget).integers(1, 90, 300).tolist()
    chunks = by_tokens(lengths, Limits(budget, rows))
    assert sorted(row for chunk in chunks for row in chunk) == list(range(300))
    for chunk in chunks:
        longest = max(lengths[row] for row in chunk)
        assert len(chunk) == 1 or (len(chunk) * longest <= budget and len(chunk) <= (rows or 300))
    longest = [max(lengths[row] for row in chunk) for chunk in chunks]
    assert longest == sorted(longest, reverse=True)


def test_features_and_gradients_are_put_back_in_the_rows_own_order():
    order, rows = [2, 0, 3, 1], torch.arange(8.0, dtype=torch.float64).view(4, 2)
    part = Part(lambda chunk: rows[chunk], [[2, 0], [3, 1]], 4, order=order)
    chunked = torch.cat([part.encode(chunk) for chunk in part.chunks])
    assert torch.equal(part.in_order(chunked), rows) and torch.equal(part.of_chunks(rows), chunked)
    assert Part(None, []).in_order(rows) is rows
    weights = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for chunks, order in (([[0, 1, 2, 3]], None), ([[2, 0], [3, 1]], [2, 0, 3, 1])):
        weight = weights.clone().requires_grad_()
        own = Part(lambda chunk, weight=weight: rows[chunk] @ weight, chunks, 4, order=order)
        loss = gradcache.cached_backward([own], lambda features: (features.T * torch.tensor([1.0, 2.0, 3.0, 4.0])).sin().sum())
        found.append((loss, weight.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=0)


def test_a_long_text_has_a_pass_of_the_text_tower_to_itself(bases, one_long, load, tmp_path):
    made = a_trainer(small("clip", chunk_tokens=30), bases["clip"], one_long, load, tmp_path)
    texts = ["no hat", "the same", LONG, "larger", "no hat larger"]
    batch = Batch(np.zeros(5, np.int64), texts, np.ones(5, np.int64))
    _, part = made.embedder.parts(batch, made.embedder.read(batch))[0]
    lengths = [[len(ids) for ids in chunk] for chunk in part.chunks]
    distinct = [len(ids) for ids in made.embedder.retriever.tokens(batch.distinct_texts()[0])]
    assert max(distinct) == 18 and sorted(distinct)[-2] < 8
    assert lengths[0] == [18] and all(len(chunk) * max(chunk) <= 30 for chunk in lengths[1:])
    assert [length for chunk in lengths for length in chunk] == [distinct[row] for row in part.order] == sorted(distinct)[::-1]
    padded = made.embedder._text_chunks  # a tower that is given every text padded to its limit has no short texts
    made.embedder.retriever.padded = True
    try:
        assert padded([3, 18, 4]) == [[0], [1], [2]]
    finally:
        del made.embedder.retriever.padded


def test_prompts_are_counted_as_the_processor_makes_them_with_their_pictures(bases, one_long, load, tmp_path):
    made = a_trainer(small("mllm", chunk_tokens=160), bases["mllm"], one_long, load, tmp_path)
    batch = made.data.batch(0)
    read = made.embedder.read(batch)
    asked, shown = made.embedder.parts(batch, read)[0]
    for part in (asked, shown):
        for prompts, pictures in part.chunks:
            rows, longest = made.embedder.retriever.inputs(prompts, pictures)["input_ids"].shape
            assert rows == 1 or rows * longest <= 160
    query = [(prompt, picture) for prompts, pictures in asked.chunks for prompt, picture in zip(prompts, pictures, strict=True)]
    assert [query[asked.order.index(row)] for row in range(len(query))] == made.embedder.prompts(read[0])
    assert len(asked.chunks[0][0]) < len(asked.chunks[-2][0])  # the long ones come first, fewer of them
    reader = made.embedder.retriever
    assert reader.picture_tokens(None) == 0 and reader.tokens([], []) == []
    prompts = [prompt for prompt, _ in query[:3]]
    mask = reader.inputs(prompts, [picture for _, picture in query[:3]])
    exact = [ids[there.bool()].tolist() for ids, there in zip(mask["input_ids"], mask["attention_mask"], strict=True)]
    assert reader.tokens(prompts, [reader.picture_tokens(picture) for _, picture in query[:3]]) == exact


@pytest.mark.parametrize("kind, budget", [("clip", 30), ("clip", 1), ("mllm", 160), ("reranker", 60)])
def test_a_budget_of_tokens_changes_no_gradient(kind, budget, bases, one_long, load, tmp_path):
    def a_step(**changes):
        made = a_trainer(small(kind, **changes), bases[kind], one_long, load, tmp_path / str(changes))
        for name, parameter in made.embedder.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
        made.embedder.model.train()
        batch = made.data.batch(0)
        loss = made.backward(batch, made.embedder.read(batch))
        return loss, {n: p.grad for n, p in made.embedder.model.named_parameters() if p.grad is not None}

    (expected, whole), (loss, gradient) = a_step(chunk_size=1000), a_step(chunk_size=3, chunk_tokens=budget)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert_close(gradient, whole)


@pytest.mark.parametrize("kind", ["clip", "mllm"])
def test_the_cached_gradient_is_the_full_batchs_with_dropout_on(kind, bases, one_long, load, tmp_path, monkeypatch):
    arguments = (bases, one_long, load, tmp_path, monkeypatch)
    budget = {"clip": 30, "mllm": 160}[kind]
    full = gradients(kind, 3, one_graph, *arguments, chunk_tokens=budget)
    assert close(full, gradients(kind, 3, gradcache.cached_backward, *arguments, chunk_tokens=budget))

    def forgotten(parts, loss_of, *group):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Part, "of_chunks", lambda self, rows: rows)
            return gradcache.cached_backward(parts, loss_of, *group)

    assert not close(full, gradients(kind, 3, forgotten, *arguments, chunk_tokens=budget))


def test_pairs_of_an_mllm_reranker_are_counted_with_both_pictures(bases, one_long, load, tmp_path):
    base = with_answers(qwen2_vl(tmp_path / "base"))
    recipe = small("mllm", chunk_tokens=400).model_dump(exclude={"kind", "temperature"})
    recipe = small("reranker", base=str(base), **{k: recipe[k] for k in ("lora", "chunk_tokens")})
    made = a_trainer(recipe, base, one_long, load, tmp_path / "work")
    batch = made.data.batch(0)
    pairs = Pairs.of(batch, recipe)
    part = made.embedder.score_part(batch, pairs, made.embedder.read(batch))
    assert sorted(part.order) == list(range(len(pairs))) and len(part.chunks) > 1
    seen = []
    made.embedder.retriever.scores = lambda rows: seen.append(rows) or torch.zeros(len(rows))
    for chunk in part.chunks:
        part.encode(chunk)
        pictures = [picture for _, shown in seen[-1] for picture in shown]
        rows, longest = made.embedder.retriever.reader.inputs([prompt for prompt, _ in seen[-1]], pictures)["input_ids"].shape
        assert rows == 1 or rows * longest <= 400
