"""Invariants of kept activations: weights, losses and random numbers after steps that keep the graphs of all chunks, or of the
first ones, are the bits of steps that embed every chunk twice, whatever the recipe; memory that is named is not exceeded; where
memory runs out after all, the step still ends with those bits and nothing is kept any more."""

from __future__ import annotations

import gc
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch

from mmret.retriever.train.exchange import Exchange, Fsdp
from mmret.retriever.train.gradcache import cached_backward
from mmret.retriever.train.kept_graphs import KeptGraphs, room_for
from mmret.retriever.train.parallel import Group
from mmret.retriever.train.part import Part
from tests.retriever.mixtures import ALL, mixture
from tests.retriever.mllm_folders import qwen2_vl, with_answers
from tests.retriever.runs import a_trainer, small
from tests.retriever.siglip_folders import siglip2
from tests.retriever.test_distillation import scores_of

pytestmark = pytest.mark.usefixtures("one_thread")

LORA = {"kind": "mllm", "mined_negatives": 1, "lora": {"rank": 4, "dropout": 0.3}}
CASES = {
    "all": {},
    "blocks": {"trainable": "text+blocks"},
    "projection": {"trainable": "text+projection"},
    "text": {"trainable": "text"},
    "siglip": {"chunk_size": 2},
    "picture": {"texts_at_once": "picture", "batch_neighbours": 3},
    "tokens": {"chunk_tokens": 30},
    "agreement": {"texts_at_once": "triplet", "agreement": 2.0, "mask_margin": 0.02},
    "nested": {"matryoshka": [4, 8], "average_from": 0.1},
    "bfloat16": {"precision": "bfloat16"},
    "checkpointing": {"gradient_checkpointing": True},
    "teacher": {"teacher": "scores/x"},
    "mixed": {"tasks": ALL, "task_batches": "mixed"},
    "in_turn": {"tasks": {"image_to_image": 1, "text_to_text": 1}},
    "mllm": {**LORA, "chunk_size": 2},
    "mllm_tokens": {**LORA, "texts_at_once": "triplet", "chunk_tokens": 160, "chunk_size": None},
    "reranker": {"kind": "reranker"},
    "reranker_mllm": {**LORA, "kind": "reranker", "chunk_size": 2},
}


