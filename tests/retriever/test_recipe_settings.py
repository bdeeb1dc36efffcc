"""Invariants of a recipe's settings: several positives and hardness are their formulas; precision, gradient checkpointing and
compilation change cost and not the gradient (bfloat16: hardly); settings that contradict each other are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mmret.errors import UserError
from mmret.retriever.train.data import Batch
from mmret.retriever.train.loss import info_nce, masks
from mmret.settings import load_profile
from tests.retriever.mllm_folders import qwen2_vl
from tests.retriever.runs import KINDS, a_trainer, small


@pytest.fixture(scope="module")
def bases(clip_folder, tmp_path_factory):
    return {"clip": clip_folder, "mllm": qwen2_vl(tmp_path_factory.mktemp("qwen2_vl"))}


def unit(rows: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


# -- loss -------------------------------------------------------------------------------------------------------------


def test_rows_of_one_query_share_their_targets():
    targets, queries = np.array([5, 6, 7, 6, 5]), np.array([0, 0, 1, 0, 0])  # rows 0, 1, 3 and 4 ask the same
    candidates = np.concatenate([targets, [6, 9]])
    positives, ignored = masks(targets, candidates, queries=queries)
    assert positives.int().tolist() == [
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0],
        [1, 0, 0, 1, 0, 0, 0],
        [0, 1, 0, 0, 1, 0, 0],
    ]
    assert (positives & ignored).sum() == 0
    for row in (0, 1, 3, 4):  # 5 and 6 count once as a positive and never as a negative, 7 and 9 are negatives
        negatives = candidates[(~positives & ~ignored)[row].numpy()]
        assert sorted(candidates[positives[row].numpy()]) == [5, 6] and set(negatives) == {7, 9}
    assert set(candidates[(~positives & ~ignored)[2].numpy()]) == {5, 6, 9}
    alone, _ = masks(targets, candidates, queries=np.arange(5))
    assert torch.equal(alone, masks(targets, candidates)[0]) and (alone.sum(dim=1) == 1).all()


def test_one_query_is_one_image_with_one_text():
    batch = Batch(np.array([3, 3, 3, 4]), ["a", "b", "a", "a"], np.array([0, 1, 2, 5]))
    distinct, where = batch.distinct_queries()
    assert distinct == [(3, "a"), (3, "b"), (4, "a")] and where.tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("several", [True, False])
def test_a_batch_with_several_targets_of_a_query_trains_on_them_all_or_on_its_own(several, bases, triplets, load, tmp_path):
    trainer = a_trainer(
        small("clip", several_positives=several, mask_false_negatives=False), bases["clip"], triplets, load, tmp_path
    )
    numbers = np.arange(6)
    batch = Batch(np.array([0, 0, 1]), ["no hat", "no hat", "no hat"], numbers[[2, 3, 4]])
    loss = trainer.backward(batch, trainer.embedder.read(batch))
    parts, gather = trainer.embedder.parts(batch, trainer.embedder.read(batch))
    with torch.no_grad():
        queries, candidates = gather(*(torch.cat([p.encode(c) for c in p.chunks]) for p in parts))
    terms = torch.exp(queries @ candidates.T / 0.1)
    own = -torch.log(terms.diagonal() / terms.sum(dim=1))
    if several:
        first = [-torch.log(terms[i, j] / (terms[i, j] + terms[i, 2])) for i in (0, 1) for j in (0, 1)]
        expected = (sum(first) / 2 + own[2]) / 3
    else:
        expected = own.mean()
    torch.testing.assert_close(loss, expected.to(loss), rtol=1e-9, atol=0)


def test_hardness_weights_each_negative_by_its_cosine_and_has_no_gradient_of_its_own():
    queries, candidates, strength = unit(4, 1).requires_grad_(), unit(9, 2), 9.0
    positives, ignored = masks(np.arange(4), np.array([*range(4), 7, 8, 2, 9, 10]))
    loss = info_nce(queries, candidates, positives, ignored, 0.1, strength)
    cosines = queries @ candidates.T
    weights = torch.exp(strength * cosines.detach())
    terms, kept = torch.exp(cosines / 0.1), (~positives & ~ignored).double()
    own = terms.diagonal()
    expected = -torch.log(own / (own + (weights * terms * kept).sum(dim=1))).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    (ours,), (theirs,) = (torch.autograd.grad(x, [queries], retain_graph=True) for x in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
    assert loss > info_nce(queries, candidates, positives, ignored, 0.1)
    assert torch.equal(
        info_nce(queries, candidates, positives, ignored, 0.1, 0.0), info_nce(queries, candidates, positives, ignored, 0.1)
    )


def test_hardness_is_that_of_sentence_transformers_where_that_knows_all_negatives():
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    theirs = losses.MultipleNegativesRankingLoss(None, scale=10.0, hardness_mode="all_negatives", hardness_strength=5.0)
    queries, targets, negatives = unit(5, 3), unit(5, 4), unit(5, 5)
    positives, ignored = masks(np.arange(5), np.arange(10))
    ours = info_nce(queries, torch.cat([targets, negatives]), positives, ignored, 0.1, 5.0)
    expected = theirs.compute_loss_from_embeddings([queries, targets, negatives], None)
    torch.testing.assert_close(ours, expected.double(), rtol=1e-6, atol=0)


# -- cost -------------------------------------------------------------------------------------------------------------


def a_step(kind, bases, triplets, load, work, double=True, **changes):
    """A trainer after the backward pass of one step, and its gradients."""
    trainer = a_trainer(small(kind, chunk_size=4, **changes), bases[kind], triplets, load, work, double)
    for name, parameter in trainer.embedder.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    trainer.embedder.model.train()
    batch = trainer.data.batch(0)
    trainer.backward(batch, trainer.embedder.read(batch))
    return trainer, {n: p.grad for n, p in trainer.embedder.model.named_parameters() if p.grad is not None}


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    scale = max(float(g.abs().max()) for g in theirs.values())
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-7 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_any_size_have_one_gradient(kind, bases, triplets, load, tmp_path):
    _, whole = a_step(kind, bases, triplets, load, tmp_path / "a")
    for size in (1, 1000):
        trainer = a_trainer(small(kind, chunk_size=size), bases[kind], triplets, load, tmp_path / str(size))
        for name, parameter in trainer.embedder.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
        batch = trainer.data.batch(0)
        trainer.backward(batch, trainer.embedder.read(batch))
        assert_close({n: p.grad for n, p in trainer.embedder.model.named_parameters() if p.grad is not None}, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_runs_each_layer_again_and_changes_no_gradient(kind, bases, triplets, load, tmp_path):
    def counted(**changes):
        calls = []
        hook = torch.nn.modules.module.register_module_forward_pre_hook(
            lambda module, *_: calls.append(1) if type(module).__name__.endswith("MLP") else None
        )
        try:
            _, gradients = a_step(kind, bases, triplets, load, tmp_path / str(len(changes)), **changes)
        finally:
            hook.remove()
        return len(calls), gradients

    plain, expected = counted()
    again, gradients = counted(gradient_checkpointing=True)
    assert again > plain
    assert_close(gradients, expected)


COMPILED = [
    ("clip", "eager"),
    pytest.param("clip", "inductor", marks=pytest.mark.slow),
    pytest.param("mllm", "eager", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("kind, backend", COMPILED)
def test_a_compiled_model_has_the_same_gradient_and_weight_names(kind, backend, bases, triplets, load, tmp_path):
    plain, expected = a_step(kind, bases, triplets, load, tmp_path / "plain")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled, gradients = a_step(kind, bases, triplets, load, tmp_path / "compiled", compile=backend)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0, "the towers ran as they are"
    assert_close(gradients, expected)
    assert compiled.embedder.model.state_dict().keys() == plain.embedder.model.state_dict().keys()
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_keeps_trained_weights_in_float32_and_points_the_same_way(kind, bases, triplets, load, tmp_path):
    _, expected = a_step(kind, bases, triplets, load, tmp_path / "full", double=False)
    trainer, gradients = a_step(kind, bases, triplets, load, tmp_path / "half", double=False, precision="bfloat16")
    assert all(p.dtype == torch.float32 for p in trainer.parameters)
    ours, theirs = (torch.cat([g[n].flatten().double() for n in expected]) for g in (gradients, expected))
    cosine = float(ours @ theirs / ours.norm() / theirs.norm())
    assert 0.97 < cosine < 1 - 1e-12  # not the very same: the setting does something
    loss, norm = trainer.train_step(trainer.data.batch(1), trainer.embedder.read(trainer.data.batch(1)))
    assert math.isfinite(loss) and math.isfinite(norm)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("processes", 2, "outside"),
        ("hardness", -1, "greater than or equal"),
        ("precision", "int8", "bfloat16"),
        ("compile", "yes", "inductor"),
        ("kind", "bert", "clip"),
        ("evaluate_every", 0, "greater than"),
        ("lora", {"rank": 0}, "greater than"),
        ("lora", {"rang": 8}, "not permitted"),
        ("trainable", "none", "text"),
        ("parallel", "zero", "fsdp"),
        ("parallel", "fsdp", "matrix_learning_rate needs whole matrices"),  # which demo trains by Muon
        ("workers", 512, "share a batch"),
        ("workers", 0, "greater than"),
        *(
            (name, math.inf, "finite")
            for name in ("agreement", "reverse", "swapped_texts", "mask_margin", "distillation", "teacher_temperature")
        ),
        ("matryoshka", [16, 8], "ascending"),
        ("matryoshka", [8, 8], "each once"),
        ("matryoshka", [0, 8], "from 1 on"),
    ],
)
def test_settings_out_of_range_are_named(key, value, said):
    with pytest.raises(UserError, match=f"recipes.demo.*\n?.*{said}"):
        load_profile("demo", {f"recipes.demo.{key}": value})


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(UserError, match="lora.target_modules"):
        load_profile("demo", {"recipes.demo.kind": "mllm"})  # demo says trainable: text+blocks
    with pytest.raises(UserError, match="share a batch"):
        load_profile("demo", {"recipes.demo.outside": True, "recipes.demo.processes": 512})
    with pytest.raises(UserError, match="workers are of a Ray cluster"):
        load_profile("demo", {"recipes.demo.outside": True, "recipes.demo.processes": 2, "recipes.demo.workers": 2})
    for more, said in (
        ({"compile": "eager"}, "compile and parallel 'fsdp'"),
        ({"kind": "reranker", "temperature": 0.02}, "of retrievers"),
    ):
        with pytest.raises(UserError, match=said):
            load_profile("demo", {"recipes.new": {"parallel": "fsdp", **more}})


@pytest.mark.parametrize("kind, dim", [("clip", 16), ("mllm", 32)])
def test_a_length_that_the_models_vectors_have_not_is_refused_before_training(kind, dim, bases, triplets, load, tmp_path):
    a_trainer(small(kind, matryoshka=(4, dim - 1)), bases[kind], triplets, load, tmp_path / "fits")
    for width in (dim, dim + 1):
        with pytest.raises(
            UserError, match=f"matryoshka has {width}, but vectors of .* have {dim} dimensions: give numbers below {dim}"
        ):
            a_trainer(small(kind, matryoshka=(4, width)), bases[kind], triplets, load, tmp_path / str(width))


def test_the_papers_recipes_are_the_papers():
    recipes = load_profile("paper").recipes
    rows = {name: (r.batch_size, r.steps, r.mined_negatives + 1, r.learning_rate, r.temperature) for name, r in recipes.items()}
    assert rows["base"] == (2048, 15_000, 4, 5e-6, 0.02) and rows["large"] == (2048, 25_000, 4, 5e-6, 0.02)
    assert rows["mllm"] == (144, 20_000, 3, 5e-6, 0.02) and recipes["mllm"].lora.rank == 32
    assert recipes["mmeb"].batch_size == 192 and recipes["mmeb"].steps == math.ceil(662_000 / 192)
    assert all(r.outside for r in recipes.values()) and all(r.kind == "mllm" for n, r in recipes.items() if n[0] == "m")
