"""Invariants of what one step does and what the loop keeps, on a model of a few numbers: every step's learning rate is that of
the schedule, gradients are clipped before they move a weight, a state is a whole step, a row of the log is a mean of its steps."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from mmret.errors import UserError
from mmret.retriever.train import trainer as module
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.gradcache import Part
from mmret.retriever.train.log import SCHEMA
from mmret.retriever.train.parallel import Group
from mmret.retriever.train.state import States
from mmret.retriever.train.trainer import Trainer
from mmret.settings import Recipe

SETTINGS = {"steps": 12, "batch_size": 6, "mined_negatives": 2, "learning_rate": 0.01, "temperature": 0.1, "log_every": 4}


class Numbers:
    """An embedder whose pictures are rows of a table of random numbers, and whose model is one linear layer and a bias."""

    def __init__(self, recipe: Recipe, images: int, rates: tuple[float, float] | None = None):
        generator = torch.Generator().manual_seed(1)
        self.table = torch.randn(images, 5, generator=generator)
        self.model = torch.nn.Linear(5, 4)
        with torch.no_grad():
            self.model.weight.copy_(torch.randn(4, 5, generator=generator))
            self.model.bias.copy_(torch.randn(4, generator=generator))
        self.rates = rates or (recipe.learning_rate, recipe.learning_rate)
        self.chunks, self.retriever, self.seen = (3, 3), SimpleNamespace(truncated=0, dim=4), []

    def parameter_groups(self):
        return [([self.model.weight], self.rates[0]), ([], 7.0), ([self.model.bias], self.rates[1])]

    def hidden_matrices(self):
        return [self.model.weight]

    def read(self, batch):
        self.seen.append(batch)
        return self.table[batch.queries], self.table[batch.candidates]

    def parts(self, batch, read):
        assert self.model.training
        return [Part(self.model, [rows], len(rows)) for rows in read], lambda q, c: (normalize(q, dim=1), normalize(c, dim=1))


def made(triplets, folder, rates=None, group=None, **changes) -> Trainer:
    recipe = Recipe(**{**SETTINGS, **changes})
    data = TrainingSet(triplets, recipe)
    return Trainer(recipe, data, Numbers(recipe, len(data.images), rates), States(folder / "work", "x"), group or Group())


def run(trainer: Trainer) -> Trainer:
    with ThreadPoolExecutor(1) as pool:
        trainer.run(pool)
    return trainer


def a_step(trainer: Trainer, number: int = 0) -> tuple[float, float]:
    trainer.embedder.model.train()
    batch = trainer.data.batch(number)
    return trainer.train_step(batch, trainer.embedder.read(batch))


def weight(trainer: Trainer) -> torch.Tensor:
    return trainer.embedder.model.weight.detach().clone()


@pytest.mark.parametrize(
    "warmup, expected",
    [
        (4, [1 / 4, 2 / 4, 3 / 4, 4 / 4, 6 / 6, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        (0, [n / 10 for n in range(10, 0, -1)]),
        (10, [n / 10 for n in range(1, 11)]),
    ],
)
def test_the_rate_rises_over_the_warm_up_and_falls_to_zero_behind_the_last_step_for_every_group_from_its_own_peak(
    triplets, tmp_path, warmup, expected
):
    trainer, used = made(triplets, tmp_path, rates=(0.1, 0.02), steps=10, warmup_steps=warmup), []
    plain = trainer.optimizer.step
    trainer.optimizer.step = lambda: used.append([group["lr"] for group in trainer.optimizer.param_groups]) or plain()
    run(trainer)
    assert [len(rates) for rates in used] == [2] * 10, "a group without parameters is none"
    assert [rates[0] for rates in used] == pytest.approx([0.1 * share for share in expected])
    assert [rates[1] for rates in used] == pytest.approx([0.02 * share for share in expected])
    assert trainer.log[-1]["learning_rate"] == used[-1][0], "the log has that of the last step"


def test_gradients_are_clipped_to_the_recipes_norm_before_they_move_a_weight_and_the_log_has_the_norm_before(triplets, tmp_path):
    def left(limit) -> tuple[float, float]:
        trainer = made(triplets, tmp_path / str(limit), max_grad_norm=limit)
        seen = []
        trainer.optimizer.step = lambda: seen.append(math.sqrt(sum(float(p.grad.square().sum()) for p in trainer.parameters)))
        return a_step(trainer)[1], seen[0]

    before, free = left(None)
    assert before == pytest.approx(free) and before > 0.02
    assert left(before / 8) == pytest.approx((before, before / 8), rel=1e-4), "the norm is that of all parameters together"
    assert left(before * 2) == pytest.approx((before, before))


def test_every_step_begins_with_empty_gradients(triplets, tmp_path):
    trainer = made(triplets, tmp_path, rates=(1e-12, 1e-12), max_grad_norm=None)
    first, again = a_step(trainer), a_step(trainer)
    assert first == pytest.approx(again, rel=1e-5)


def test_weight_decay_is_the_recipes_and_shrinks_weights_that_get_no_gradient(triplets, tmp_path):
    trainer = made(triplets, tmp_path, weight_decay=0.5, learning_rate=0.1)
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.5, 0.5]
    assert [g["weight_decay"] for g in made(triplets, tmp_path / "none").optimizer.param_groups] == [0, 0]


def test_muon_trains_the_hidden_matrices_alone_by_the_same_schedule_and_a_resumed_run_ends_at_the_same_weights(triplets, tmp_path):
    rates = {"matrix_learning_rate": 0.05, "checkpoint_every": 4, "weight_decay": 0.1}
    trainer = made(triplets, tmp_path / "a", rates=(0.1, 0.02), **rates)
    adamw, muon = trainer.optimizer.parts
    assert [p.shape for g in adamw.param_groups for p in g["params"]] == [trainer.embedder.model.bias.shape]
    assert [p.shape for g in muon.param_groups for p in g["params"]] == [trainer.embedder.model.weight.shape]
    assert len(trainer.parameters) == 2, "the norm that is clipped is that of all"
    a_step(trainer)
    assert [(g["lr"], g["weight_decay"]) for g in trainer.optimizer.param_groups] == [(0.02, 0.1), (0.05, 0.1)]

    whole = weight(run(made(triplets, tmp_path / "b", **rates)))
    stopped = made(triplets, tmp_path / "c", **rates)
    stopped.on_row = lambda row: (_ for _ in ()).throw(KeyboardInterrupt) if row["step"] == 8 else None
    with pytest.raises(KeyboardInterrupt):
        run(stopped)
    again = run(made(triplets, tmp_path / "c", **rates))
    assert again.embedder.seen and len(again.embedder.seen) < 12, "it did not begin anew"
    assert torch.equal(weight(again), whole)
    assert not torch.equal(weight(run(made(triplets, tmp_path / "d", **(rates | {"matrix_learning_rate": None})))), whole)


@pytest.mark.parametrize("fault", ["loss", "norm"])
def test_a_step_that_is_not_finite_moves_no_weight(triplets, tmp_path, monkeypatch, fault):
    trainer = made(triplets, tmp_path)
    before = weight(trainer)
    if fault == "loss":
        monkeypatch.setattr(trainer, "backward", lambda *_: torch.tensor(math.inf))
    else:
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(math.nan))
    with pytest.raises(UserError, match=r"stopped at step 0: the loss is .* and the gradient's norm .*learning_rate \(now 0.01"):
        a_step(trainer)
    assert torch.equal(weight(trainer), before)


def test_steps_see_their_own_batch_each_once_and_in_order(triplets, tmp_path):
    trainer = run(made(triplets, tmp_path))
    wanted = [trainer.data.batch(step) for step in range(12)]
    assert [b.texts for b in trainer.embedder.seen] == [b.texts for b in wanted]
    assert all((a.queries == b.queries).all() for a, b in zip(trainer.embedder.seen, wanted, strict=True))
    assert trainer.step == 12 and not trainer.embedder.model.training


def test_rows_of_the_log_come_every_so_many_steps_and_at_the_last_and_are_means_of_the_steps_since(triplets, tmp_path, monkeypatch):
    trainer = made(triplets, tmp_path, steps=10, log_every=4)
    steps = iter((loss, norm) for loss, norm in zip(range(10, 0, -1), range(10), strict=True))
    monkeypatch.setattr(trainer, "train_step", lambda *_: next(steps))
    run(trainer)
    assert [row["step"] for row in trainer.log] == [4, 8, 10]
    assert [row["loss"] for row in trainer.log] == [8.5, 4.5, 1.5]
    assert [row["gradient_norm"] for row in trainer.log] == [
        1.5,
        5.5,
        8.5,
    ]
    assert {name for row in trainer.log for name in row} <= set(SCHEMA.names)
    assert trainer.recent == [] and trainer.recent_loss() == 1.5


def test_seconds_are_those_of_steps_without_measuring_and_samples_are_counted_against_them(triplets, tmp_path, monkeypatch):
    clock = {"at": 0.0}
    monkeypatch.setattr(module.time, "monotonic", lambda: clock["at"])
    trainer = made(triplets, tmp_path, steps=4, log_every=2, evaluate_every=2)

    def step(*_):
        clock["at"] += 3
        return 1.0, 1.0

    def measure(_):
        clock["at"] += 100
        return {"recall_1": 5.0}

    monkeypatch.setattr(trainer, "train_step", step)
    trainer.held_out = SimpleNamespace(measure=measure)
    run(trainer)
    assert [row["seconds"] for row in trainer.log] == [6, 12]
    assert [row["samples_per_second"] for row in trainer.log] == [2.0, 2.0]  # 2 steps of 6 samples in 6 s
    facts = trainer.facts()
    assert facts["seconds"] == 12 and facts["samples_per_second"] == 2.0 and facts["recall_1"] == 5.0


def test_the_held_out_slice_is_measured_when_it_is_due_and_at_the_end_alone(triplets, tmp_path, monkeypatch):
    trainer = made(triplets, tmp_path, steps=7, log_every=2, evaluate_every=3)
    monkeypatch.setattr(trainer, "train_step", lambda *_: (1.0, 1.0))
    trainer.held_out = SimpleNamespace(measure=lambda _: {"recall_1": float(trainer.step)})
    run(trainer)
    assert [(row["step"], row.get("recall_1")) for row in trainer.log] == [(2, None), (3, 3), (4, None), (6, 6), (7, 7)]
    trainer.recipe = trainer.recipe.model_copy(update={"evaluate_every": None})
    assert not trainer.is_due(None)


@pytest.mark.parametrize("last, stops", [(3.0, False), (3.01, True)])
def test_a_loss_above_twice_its_lowest_and_one_stops_and_one_at_that_limit_goes_on(triplets, tmp_path, last, stops):
    trainer = made(triplets, tmp_path)
    for loss in (5.0, 1.0, last):
        trainer.recent = [(loss, 1.0)]
        if stops and loss == last:
            with pytest.raises(UserError, match="has risen from 1.00 to 3.01"):
                trainer.write_row(None)
        else:
            trainer.write_row(None)
    assert len(trainer.log) == 3


def test_facts_are_of_the_whole_run_and_the_loss_is_that_of_the_last_tenth_of_the_log(triplets, tmp_path):
    trainer = made(triplets, tmp_path, batch_size=500)
    trainer.step, trainer.seconds, trainer.embedder.retriever.truncated = 25, 10.0, 3
    trainer.log = [{"step": n, "loss": float(n), "recall_1": n / 10} for n in range(1, 26)]
    facts = trainer.facts()
    assert facts["loss"] == (24 + 25) / 2 and facts["step"] == 25 and facts["recall_1"] == 2.5
    assert facts["batch_size"] == facts["triplets"] == 36 and facts["images"] == len(trainer.data.images)
    assert facts["pairs"] == 25 * 36 and facts["samples_per_second"] == 90.0 and facts["truncated_texts"] == 3
    assert ["only 36 triplets" in facts["notes"][0], facts["notes"][1].startswith("3 texts")] == [True, True]
    trainer.log = trainer.log[:5]
    assert trainer.facts()["loss"] == 5.0, "of a short log the last row"
    trainer.embedder.retriever.truncated, trainer.data.sizes = 0, [500]
    assert trainer.facts()["notes"] == []


def test_states_lie_at_every_so_many_steps_but_the_last_and_hold_the_step_they_are_named_after(triplets, tmp_path):
    trainer = run(made(triplets, tmp_path, checkpoint_every=4))
    assert sorted(p.name for p in (tmp_path / "work").glob("state-*")) == ["state-000000004.pt", "state-000000008.pt"]
    state = trainer.states.latest()
    assert state["step"] == 8 and [row["step"] for row in state["log"]] == [4, 8]


def test_a_run_goes_on_from_its_newest_state_and_repeats_no_step_before_it(triplets, tmp_path):
    whole = run(made(triplets, tmp_path, checkpoint_every=4))
    resumed = made(triplets, tmp_path, checkpoint_every=4)
    resumed.embedder.chunks = (1, 1)
    run(resumed)
    assert [b.texts for b in resumed.embedder.seen] == [resumed.data.batch(step).texts for step in range(8, 12)]
    assert torch.equal(weight(resumed), weight(whole)) and resumed.embedder.chunks == (3, 3)
    same = ("step", "loss", "gradient_norm", "learning_rate")
    assert [[row[n] for n in same] for row in resumed.log] == [[row[n] for n in same] for row in whole.log]
    assert resumed.log[-1]["seconds"] >= whole.log[1]["seconds"] > 0, "time goes on from where it was"


def test_the_newest_whole_state_is_taken_and_a_damaged_one_is_removed(tmp_path):
    states = States(tmp_path / "work", "x")
    assert states.latest() is None
    for step in (4, 8, 12):
        states.save(step, {"step": step})
    assert states.latest() == {"step": 12} == States(tmp_path / "work", "x").latest()
    (tmp_path / "work" / "state-000000012.pt").write_bytes(b"cut short")
    (tmp_path / "work" / ".state-000000016.pt.1.tmp").write_bytes(b"abandoned")
    again = States(tmp_path / "work", "x")
    assert again.latest() == {"step": 8}
    assert sorted(p.name for p in (tmp_path / "work").iterdir()) == ["identity", "state-000000008.pt"]
    assert States(tmp_path / "work", "y").latest() is None, "another run's are no beginning"
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["identity"] and (tmp_path / "work/identity").read_text() == "y"


def test_random_numbers_differ_between_processes_and_repeat_with_the_seed(triplets, tmp_path):
    drawn = []
    for seed, rank in ((0, 0), (0, 0), (0, 1), (5, 0)):
        made(triplets, tmp_path, group=Group(rank, 1), seed=seed)
        drawn.append(float(torch.rand(1)))
    assert drawn[0] == drawn[1] and len(set(drawn)) == 3


def test_the_loss_of_a_step_is_infonce_over_the_pool_of_its_batch(triplets, tmp_path):
    trainer = made(triplets, tmp_path, several_positives=False, mask_false_negatives=False)
    batch, model = trainer.data.batch(0), trainer.embedder.model
    with torch.no_grad():
        queries, pool = (normalize(model(rows), dim=1) for rows in trainer.embedder.read(batch))
        expected = torch.nn.functional.cross_entropy(queries @ pool.T / 0.1, torch.arange(6))
    assert a_step(trainer)[0] == pytest.approx(float(expected), rel=1e-5)
    mixed = made(triplets, tmp_path / "mixed", several_positives=False, mask_false_negatives=False, precision="bfloat16")
    assert a_step(mixed)[0] != float(expected) and a_step(mixed)[0] == pytest.approx(float(expected), rel=0.2)
    trainer.recent = [(3.0, 9.0), (1.0, 8.0)]
    assert trainer.recent_loss() == 1.0


@pytest.mark.parametrize("field, value", [("temperature", 0.5), ("hardness", 5.0), ("mask_false_negatives", False)])
def test_the_loss_follows_the_recipe(triplets, tmp_path, field, value):
    base = made(triplets, tmp_path, batch_size=36)
    changed = made(triplets, tmp_path / "other", batch_size=36, **{field: value})
    assert a_step(base)[0] != pytest.approx(a_step(changed)[0], rel=1e-4)


def test_bfloat16_rounds_the_products_and_features_come_out_as_float32(triplets, tmp_path):
    trainer = made(triplets, tmp_path, precision="bfloat16")
    rows = trainer.embedder.table[:3]
    mixed = trainer.in_precision(trainer.embedder.model)(rows)
    assert mixed.dtype == torch.float32 and not torch.equal(mixed, trainer.embedder.model(rows))
    torch.testing.assert_close(mixed, trainer.embedder.model(rows), rtol=0.02, atol=0.05)
    whole = made(triplets, tmp_path / "whole")
    assert torch.equal(whole.in_precision(whole.embedder.model)(rows), whole.embedder.model(rows))


def test_advice_names_the_rate_and_the_temperature_in_use(triplets, tmp_path):
    text = made(triplets, tmp_path, learning_rate=0.25, temperature=0.125).advice("is odd")
    assert "the loss is odd" in text and "now 0.25)" in text and "now 0.125)" in text
