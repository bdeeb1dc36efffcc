"""Invariants: a killed run continues to bit-equal weights; the checkpoint is whole or absent and loads with stock
classes; training lowers the loss; what cannot work stops with advice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from mmret import progress
from mmret.errors import UserError
from mmret.retriever.models.checkpoint import weights_digest
from mmret.retriever.train.log import SCHEMA, plot_log, read_log
from mmret.retriever.train.loop import train
from mmret.retriever.train.loss import info_nce
from mmret.retriever.train.state import States
from mmret.settings import Recipe
from tests.retriever.runs import a_trainer

ROOT = Path(__file__).resolve().parents[2]


def recipe(**changes) -> Recipe:
    return Recipe(
        **{
            "trainable": "text+projection",
            "steps": 12,
            "batch_size": 12,
            "mined_negatives": 2,
            "learning_rate": 1e-3,
            "temperature": 0.05,
            "checkpoint_every": 4,
            "log_every": 3,
            **changes,
        }
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return CLIPModel.from_pretrained(folder).state_dict()


def assert_bit_equal(a: Path, b: Path):
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


class Killed(Exception):
    pass


def dying(after: int):
    """A reporter that ends the run once ``after`` steps are done."""

    def report(task, done, total, note=""):
        if done >= after:
            raise Killed("killed here")

    return progress.reporting(report)


@pytest.mark.parametrize("trainable", ["text+projection", "text+blocks", "all"])
def test_a_run_that_died_continues_to_bit_equal_weights(clip_folder, triplets, load, tmp_path, trainable):
    chosen = recipe(trainable=trainable)
    train(chosen, triplets, load, clip_folder, tmp_path / "whole")
    for after in (3, 6, 11, 12):
        with pytest.raises(Killed, match="killed here"), dying(after):
            train(chosen, triplets, load, clip_folder, tmp_path / "broken")
    facts = train(chosen, triplets, load, clip_folder, tmp_path / "broken")
    assert facts["step"] == 12
    assert_bit_equal(tmp_path / "whole", tmp_path / "broken")
    a, b = (read_log(tmp_path / run).select(["step", "loss", "gradient_norm"]) for run in ("whole", "broken"))
    assert a.equals(b)
    assert not list(tmp_path.glob("*.work")) and not list(tmp_path.glob(".*"))


def test_a_run_killed_outright_continues_to_bit_equal_weights(clip_folder, triplets, pictures, load, tmp_path):
    pq.write_table(triplets, tmp_path / "triplets.parquet")
    (tmp_path / "pictures").mkdir()
    for image_id, data in pictures.items():
        (tmp_path / "pictures" / image_id).write_bytes(data)
    script = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        import pyarrow.parquet as pq
        from mmret import progress
        from mmret.retriever.train.loop import train
        from mmret.settings import Recipe
        def report(task, done, total, note=""):
            if done >= 7:
                os.kill(os.getpid(), signal.SIGKILL)
        with progress.reporting(report):
            train(Recipe.model_validate_json({recipe().model_dump_json()!r}), pq.read_table("triplets.parquet"),
                  lambda ids: {{i: Path("pictures", i).read_bytes() for i in ids}},
                  Path({str(clip_folder)!r}), Path("killed"))
    """)
    threads = str(torch.get_num_threads())
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads},
    )
    assert done.returncode == -9, done.stderr.decode()[-2000:]
    assert sorted(p.name for p in (tmp_path / "killed.work").glob("state-*")) == ["state-000000004.pt"]
    train(recipe(), triplets, load, clip_folder, tmp_path / "killed")
    train(recipe(), triplets, load, clip_folder, tmp_path / "whole")
    assert_bit_equal(tmp_path / "whole", tmp_path / "killed")


