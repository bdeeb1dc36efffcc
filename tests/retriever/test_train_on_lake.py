"""Invariants: `mmret train` makes the checkpoint `mmret run` would make, which then only records it; a recipe of kind mllm trains
on a lake and its checkpoint merges by command; unknown names are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

import mmret
from mmret import progress
from mmret.cli import app
from mmret.curation.split import split_of
from mmret.errors import UserError
from mmret.freshness import fingerprints
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.retriever.train import stage
from mmret.retriever.train.rows import training_rows
from mmret.retriever.train.stage import TrainingJob, base_folder, train_recipe
from mmret.settings import EvaluateSettings, LicenceSettings, Recipe, RerankerSettings
from tests.retriever.mllm_folders import qwen2_vl
from tests.retriever.runs import small


@pytest.fixture
def lake(small_lake, tmp_path) -> Lake:
    """A copy of the small lake whose recipe has not been trained."""
    shutil.copytree(small_lake[0], tmp_path / "lake", ignore=shutil.ignore_patterns(".dagster", "checkpoints", "evaluations"))
    return Lake(tmp_path / "lake")


def test_the_command_makes_the_checkpoint_that_a_run_then_records(lake, small_lake):
    done = CliRunner().invoke(app, ["train", "--lake", str(lake.root), "--recipe", "demo"])
    assert done.exit_code == 0, done.output
    assert "step 10: loss" in done.stderr, "progress"
    assert len(done.stdout.splitlines()) == 1 and "30 steps, loss" in done.stdout, "the result"
    ours, theirs = (json.loads((root / "checkpoints" / "demo" / "recipe.json").read_text()) for root in (lake.root, small_lake[0]))
    assert ours["identity"] == theirs["identity"]
    assert ours["facts"]["loss"] == pytest.approx(theirs["facts"]["loss"], rel=1e-4)

    def trains(*_):
        raise AssertionError("trained again")

    with progress.reporting(trains):
        facts = train_recipe(TrainingJob.of(lake, resolve(lake)[0], "demo"), "x")
    assert facts.rows == 1 and facts.notes["loss"] == ours["facts"]["loss"]


def test_first_hits_stand_in_for_the_mined_negatives_of_a_reranker_and_of_nothing_else(lake, monkeypatch):
    """Whatever a recipe says that was recorded before settings without effect were refused: what is read is what is declared."""
    monkeypatch.setattr(stage, "train", lambda recipe, rows, *_: rows)
    plain = TrainingJob.of(lake, resolve(lake)[0], "demo")
    hits = {"reranker": RerankerSettings(first_hits=5), "retriever": "demo"}
    clip = replace(plain, recipe=plain.recipe.model_copy(update=hits))
    assert stage.train_on_lake(clip).equals(stage.train_on_lake(plain))
    judge = replace(plain, recipe=plain.recipe.model_copy(update={**hits, "kind": "reranker"}))
    with pytest.raises(UserError, match="'demo' has no checkpoint"):
        stage.train_on_lake(judge)


def test_a_recipe_the_profile_lacks_is_refused(lake):
    done = CliRunner().invoke(app, ["train", "--lake", str(lake.root), "--recipe", "none"])
    assert isinstance(done.exception, UserError) and "profile demo has demo" in str(done.exception)


def test_an_mllm_trains_on_a_lake_and_merges_by_command(lake, tmp_path):
    pytest.importorskip("peft")
    recipe = small("mllm", base=str(qwen2_vl(tmp_path / "qwen2_vl")), steps=2, batch_size=3)
    facts = train_recipe(TrainingJob(lake, "tiny", recipe, LicenceSettings(), EvaluateSettings()), "x")
    assert facts.rows == 1 and lake.read("checkpoints", "tiny")["folder"].to_pylist() == ["checkpoints/tiny"]
    done = CliRunner().invoke(app, ["merge", "--lake", str(lake.root), "--recipe", "tiny", "--out", str(tmp_path / "whole")])
    assert done.exit_code == 0, done.output
    pixels = np.zeros((40, 40, 3), np.uint8)
    rows = [
        mmret.Retriever.load(folder, "cpu").encode([pixels], ["no hat"], instruction="find a picture")
        for folder in (lake.root / "checkpoints" / "tiny", tmp_path / "whole")
    ]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)
    nothing = CliRunner().invoke(app, ["merge", "--out", str(tmp_path / "other")])
    assert isinstance(nothing.exception, UserError) and "which adapter" in str(nothing.exception)


def test_a_job_is_the_same_in_another_process(lake):
    profile = resolve(lake, overrides={"licences.exclude": ["CC-BY-NC*"], "evaluate.held_out": 0.25, "recipes.demo.as_of": "demo"})[
        0
    ]
    job = TrainingJob.of(lake, profile, "demo")
    again = TrainingJob.from_json(json.loads(json.dumps(job.to_json())))
    assert again.lake.root == lake.root and replace(again, lake=lake) == job
    assert (job.licences, job.evaluate) == (profile.licences, profile.evaluate)


def test_naive_pairs_follow_the_licences_and_the_held_out_share_that_are_given(lake):
    images = lake.read("images", columns=["image_id", "licence"])
    closed = set(images["image_id"].to_pylist()[::4])
    for shard in lake.partitions("images"):
        rows = lake.read("images", shard)
        texts = ["CC BY-NC 4.0" if i in closed else "CC0-1.0" for i in rows["image_id"].to_pylist()]
        column = pa.array(texts, rows.schema.field("licence").type)
        lake.write("images", shard, rows.set_column(rows.column_names.index("licence"), "licence", column), "x")
    recipe = Recipe(pair_source="naive", negatives="query", pairs=60)

    def used(licences: LicenceSettings, evaluate: EvaluateSettings, recipe: Recipe = recipe) -> pa.Table:
        rows = training_rows(lake, recipe, licences, evaluate)
        assert rows.num_rows == 60
        return rows

    every, few = used(LicenceSettings(), EvaluateSettings()), used(LicenceSettings(), EvaluateSettings(held_out=0.5))
    assert closed & {*every["query_id"].to_pylist(), *every["target_id"].to_pylist()}
    assert all(split_of(i, EvaluateSettings(held_out=0.5)) == "train" for i in few["query_id"].to_pylist())
    apart = LicenceSettings(non_commercial="apart")
    for licences in (LicenceSettings(non_commercial="exclude"), apart):
        rows = used(licences, EvaluateSettings())
        assert not closed & {*rows["query_id"].to_pylist(), *rows["target_id"].to_pylist()}
    rows = used(apart, EvaluateSettings(), recipe.model_copy(update={"licence_set": "non_commercial"}))
    assert all({q, t} & closed for q, t in zip(rows["query_id"].to_pylist(), rows["target_id"].to_pylist(), strict=True))


def test_a_recipe_that_goes_on_from_another_is_computed_from_its_checkpoint(lake):
    profile = resolve(lake, overrides={"recipes.next": {"base": "checkpoints/demo"}})[0]
    assert ("checkpoints", "demo") in fingerprints.upstream_of(lake, profile, "checkpoints", "next")
    assert fingerprints.fingerprint_now(lake, profile, "checkpoints", "next") is None  # not trained yet
    assert ("checkpoints", "demo") not in fingerprints.upstream_of(lake, profile, "checkpoints", "demo")


def test_a_recipe_may_start_from_another_recipes_checkpoint(tmp_path):
    lake = Lake(tmp_path)
    assert base_folder(lake, "checkpoints/mllm") == tmp_path / "checkpoints" / "mllm"
    assert base_folder(lake, "towers/clip") == tmp_path / "towers" / "clip"
    assert base_folder(lake, "openai/clip-vit-base-patch16") == "openai/clip-vit-base-patch16"
