"""Invariants: training outside the Dagster process gives the checkpoint of training inside it, byte for byte, with its log in
the run's while it trains; what a person can mend arrives as such; no process outlives its parent."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import dagster as dg
import psutil
import pyarrow as pa
import pytest
import torch

from assets.external_training import process as training_process
from assets.external_training.launch import command, environment, train_outside
from assets.training import checkpoints
from mmret.lake import Lake
from mmret.retriever.train.data_state import checkpoint_rows
from mmret.retriever.train.stage import TrainingJob
from mmret.settings import EvaluateSettings, LicenceSettings, Recipe
from resources.lake import LakeResource, ProfileResource

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lake(small_lake, tmp_path) -> Lake:
    """A copy of the small lake whose recipe has not been trained."""
    shutil.copytree(small_lake[0], tmp_path / "lake", ignore=shutil.ignore_patterns(".dagster", "checkpoints", "evaluations"))
    return Lake(tmp_path / "lake")


def materialise(lake: Lake, settings: dict | None = None, **changes) -> tuple[dg.ExecuteInProcessResult, list[str]]:
    """One run of ``checkpoints`` for recipe demo with ``settings`` and those of the recipe overridden, and what it logged."""
    overrides = {**(settings or {}), **{f"recipes.demo.{key}": value for key, value in changes.items()}}
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("recipes", ["demo"])
        result = dg.materialize(
            [checkpoints],
            partition_key="demo",
            instance=instance,
            raise_on_error=False,
            resources={"lake": LakeResource(folder=str(lake.root)), "profile": ProfileResource(overrides=overrides)},
        )
        return result, [entry.user_message for entry in instance.all_logs(result.run_id)]


def weights(lake: Lake) -> bytes:
    return (lake.root / "checkpoints" / "demo" / "model.safetensors").read_bytes()


def test_training_outside_gives_the_same_checkpoint_and_its_log_in_the_run(lake):
    inside, said_inside = materialise(lake)
    assert inside.success
    expected, recorded = weights(lake), lake.read("checkpoints").drop(["seconds"]).to_pylist()
    shutil.rmtree(lake.root / "checkpoints")
    outside, said = materialise(lake, outside=True, evaluate_every=20)
    assert outside.success and weights(lake) == expected
    again = lake.read("checkpoints").drop(["seconds"]).to_pylist()
    assert [{**row, "settings": ""} for row in again] == [{**row, "settings": ""} for row in recorded]
    rows = [text for text in said if "samples/s" in text]
    assert len(rows) == 3 and "step 10: loss" in rows[0] and "held-out R@10" in rows[1]
    assert any("samples/s" in text for text in said_inside)
    (made,) = outside.asset_materializations_for_node("checkpoints")
    assert made.metadata["training"].md_str.startswith("![loss and held-out recall](data:image/png;base64,")
    materialise(lake)
    assert weights(lake) == expected  # how a recipe runs is no part of what it makes


@pytest.mark.parametrize("outside", [False, True])
def test_a_run_whose_licences_are_overridden_trains_on_the_rows_they_allow_and_records_them(lake, outside):
    allowed = set()
    for shard in lake.partitions("triplets"):
        rows = lake.read("triplets", shard)
        licences = pa.array(["CC BY-NC 4.0" if i % 3 == 0 else "CC0-1.0" for i in range(rows.num_rows)])
        rows = rows.set_column(rows.column_names.index("licence"), "licence", licences)
        lake.write("triplets", shard, rows, "x", train=rows.num_rows)
        allowed |= {r["pair_id"] for r in rows.to_pylist() if r["split"] == "train" and r["licence"] == "CC0-1.0"}
    assert 0 < len(allowed) < lake.read("triplets").num_rows
    result, logged = materialise(lake, {"licences.non_commercial": "exclude"}, outside=outside, steps=2)
    assert result.success and any("outside this process" in text for text in logged) == outside
    notes = lake.facts("checkpoints", "demo").notes
    assert notes["triplets"] == len(allowed) and notes["licences"]["non_commercial"] == "exclude"
    assert set(checkpoint_rows(lake, "demo")["pair_id"].to_pylist()) == allowed


def test_what_a_person_can_mend_is_written_down_by_the_child(tmp_path, monkeypatch):
    monkeypatch.setattr(training_process, "exit_with_parent", lambda parent: None)
    monkeypatch.setattr(training_process, "reporter", lambda first: nullcontext())
    training_process.train_job(
        {
            **TrainingJob(Lake(tmp_path / "empty"), "demo", Recipe(), LicenceSettings(), EvaluateSettings()).to_json(),
            "parent": 0,
            "threads": torch.get_num_threads(),
            "error": str(tmp_path / "error"),
        }
    )
    assert "no triplets to train on" in (tmp_path / "error").read_text()


@pytest.mark.parametrize(
    "ends, error, said",
    [("Path(job['error']).write_text('mend it')", "UserError", "mend it"), ("pass", "DagsterPipesExecutionError", "code 1")],
)
def test_what_the_child_wrote_is_the_failure_and_else_that_it_died(tmp_path, monkeypatch, ends, error, said):
    script = f"import json, sys; from pathlib import Path; job = json.loads(sys.argv[1]); {ends}; sys.exit(1)"
    monkeypatch.setattr("assets.external_training.launch.command", lambda processes, job: [sys.executable, "-c", script, job])

    @dg.asset
    def trained(context: dg.AssetExecutionContext) -> None:
        train_outside(context, TrainingJob(Lake(tmp_path), "demo", Recipe(outside=True), LicenceSettings(), EvaluateSettings()))

    result = dg.materialize([trained], raise_on_error=False)
    (failure,) = (e.step_failure_data.error for e in result.all_events if e.is_step_failure)
    assert failure.cause.cls_name == error and said in failure.cause.message


LOOK = """
import json, os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", f'''
import time
from assets.external_training.process import exit_with_parent
exit_with_parent({os.getpid()})
print("ready", flush=True)
time.sleep(60)'''], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def gone(pid: int, seconds: float) -> bool:
    """Whether process ``pid`` ends within so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


def test_a_killed_parent_takes_its_training_with_it():
    parent = subprocess.Popen([sys.executable, "-c", LOOK], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert psutil.pid_exists(child)
    parent.kill()
    try:
        assert gone(child, 20)
    finally:
        parent.wait()


@pytest.mark.slow
def test_two_processes_under_torchrun_train_end_and_report(lake):
    result, said = materialise(lake, outside=True, processes=2)
    assert result.success and sum("samples/s" in text for text in said) == 3
    record = json.loads((lake.root / "checkpoints" / "demo" / "recipe.json").read_text())
    assert record["facts"]["step"] == 30 and (lake.root / "checkpoints" / "demo" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_killed_parent_takes_torchrun_and_its_processes_with_it(lake, tmp_path):
    recipe = Recipe(base="towers/clip", batch_size=32, steps=100_000, trainable="text+blocks")
    job = TrainingJob(lake, "demo", recipe, LicenceSettings(), EvaluateSettings()).to_json()
    script = (
        "import json, os, subprocess, sys, time; from assets.external_training.launch import command; "
        f"job = {{**{job!r}, 'parent': os.getpid(), 'threads': 1, "
        f"'error': {str(tmp_path / 'error')!r}}}; subprocess.Popen(command(2, json.dumps(job))); time.sleep(600)"
    )
    context = {"DAGSTER_PIPES_CONTEXT": "", "DAGSTER_PIPES_MESSAGES": ""}
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if k not in context}, **environment()},
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 120
        while not list(lake.root.glob("checkpoints/demo.work/state-*")) and time.monotonic() < until:
            time.sleep(0.5)
        tree = [process.pid for process in psutil.Process(parent.pid).children(recursive=True)]
        assert len(tree) >= 3  # torchrun and two that train
    finally:
        parent.kill()
        parent.wait()
    assert all(gone(pid, 60) for pid in tree)


def test_one_process_is_started_as_it_is_and_several_by_torchrun():
    assert command(1, "{}") == [sys.executable, "-m", "assets.external_training.process", "{}"]
    assert "--nproc-per-node=4" in command(4, "{}") and "torch.distributed.run" in command(4, "{}")
