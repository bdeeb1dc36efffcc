"""Invariant, for both kinds: the cached gradient is the full batch's, with dropout, ragged negatives and chunks that do
not divide the batch. The full batch's is that of one graph over all chunks, with the same dropout masks. Caches with a
fault (no RNG restored, gradients of the wrong rows, a chunk forgotten) fail the same comparison."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmret.retriever.train import gradcache, trainer
from tests.retriever.mllm_folders import qwen2_vl
from tests.retriever.runs import KINDS, a_trainer, small


@pytest.fixture(scope="module")
def bases(clip_folder, tmp_path_factory):
    return {"clip": clip_folder, "mllm": qwen2_vl(tmp_path_factory.mktemp("qwen2_vl"))}


def one_graph(parts, loss_of, *group):
    """The full batch's gradient: every chunk embedded once, in the order of the cache's first pass, all graphs kept."""
    loss = loss_of(*(part.in_order(torch.cat([part.encode(chunk) for chunk in part.chunks])) for part in parts))
    loss.backward()
    return loss.detach()


def gradients(kind, chunk, backward, bases, triplets, load, tmp_path, monkeypatch, **changes):
    """Loss and gradients of one step of 7 ragged rows, with dropout on; in float64 where the model computes in it."""
    recipe = small(
        kind,
        batch_size=7,
        mined_negatives=3,
        chunk_size=chunk,
        seed=4,
        **({"lora": {"rank": 4, "dropout": 0.3}} if kind == "mllm" else {}),
        **changes,
    )
    made = a_trainer(recipe, bases[kind], triplets, load, tmp_path / f"{kind}-{chunk}-{backward.__name__}")
    model = made.embedder.model
    for name, parameter in model.named_parameters():  # adapters begin as zero, where half of the gradients vanish
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    for module in model.modules():
        if kind == "clip" and isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.2  # of attention
    model.train()
    batch = made.data.batch(0)
    rows = len(set(batch.negative_rows.tolist()))
    assert 0 < len(batch.candidates) - len(batch.queries) - rows < 3 * rows  # ragged: some rows bring fewer than three
    torch.manual_seed(11)
    monkeypatch.setattr(trainer, "cached_backward", backward)
    loss = made.backward(batch, made.embedder.read(batch))
    return float(loss), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def close(a, b) -> bool:
    assert a[1].keys() == b[1].keys()
    scale = max(float(g.abs().max()) for g in a[1].values())
    return abs(a[0] - b[0]) <= 1e-5 * abs(a[0]) and all(
        torch.allclose(b[1][n], g, rtol=1e-5, atol=1e-7 * scale) for n, g in a[1].items()
    )


@pytest.mark.parametrize("chunk", [2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_cached_gradient_is_the_full_batchs(kind, chunk, bases, triplets, load, tmp_path, monkeypatch):
    arguments = (bases, triplets, load, tmp_path, monkeypatch)
    full = gradients(kind, chunk, one_graph, *arguments)
    cached = gradients(kind, chunk, gradcache.cached_backward, *arguments)
    assert close(full, cached)
    assert full[1] and all(torch.isfinite(g).all() for g in full[1].values())


@pytest.mark.parametrize("kind", KINDS)
def test_so_it_is_where_the_first_dimensions_are_trained_too(kind, bases, triplets, load, tmp_path, monkeypatch):
    arguments = (bases, triplets, load, tmp_path, monkeypatch)
    full = gradients(kind, 3, one_graph, *arguments, matryoshka=(4, 8))
    assert close(full, gradients(kind, 3, gradcache.cached_backward, *arguments, matryoshka=(4, 8)))
    assert not close(full, gradients(kind, 3, gradcache.cached_backward, *arguments))


@pytest.mark.parametrize("batches", [{"texts_at_once": "picture"}, {"texts_at_once": "triplet", "batch_neighbours": 4}])
@pytest.mark.parametrize("kind", KINDS)
def test_so_it_is_where_texts_are_shown_together_and_neighbours_share_a_batch(
    kind, batches, bases, triplets, load, tmp_path, monkeypatch
):
    arguments = (bases, triplets, load, tmp_path, monkeypatch)
    full = gradients(kind, 3, one_graph, *arguments, **batches)
    assert close(full, gradients(kind, 3, gradcache.cached_backward, *arguments, **batches))
    assert not close(full, gradients(kind, 3, gradcache.cached_backward, *arguments))


INGREDIENTS = {
    "margin": {"mask_margin": 0.02, "matryoshka": (4, 8)},
    "agreement": {"texts_at_once": "triplet", "agreement": 2.0},
    "reverse": {"reverse": 0.5},
    "swapped_texts": {"swapped_texts": 0.5},
}
ADDED = ("mask_margin", "agreement", "reverse", "swapped_texts")


@pytest.mark.parametrize(
    "kind, ingredient",
    [("clip", "margin"), ("clip", "agreement"), ("mllm", "agreement"), ("clip", "reverse"), ("clip", "swapped_texts")],
)
def test_so_it_is_with_what_is_added_to_the_loss(kind, ingredient, bases, triplets, load, tmp_path, monkeypatch):
    arguments, changes = (bases, triplets, load, tmp_path, monkeypatch), INGREDIENTS[ingredient]
    full = gradients(kind, 3, one_graph, *arguments, **changes)
    assert close(full, gradients(kind, 3, gradcache.cached_backward, *arguments, **changes))
    without = {name: value for name, value in changes.items() if name not in ADDED}
    assert not close(full, gradients(kind, 3, gradcache.cached_backward, *arguments, **without)), "it counts for something"


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_on_in_that_comparison(kind, bases, triplets, load, tmp_path, monkeypatch):
    arguments = (bases, triplets, load, tmp_path, monkeypatch)
    full = gradients(kind, 3, one_graph, *arguments)

    def other_masks(parts, loss_of, *group):
        torch.manual_seed(12)
        return one_graph(parts, loss_of, *group)

    assert not close(full, gradients(kind, 3, other_masks, *arguments))


def no_rng_restored(parts, loss_of, *group):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradcache, "set_rng_state", lambda state: None)
        return gradcache.cached_backward(parts, loss_of, *group)


def wrong_rows(parts, loss_of, *group):
    def rolled(*features):
        loss = loss_of(*features)
        return loss + sum((f - f.detach().roll(1, 0)).pow(2).sum() * 1e-3 for f in features)

    return gradcache.cached_backward(parts, rolled, *group)


def a_chunk_forgotten(parts, loss_of, *group):
    seen: list[int] = []

    def forgetting(encode):
        def once(chunk):
            seen.append(1)
            rows = encode(chunk)
            return rows.detach() if torch.is_grad_enabled() and len(seen) == sum(len(p.chunks) for p in parts) + 1 else rows

        return once

    return gradcache.cached_backward([replace(part, encode=forgetting(part.encode)) for part in parts], loss_of, *group)


@pytest.mark.parametrize("fault", [no_rng_restored, wrong_rows, a_chunk_forgotten], ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_a_faulty_cache_fails_the_comparison(kind, fault, bases, triplets, load, tmp_path, monkeypatch):
    arguments = (bases, triplets, load, tmp_path, monkeypatch)
    assert not close(gradients(kind, 3, one_graph, *arguments), gradients(kind, 3, fault, *arguments))
