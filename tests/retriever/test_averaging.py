"""Invariants: the checkpoint of a run with ``average_from`` or ``ema_decay`` is the mean that a loop over its weights gives,
training itself is the same with and without, and a run that was stopped ends in the same bits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from mmret.retriever.train.averaging import Average
from mmret.retriever.train.exchange import Exchange
from mmret.retriever.train.loop import train
from mmret.settings import Recipe
from tests.retriever.runs import small
from tests.retriever.test_trainer import made, run

WAYS = [{"average_from": 0.0}, {"average_from": 0.5}, {"average_from": 0.99}, {"ema_decay": 0.7}]


def mean_of(history: list[torch.Tensor], average_from: float | None = None, ema_decay: float | None = None) -> torch.Tensor:
    """By definition, from the weights after each step."""
    if ema_decay is None:
        history = [w for step, w in enumerate(history, 1) if step > average_from * len(history)]
    shares = [(ema_decay or 1.0) ** ago for ago in range(len(history))][::-1]
    return sum(share * weights.double() for share, weights in zip(shares, history, strict=True)) / sum(shares)


def recording(trainer) -> list[torch.Tensor]:
    """The weights after each step, as they come."""
    history, plain = [], trainer.optimizer.step
    trainer.optimizer.step = lambda: (plain(), history.append(trainer.embedder.model.weight.detach().clone()))
    return history


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_weights_at_the_end_are_the_mean_of_those_after_the_steps_that_count(triplets, tmp_path, way):
    trainer = made(triplets, tmp_path, **way)
    history = recording(trainer)
    run(trainer)
    torch.testing.assert_close(trainer.embedder.model.weight.double(), mean_of(history, **way), rtol=1e-5, atol=1e-7)
    counted = {0.0: 12, 0.5: 6, 0.99: 1}.get(way.get("average_from"), 12)
    assert trainer.facts()["averaged_steps"] == counted
    assert f"the mean of those after each of the last {counted} steps" in trainer.facts()["notes"][0]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_training_is_the_same_with_and_without_and_without_nothing_is_kept(triplets, tmp_path, way):
    plain, averaged = (
        made(triplets, tmp_path / "plain", evaluate_every=3),
        made(triplets, tmp_path / "mean", evaluate_every=3, **way),
    )
    histories = [recording(trainer) for trainer in (plain, averaged)]
    for trainer in (plain, averaged):
        trainer.held_out = SimpleNamespace(measure=lambda embedder: {"recall_1": float(embedder.model.weight.detach().sum())})
        run(trainer)
    assert all(torch.equal(one, other) for one, other in zip(*histories, strict=True))
    assert [row["loss"] for row in plain.log] == [row["loss"] for row in averaged.log]
    assert torch.equal(plain.embedder.model.weight, histories[0][-1]) and "average" not in plain.state()
    assert "averaged_steps" not in plain.facts() and not plain.average.weights
    measured = [row["recall_1"] for row in averaged.log if "recall_1" in row]
    begun = [step for step in (3, 6, 9, 12) if step > way.get("average_from", 0) * 12]
    for step, value in zip((3, 6, 9, 12), measured, strict=True):  # with the average, once there is one
        here = histories[1][:step] if "ema_decay" in way else histories[1][int(way["average_from"] * 12) : step]
        shares = [way.get("ema_decay", 1.0) ** ago for ago in range(len(here))][::-1]
        mean = sum(s * w for s, w in zip(shares, here, strict=True)) / sum(shares) if step in begun else histories[1][step - 1]
        assert value == pytest.approx(float(mean.sum()), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("way", WAYS[1:], ids=str)
@pytest.mark.parametrize("stopped", [5, 9])  # before and after the mean has begun
def test_a_run_that_was_stopped_ends_in_the_same_bits(triplets, tmp_path, way, stopped):
    whole = run(made(triplets, tmp_path / "whole", checkpoint_every=2, **way))
    broken = made(triplets, tmp_path / "broken", checkpoint_every=2, **way)
    plain = broken.train_step

    def step(*of):
        if broken.step == stopped:
            raise KeyboardInterrupt
        return plain(*of)

    broken.train_step = step
    with pytest.raises(KeyboardInterrupt):
        run(broken)
    resumed = run(made(triplets, tmp_path / "broken", checkpoint_every=2, **way))
    assert torch.equal(resumed.embedder.model.weight, whole.embedder.model.weight)
    assert resumed.facts()["averaged_steps"] == whole.facts()["averaged_steps"]


def test_weights_of_few_bits_are_averaged_in_float32_and_those_of_more_in_their_own():
    for dtype, kept in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        model = torch.nn.Linear(1, 1, bias=False, dtype=dtype)
        average = Average(Recipe(average_from=0.0, steps=300), model, Exchange())
        for step in range(1, 301):
            torch.nn.init.constant_(model.weight, 1.0 if step % 2 else 1.0078125)
            average.take(step)
        assert average.weights["weight"].dtype == kept
        assert float(average.weights["weight"]) == pytest.approx(1.00390625, abs=1e-5)
        before = model.weight.detach().clone()
        with average.installed():
            assert float(model.weight.detach()) == pytest.approx(1.0039, abs=0.005)
        assert torch.equal(model.weight, before)


@pytest.mark.parametrize("kind", ["clip", "reranker"])
def test_the_checkpoint_of_a_kind_has_the_mean_of_what_it_trains_and_what_it_does_not_as_it_was(
    kind, clip_folder, triplets, load, tmp_path, monkeypatch
):
    history: dict[str, list[torch.Tensor]] = {}
    taken = Average.take

    def take(self, step):
        for name, parameter in self.parameters.items():
            history.setdefault(name, []).append(parameter.detach().clone())
        taken(self, step)

    monkeypatch.setattr(Average, "take", take)
    facts = train(small(kind, steps=4, average_from=0.5, trainable="text"), triplets, load, clip_folder, tmp_path / "made")
    assert facts["averaged_steps"] == 2
    saved = {name: value for file in (tmp_path / "made").rglob("*.safetensors") for name, value in load_file(file).items()}
    compared = [name for name in history if name in saved]
    assert len(compared) > 10
    for name in compared:
        torch.testing.assert_close(saved[name], (history[name][2] + history[name][3]) / 2, rtol=1e-5, atol=1e-7)
    frozen = load_file(clip_folder / "model.safetensors")
    same = [torch.equal(saved[name], frozen[of]) for name in saved for of in frozen if name.endswith(of) and "vision_model" in of]
    assert len(same) > 10 and all(same)