def test_two_runs_are_bit_equal_and_a_seed_makes_another(clip_folder, triplets, load, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(recipe(seed=seed), triplets, load, clip_folder, tmp_path / name)
    assert_bit_equal(tmp_path / "a", tmp_path / "b")
    a, c = weights(tmp_path / "a"), weights(tmp_path / "c")
    assert not torch.equal(a["text_projection.weight"], c["text_projection.weight"])


def test_training_lowers_the_loss_and_writes_a_whole_checkpoint(clip_folder, triplets, load, tmp_path):
    seen = []
    with progress.reporting(lambda task, done, total, note="": seen.append((task, done, total))):
        facts = train(recipe(steps=40), triplets, load, clip_folder, tmp_path / "out")
    log = read_log(tmp_path / "out")
    assert log.schema.equals(SCHEMA) and log["step"].to_pylist()[-1] == 40
    assert facts["loss"] < 0.9 * log["loss"][0].as_py()
    assert facts["pairs"] == 40 * 12 and facts["triplets"] == 36 and facts["notes"] == []
    assert seen[-1] == ("checkpoints", 40, 40)
    record = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert record["facts"] == facts and Recipe.model_validate(record["recipe"]) == recipe(steps=40)
    before, after = weights(clip_folder), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    assert torch.equal(before["vision_model.post_layernorm.weight"], after["vision_model.post_layernorm.weight"])
    assert not torch.equal(before["visual_projection.weight"], after["visual_projection.weight"])
    assert CLIPProcessor.from_pretrained(tmp_path / "out").tokenizer("no hat")["input_ids"]
    assert plot_log(tmp_path / "out").startswith(b"\x89PNG")


def test_a_checkpoint_that_is_there_is_not_trained_again(clip_folder, triplets, load, tmp_path):
    facts = train(recipe(), triplets, load, clip_folder, tmp_path / "out")
    with dying(0):
        assert train(recipe(), triplets, load, clip_folder, tmp_path / "out") == facts
    with pytest.raises(Killed, match="killed here"), dying(1):
        train(recipe(learning_rate=2e-3), triplets, load, clip_folder, tmp_path / "out")
    assert_bit_equal(tmp_path / "out", tmp_path / "out")  # the old one stands until the new one is whole


def test_states_of_another_run_are_not_continued(clip_folder, triplets, load, tmp_path):
    with pytest.raises(Killed, match="killed here"), dying(9):
        train(recipe(learning_rate=5e-3), triplets, load, clip_folder, tmp_path / "out")
    train(recipe(), triplets, load, clip_folder, tmp_path / "out")
    train(recipe(), triplets, load, clip_folder, tmp_path / "fresh")
    assert_bit_equal(tmp_path / "out", tmp_path / "fresh")


def test_a_damaged_state_falls_back_to_the_one_before(tmp_path):
    states = States(tmp_path / "work", "x")
    for step in (4, 8, 12):
        states.save(step, {"step": step})
    assert sorted(p.name for p in (tmp_path / "work").glob("state*")) == ["state-000000008.pt", "state-000000012.pt"]
    (tmp_path / "work" / "state-000000012.pt").write_bytes(b"cut short")
    assert States(tmp_path / "work", "x").latest() == {"step": 8}
    assert States(tmp_path / "work", "y").latest() is None


def test_the_digest_follows_weights_and_preprocessing_not_the_record(clip_folder, triplets, load, tmp_path):
    train(recipe(), triplets, load, clip_folder, tmp_path / "out")
    first = weights_digest(tmp_path / "out")
    (tmp_path / "out" / "recipe.json").write_text("{}")
    assert weights_digest(tmp_path / "out") == first != weights_digest(clip_folder)
    (tmp_path / "out" / "preprocessor_config.json").write_text("{}")
    assert weights_digest(tmp_path / "out") != first
    assert weights_digest("openai/clip-vit-base-patch16") == weights_digest("openai/clip-vit-base-patch16") != first


def test_a_loss_that_is_not_finite_stops_with_advice(clip_folder, triplets, load, tmp_path, monkeypatch):
    monkeypatch.setattr("mmret.retriever.train.loss.info_nce", lambda *a: a[0].sum() * float("nan"))
    with pytest.raises(UserError, match="step 0: the loss is nan.*learning_rate"):
        train(recipe(), triplets, load, clip_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("trainable", ["all", "text+blocks", "text+projection", "text"])
def test_muon_gets_the_trained_matrices_inside_the_blocks_and_adamw_every_other_parameter_once(
    clip_folder, triplets, load, tmp_path, trainable
):
    trainer = a_trainer(recipe(trainable=trainable, matrix_learning_rate=1e-3), clip_folder, triplets, load, tmp_path)
    adamw, muon = ([p for g in part.param_groups for p in g["params"]] for part in trainer.optimizer.parts)
    names = {id(p): name for name, p in trainer.embedder.model.named_parameters()}
    trained = [p for p in trainer.embedder.model.parameters() if p.requires_grad]
    assert sorted(map(id, [*adamw, *muon])) == sorted(map(id, trained))
    assert all(".layers." in names[id(p)] and p.ndim == 2 for p in muon)
    assert not any(".layers." in names[id(p)] and p.ndim == 2 for p in adamw)
    assert any("vision" in names[id(p)] for p in muon) == (trainable in ("all", "text+blocks"))


def test_a_loss_that_explodes_with_muon_names_its_rate_too(clip_folder, triplets, load, tmp_path, monkeypatch):
    monkeypatch.setattr("mmret.retriever.train.loss.info_nce", lambda *a: a[0].sum() * float("nan"))
    with pytest.raises(UserError, match=r"learning_rate \(now 0.001\) and matrix_learning_rate \(now 0.002\)"):
        train(recipe(matrix_learning_rate=2e-3), triplets, load, clip_folder, tmp_path / "out")


def test_a_loss_that_explodes_stops_with_advice(clip_folder, triplets, load, tmp_path, monkeypatch):
    calls = iter(range(1000))
    monkeypatch.setattr("mmret.retriever.train.loss.info_nce", lambda *a: info_nce(*a) * 1.2 ** next(calls))
    with pytest.raises(UserError, match="step 9: the loss has risen from.*Lower the recipe's learning_rate"):
        train(recipe(), triplets, load, clip_folder, tmp_path / "out")


def test_too_few_triplets_train_in_a_smaller_batch_and_say_so(clip_folder, triplets, load, tmp_path):
    facts = train(recipe(batch_size=512, steps=2), triplets, load, clip_folder, tmp_path / "out")
    assert facts["batch_size"] == 36 and "only 36 triplets" in facts["notes"][0]
    one = train(recipe(steps=2), triplets.slice(0, 1), load, clip_folder, tmp_path / "one")
    assert one["batch_size"] == 1 and np.isfinite(one["loss"])


def test_no_triplets_say_what_to_do(clip_folder, triplets, load, tmp_path):
    with pytest.raises(UserError, match="no triplets to train on"):
        train(recipe(), triplets.slice(0, 0), load, clip_folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_texts_over_the_limit_are_counted_not_fatal(clip_folder, triplets, load, tmp_path):
    column = triplets.schema.get_field_index("texts")
    texts = pa.array([["green " * 500]] * len(triplets), triplets.schema.field("texts").type)
    long = triplets.set_column(column, "texts", texts)
    facts = train(recipe(steps=2), long, load, clip_folder, tmp_path / "out")
    assert facts["truncated_texts"] == 2 and "cut" in facts["notes"][0]  # one distinct text a step