@pytest.fixture(scope="module")
def bases(clip_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    mllm = with_answers(qwen2_vl(folder / "qwen2_vl"))
    own = {name: mllm for name, changes in CASES.items() if "lora" in changes}
    return {**dict.fromkeys(CASES, clip_folder), **own, "siglip": siglip2(folder / "siglip")}


def two_steps(case, base, triplets, load, folder, keep, room=None):
    """A trainer that has made two steps with dropout on."""
    changes = {"batch_size": 7, "mined_negatives": 3, "chunk_size": 3, "seed": 4, **CASES[case], "keep_activations": keep}
    recipe = small(changes.pop("kind", "clip"), **changes)
    rows = mixture(triplets) if recipe.tasks != {"composed": 1.0} else triplets
    trainer = a_trainer(recipe, base, rows, load, folder / f"{keep}-{room}", double=False)
    if recipe.teacher:
        trainer.teacher = scores_of(triplets)
    trainer.kept.room = room
    model = trainer.embedder.model
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    for module in model.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.2  # of attention
    model.train()
    torch.manual_seed(11)
    for step in range(2):
        batch = trainer.data.batch(step)
        trainer.recent.append(trainer.train_step(batch, trainer.embedder.read(batch)))
        trainer.step += 1
        trainer.average.take(trainer.step)
    return trainer, torch.rand(1)


def same_bits(a, b) -> bool:
    theirs = dict(b[0].embedder.model.named_parameters())
    weights = all(torch.equal(p, theirs[name]) for name, p in a[0].embedder.model.named_parameters())
    return weights and a[0].recent == b[0].recent and torch.equal(a[1], b[1])


@pytest.mark.parametrize("case", CASES)
def test_steps_that_keep_all_or_some_graphs_end_with_the_bits_of_those_that_embed_twice(case, bases, triplets, load, tmp_path):
    arguments = (case, bases[case], triplets, load, tmp_path)
    twice, once = two_steps(*arguments, "never"), two_steps(*arguments, "always")
    kept = once[0].kept
    assert twice[0].kept.made_once == 0 < kept.made_once == kept.passes
    assert same_bits(once, twice)
    some = two_steps(*arguments, "auto", room=int(0.4 * kept.most))
    assert 0 < some[0].kept.made_once < some[0].kept.passes
    assert some[0].kept.most <= some[0].kept.room
    assert same_bits(some, twice)
    some[0].log = [{"loss": 1.0}]
    assert some[0].kept.says() == some[0].facts()["activations"]


def test_that_comparison_sees_one_other_dropout_mask(bases, triplets, load, tmp_path, monkeypatch):
    arguments = ("all", bases["all"], triplets, load, tmp_path)
    twice = two_steps(*arguments, "never")
    monkeypatch.setattr("mmret.retriever.train.gradcache.set_rng_state", lambda state: None)
    assert not same_bits(two_steps(*arguments, "never"), twice)


class Parts:
    """Two linear towers in float64, of three chunks each; ``failing``: numbers of the calls that run out of memory."""

    def __init__(self, failing=(), failing_backward=False):
        torch.manual_seed(0)
        self.models = [torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Dropout(0.3)).double() for _ in range(2)]
        self.parameters = [p for model in self.models for p in model.parameters()]
        self.rows = [torch.randn(7, 5, dtype=torch.float64) for _ in range(2)]
        self.calls, self.failing, self.failing_backward = 0, failing, failing_backward

    def encode(self, model):
        def call(chunk):
            self.calls += 1
            if self.calls in self.failing:
                torch.rand(3)
                raise torch.OutOfMemoryError("no room")
            rows = model(chunk)
            if self.failing_backward and rows.requires_grad and self.calls == 5:
                rows.register_hook(self.fail)
            return rows

        return call

    def fail(self, gradient):
        if self.failing_backward:
            self.failing_backward = False
            raise torch.OutOfMemoryError("no room")

    def gradients(self, kept, loss_of=lambda a, b: (a @ b.T).sin().sum(), exchange=None):
        torch.manual_seed(1)
        parts = [Part(self.encode(m), x.split(3), 7) for m, x in zip(self.models, self.rows, strict=True)]
        loss = cached_backward(parts, loss_of, exchange, kept)
        return [loss, *(p.grad for p in self.parameters), torch.rand(1)]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def kept_of(parts, room=sys.maxsize):
    return KeptGraphs(room, parts.parameters)


@pytest.mark.parametrize("failing", [1, 2, 6])
def test_a_pass_that_runs_out_of_memory_is_made_again_without_a_graph_and_nothing_is_kept_any_more(failing):
    expected, parts = Parts().gradients(KeptGraphs()), Parts(failing={failing})
    kept = kept_of(parts)
    assert equal(parts.gradients(kept), expected)
    assert kept.room == 0 and not kept.rows and kept.made_once == 0 and parts.calls == 13
    assert "0 % of the passes" in kept.says()


def test_so_is_a_loss_or_a_backward_pass_and_the_gradients_begin_anew():
    expected, seen = Parts().gradients(KeptGraphs()), []

    def loss_of(a, b):
        seen.append(1)
        if len(seen) == 1:
            raise torch.OutOfMemoryError("no room")
        return (a @ b.T).sin().sum()

    for parts, loss in ((Parts(), loss_of), (Parts(failing_backward=True), None)):
        kept = kept_of(parts)
        assert equal(parts.gradients(kept, *([loss] if loss else [])), expected)
        assert kept.room == 0 and parts.calls == 12 and not parts.failing_backward


def test_memory_that_runs_out_without_anything_kept_or_behind_what_cannot_be_repeated_ends_the_run():
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        Parts(failing={8}).gradients(KeptGraphs())
    parts, exchange = Parts(failing_backward=True), Exchange()
    exchange.repeatable = False
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        parts.gradients(kept_of(parts), exchange=exchange)
    parts = Parts(failing_backward=True)
    parts.parameters[0].grad = torch.ones_like(parts.parameters[0])  # of an earlier batch, which is not to be lost
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        parts.gradients(kept_of(parts))


