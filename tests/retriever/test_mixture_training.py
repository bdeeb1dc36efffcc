"""Invariants, for both kinds and every task: what training embeds is what inference embeds; the gradient is that of a step that
embeds every occurrence of everything, and the cached one is the same; a killed run of a mixture continues to bit-equal weights;
what was trained on is recorded."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

import mmret
from mmret import progress
from mmret.errors import UserError
from mmret.retriever.train import gradcache, trainer
from mmret.retriever.train.batch import NONE
from mmret.retriever.train.log import log_line, read_log
from mmret.retriever.train.loop import train
from mmret.retriever.train.loss import info_nce, masks
from mmret.retriever.train.tower import Pictures
from mmret.tasks import TASKS
from tests.retriever.mixtures import ALL, mixture, of_task
from tests.retriever.mllm_folders import qwen2_vl
from tests.retriever.runs import a_trainer, small
from tests.retriever.test_cached_gradient import close, one_graph

pytestmark = pytest.mark.usefixtures("one_thread")
MODES = ("one", "mixed")


@pytest.fixture(scope="module")
def table(triplets):
    return mixture(triplets)


@pytest.fixture(scope="module")
def bases(clip_folder, tmp_path_factory):
    return {"clip": clip_folder, "mllm": qwen2_vl(tmp_path_factory.mktemp("qwen2_vl"))}


def batches(made) -> list:
    """A batch of each task, or one of all."""
    return [made.data.batch(step) for step in range(6 if made.recipe.task_batches == "one" else 1)]


@pytest.mark.parametrize("kind, mode", [("clip", "one"), ("clip", "mixed"), ("mllm", "mixed")])
def test_what_a_mixture_embeds_in_training_is_what_inference_embeds(bases, table, pictures, load, tmp_path, kind, mode):
    made = a_trainer(small(kind, tasks=ALL, task_batches=mode), bases[kind], table, load, tmp_path, double=False)
    stock = mmret.Retriever.load(bases[kind], "cpu")  # adapters begin as nothing
    files = [pictures[i] for i in made.data.images.to_pylist()]

    def expected(image: int, text: str | None, told: dict) -> np.ndarray:
        return stock.encode(None if image == NONE else [files[image]], None if text is None else [text], **told)[0]

    seen = set()
    for batch in batches(made):
        parts, gather = made.embedder.parts(batch, made.embedder.read(batch))
        with torch.no_grad():
            rows = (torch.cat([part.encode(c) for c in part.chunks]) if part.chunks else part.empty for part in parts)
            queries, candidates = gather(*rows)
        names = batch.task_names()
        seen |= set(names)
        for row in range(len(names)):
            words = made.recipe.instruction if names[row] == "composed" else TASKS[names[row]].instruction
            told = {"instruction": words} if kind == "mllm" else {}
            np.testing.assert_allclose(queries[row].numpy(), expected(batch.queries[row], batch.texts[row], told), atol=2e-5)
        texts = batch.candidate_texts or [None] * len(batch.candidates)
        for row in range(0, len(texts), 3):
            np.testing.assert_allclose(candidates[row].numpy(), expected(batch.candidates[row], texts[row], {}), atol=2e-5)
    assert seen == set(ALL)


def plain_gradients(made, load, batch) -> dict[str, torch.Tensor]:
    """Of a CLIP's step that embeds every occurrence of every image and text with the stock towers."""
    retriever, model = made.embedder.retriever, made.embedder.model
    pictures = Pictures(made.data.images, load)

    def embed(images, texts) -> torch.Tensor:
        rows = []
        for image, text in zip(images, texts, strict=True):
            parts = [] if image == NONE else [retriever.image_features(retriever.pixels(pictures(np.array([image]))))]
            rows.append(sum(parts + ([] if text is None else [retriever.text_features([text])])))
        return normalize(torch.cat(rows), dim=-1)

    count, keys = len(batch.queries), batch.candidate_keys()
    positives, ignored = masks(keys[:count], keys, True, batch.distinct_queries()[1], batch.no_negatives())
    model.zero_grad()
    queries = embed(batch.queries, batch.texts)
    candidates = embed(batch.candidates, batch.candidate_texts or [None] * len(keys))
    info_nce(queries, candidates, positives, ignored, made.recipe.temperature).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


@pytest.mark.parametrize("level, mode", [("all", "one"), ("text+blocks", "one"), ("text+projection", "mixed"), ("text", "mixed")])
def test_a_mixtures_gradient_is_that_of_embedding_every_occurrence_of_everything(clip_folder, table, load, tmp_path, level, mode):
    tasks = {name: 1.0 for name in ALL if level != "text" or name != "image_to_image"}
    made = a_trainer(
        small("clip", tasks=tasks, task_batches=mode, trainable=level, batch_size=7), clip_folder, table, load, tmp_path
    )
    model = made.embedder.model
    for batch in batches(made):
        expected = plain_gradients(made, load, batch)
        model.zero_grad()
        made.backward(batch, made.embedder.read(batch))
        got = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert got.keys() == expected.keys() and expected
        scale = max(float(g.abs().max()) for g in expected.values())
        exact = level == "all"  # what is kept of frozen layers is float32
        for name, gradient in expected.items():
            torch.testing.assert_close(got[name], gradient, rtol=1e-7 if exact else 1e-3, atol=(1e-12 if exact else 1e-5) * scale)