def test_what_is_counted_is_what_the_graph_keeps_beside_the_weights_each_storage_once():
    parts = Parts()
    kept = kept_of(parts)
    parts.gradients(kept)
    rows, mask = 7 * 5 * 8, 3 * 6 * 8  # all of them, of which a chunk is a part, and the dropout's of a chunk
    assert kept.largest == rows + mask and kept.most == 2 * (rows + 2 * mask + mask // 3)
    assert kept.says().startswith("100 % of the passes") and kept.made_once == kept.passes == 6
    weight, x = torch.nn.Parameter(torch.ones(8, 8)), torch.ones(8, 8, requires_grad=True)
    for of, bytes_kept in (([weight], 256), ([], 512)):
        kept = KeptGraphs(sys.maxsize, of)
        kept.encode((0, 0), lambda: x @ weight)
        assert kept.taken == bytes_kept
    assert KeptGraphs().says() is None


@pytest.mark.parametrize("room", [1, 500])
def test_a_pass_beyond_the_room_the_first_of_all_too_ends_there_and_is_made_again_without_a_graph(room):
    expected, parts = Parts().gradients(KeptGraphs()), Parts()
    first = 7 * 5 * 8 + 3 * 6 * 8  # the rows that its chunk is a part of, and a mask
    kept = kept_of(parts, room)
    assert equal(parts.gradients(kept), expected)
    fits = room // first
    assert kept.made_once == fits and kept.most == fits * first <= room
    assert kept.room == room and not kept.rows and parts.calls == (11 if fits else 13), "one at most was tried in vain"
    for parameter in parts.parameters:
        parameter.grad = None
    kept.largest = 0
    assert equal(parts.gradients(kept), expected) and kept.most <= room, "and so in every step"


def test_a_pass_larger_than_those_before_it_is_not_kept_beyond_the_room_either():
    weights, kept = torch.ones(8, 8, requires_grad=True), KeptGraphs(1000)
    kept.encode((0, 0), lambda: torch.ones(8, 8) @ weights)
    assert kept.encode((0, 1), lambda: (torch.ones(64, 8) @ weights).sin()) is None
    assert list(kept.rows) == [(0, 0)] and kept.taken == kept.most == 256 and kept.made_once == 1


def test_a_step_that_is_one_pass_a_part_says_nothing_of_a_second_one(clip_folder, triplets, load, tmp_path):
    trainer = a_trainer(small("clip", keep_activations="auto"), clip_folder, triplets, load, tmp_path)
    trainer.embedder.model.train()
    batch = trainer.data.batch(0)
    trainer.train_step(batch, trainer.embedder.read(batch))
    trainer.log = [{"loss": 1.0}]
    assert "activations" not in trainer.facts()


def test_room_is_a_third_of_what_is_free_but_for_gradients_and_moments_and_the_least_of_all_processes(monkeypatch, tmp_path):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=30_000))
    monkeypatch.setattr("mmret.devices._CONTROL_GROUP", tmp_path)  # without a limit
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    parameters, exchange = [torch.nn.Parameter(torch.zeros(250))], Exchange()
    moments = [torch.zeros(250), torch.zeros(250)]
    assert room_for("auto", exchange, parameters, []) == (30_000 - 3 * 1000) // 3
    assert room_for("auto", exchange, parameters, moments) == (30_000 - 1000) // 3
    assert room_for("never", exchange, parameters, []) == 0 and room_for("always", exchange, parameters, []) == sys.maxsize
    assert room_for("auto", exchange, [torch.nn.Parameter(torch.zeros(10**6))], []) == 0
    monkeypatch.setattr(Group, "all_values", lambda self, value: [value, 77])
    assert room_for("auto", exchange, parameters, []) == 77
    monkeypatch.setattr(Group, "all_values", lambda self, value: [value] * 3)
    exchange.group = Group(0, 3)
    assert room_for("auto", exchange, parameters, []) == (10_000 - 3 * 1000) // 3, "each of this machine's has its part"
    exchange.keeps_graphs = Fsdp.keeps_graphs
    assert room_for("always", exchange, parameters, []) == 0


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_dropped_is_free_also_of_operations_that_save_their_own_result(fails: bool):
    made = []

    def call() -> torch.Tensor:
        attention = torch.softmax(weights @ weights, 1)
        made.append(weakref.ref(attention.untyped_storage()))
        if fails:
            raise torch.OutOfMemoryError("made up")
        return attention @ weights

    weights = torch.ones(8, 8, requires_grad=True)
    kept = KeptGraphs(sys.maxsize, [weights])
    kept.encode((0, 0), call)
    kept.drop()
    gc.collect()
    assert made[0]() is None