@pytest.mark.parametrize(
    "kind, mode, chunk, tasks",
    [
        ("clip", "one", 2, ALL),
        ("clip", "mixed", 5, ALL),
        ("mllm", "mixed", 3, ALL),
        ("mllm", "one", 2, {"text_to_text": 1, "image_to_text": 1}),
    ],
)
def test_the_cached_gradient_of_a_mixture_is_the_full_batchs(
    kind, mode, chunk, tasks, bases, table, load, tmp_path, monkeypatch
):  # fmt: skip
    dropout = {"lora": {"rank": 4, "dropout": 0.3}} if kind == "mllm" else {}
    chosen = small(kind, tasks=tasks, task_batches=mode, batch_size=7 if kind == "clip" else 5, chunk_size=chunk, **dropout)
    made = a_trainer(chosen, bases[kind], table, load, tmp_path)
    model = made.embedder.model.train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))

    def step(batch, backward):
        torch.manual_seed(11)
        model.zero_grad(set_to_none=True)
        monkeypatch.setattr(trainer, "cached_backward", backward)
        loss = made.backward(batch, made.embedder.read(batch))
        return float(loss), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    def graph_of_what_there_is(parts, loss_of, *group):
        there = [part for part in parts if part.chunks]

        def with_nothing(*features):
            found = iter(features)
            return loss_of(*(next(found) if part.chunks else part.empty for part in parts))

        return one_graph(there, with_nothing, group)

    for batch in batches(made)[: len(tasks)]:
        full, cached = step(batch, graph_of_what_there_is), step(batch, gradcache.cached_backward)
        assert full[1] and full[0] > 0 and close(full, cached)


class Killed(Exception):
    pass


@pytest.mark.parametrize("mode", MODES)
def test_a_run_of_a_mixture_that_died_continues_to_bit_equal_weights_and_the_same_log(clip_folder, table, load, tmp_path, mode):
    chosen = small("clip", tasks=ALL, task_batches=mode, steps=9, evaluate_every=9, trainable="text+blocks")
    facts = train(chosen, table, load, clip_folder, tmp_path / "whole")

    def dying(task, done, total, note=""):
        if done >= 5:
            raise Killed("killed here")

    with pytest.raises(Killed, match="killed here"), progress.reporting(dying):
        train(chosen, table, load, clip_folder, tmp_path / "broken")
    train(chosen, table, load, clip_folder, tmp_path / "broken")
    whole, broken = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(whole[n], broken[n]) for n in whole)
    logs = [read_log(tmp_path / name) for name in ("whole", "broken")]
    columns = [name for name in logs[0].column_names if name.startswith(("loss", "recall"))]
    assert logs[0].select(columns).equals(logs[1].select(columns))
    seen = facts["tasks"]
    assert list(seen) == list(ALL) and facts["pairs"] == sum(of["seen"] for of in seen.values()) == 9 * 6
    assert facts["triplets"] == seen["composed"]["rows"] == 36 and facts["recall_10"] >= 0
    assert json.loads((tmp_path / "whole" / "recipe.json").read_text())["facts"]["tasks"] == seen


def test_the_log_of_steps_of_one_task_each_has_the_loss_of_each_task(clip_folder, table, load, tmp_path):
    chosen = small("clip", tasks={"composed": 1, "text_to_text": 1}, steps=4, log_every=2, trainable="text")
    train(chosen, table, load, clip_folder, tmp_path / "out")
    for row in read_log(tmp_path / "out").to_pylist():
        assert row["loss"] == pytest.approx((row["loss_composed"] + row["loss_text_to_text"]) / 2)
        assert row["loss_image_to_text"] is None
        assert f"(composed {row['loss_composed']:.3f}; text_to_text {row['loss_text_to_text']:.3f})" in log_line(row)


def test_a_task_whose_loss_rises_is_told_from_one_whose_losses_are_higher(clip_folder, table, load, tmp_path):
    made = a_trainer(small("clip", tasks={"composed": 1, "text_to_text": 1}, log_every=1), clip_folder, table, load, tmp_path)
    first = made.data.task_of(0)

    def log(loss: float, other: float, steps: range) -> None:
        for step in steps:
            made.recent, made.step = [(loss if made.data.task_of(step) == first else other, 1.0)], step + 1
            made.write_row(None)

    log(0.1, 3.0, range(30))
    log(9.0, 3.0, range(30, 32))  # one step of a task says little by itself
    with pytest.raises(UserError, match=f"of {first} has risen from 0.10 to "):
        log(9.0, 3.0, range(32, 60))


def test_a_task_that_was_left_out_is_said_with_the_facts(clip_folder, table, load, tmp_path):
    chosen = small("clip", tasks={"composed": 1, "text_to_text": 1}, steps=1, trainable="text", batch_size=50)
    facts = train(chosen, of_task(table, "composed"), load, clip_folder, tmp_path / "out")
    assert facts["tasks"] == {"composed": {"rows": 36, "seen": 36}, "text_to_text": {"rows": 0, "seen": 0}}
    assert "text_to_text was left out: no rows of task text_to_text" in facts["notes"][0]
    assert facts["notes"][1] == "only 36 triplets: the batch is 36, not 50"
