"""Time travel: a checkpoint's exact rows can be listed, exported and trained on again, however the lake changed since."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from mmret.cli import app
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.as_of import open_as_of
from mmret.lake.configuration import resolve
from mmret.retriever.train.data_state import checkpoint_rows
from mmret.retriever.train.stage import TrainingJob, checkpoint_folder, train_recipe
from mmret.schemas import TRIPLETS


@pytest.fixture()
def lake(small_lake, tmp_path) -> Lake:
    return Lake(shutil.copytree(small_lake[0], tmp_path / "lake"))


def change(lake: Lake) -> None:
    """The lake grows, loses rows and rewrites others."""
    shards = lake.partitions("triplets")
    rows = lake.read("triplets", shards[0])
    texts = pa.array([["other words"]] * rows.num_rows, TRIPLETS.field("texts").type)
    lake.write("triplets", shards[0], rows.set_column(rows.column_names.index("texts"), "texts", texts), "changed")
    lake.write("triplets", shards[1], lake.read("triplets", shards[1]).slice(0, 1), "changed")
    lake.write("triplets", "shard-00099", rows.slice(0, 3), "changed")


def sql(lake: Lake, query: str, *more: str) -> list[dict]:
    done = CliRunner().invoke(app, ["sql", "--lake", str(lake.root), "--json", *more, query])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return json.loads(done.stdout)


def test_the_exact_rows_of_a_checkpoint_outlive_changes_of_the_lake(lake):
    job = TrainingJob.of(lake, resolve(lake)[0], "demo")
    before, rows = lake.read("triplets"), checkpoint_rows(lake, "demo")
    assert 0 < rows.num_rows == lake.facts("checkpoints", "demo").notes["triplets"]
    change(lake)
    assert checkpoint_rows(lake, "demo").equals(rows)
    assert open_as_of(lake, "demo").read("triplets").equals(before) and not lake.read("triplets").equals(before)
    assert open_as_of(lake, str(checkpoint_folder(lake, "demo"))).read("triplets").equals(before)
    ids = "SELECT pair_id, texts FROM triplets ORDER BY pair_id"
    listed = sql(lake, ids, "--as-of", "demo")
    assert listed == before.select(["pair_id", "texts"]).sort_by("pair_id").to_pylist() != sql(lake, ids)
    trained = [r["pair_id"] for r in sql(lake, "SELECT pair_id FROM trained_on ORDER BY pair_id", "--as-of", "demo")]
    assert trained == rows["pair_id"].to_pylist()
    # asked to train on that state, it finds that this is what it was trained on
    weights = (checkpoint_folder(lake, "demo") / "model.safetensors").stat()
    again = train_recipe(replace(job, recipe=job.recipe.model_copy(update={"as_of": "demo"})), "x")
    assert (checkpoint_folder(lake, "demo") / "model.safetensors").stat() == weights
    assert again.notes["state"] == lake.facts("checkpoints", "demo").notes["state"]
    assert checkpoint_rows(lake, "demo").equals(rows)


def test_a_run_s_name_is_the_state_it_left(lake):
    before = lake.read("triplets", columns=["pair_id"]).sort_by("pair_id").to_pylist()
    change(lake)
    assert sql(lake, "SELECT run FROM runs") == [{"run": "run-1"}]
    assert sql(lake, "SELECT pair_id FROM triplets ORDER BY pair_id", "--as-of", "run-1") == before
    assert sql(lake, "SELECT count(*) > 0 AS some FROM neighbours", "--as-of", "run-1") == [{"some": True}]


def test_export_as_of_a_checkpoint(lake, tmp_path):
    before = lake.read("triplets")
    change(lake)
    CliRunner().invoke(
        app,
        ["export", "--lake", str(lake.root), "--format", "megapairs", "--as-of", "demo", "--out", str(tmp_path / "out")],
        catch_exceptions=False,
    )
    lines = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    train = [r for r in before.to_pylist() if r["split"] == "train"]
    assert sorted(r["q_text"] for r in lines) == sorted(r["texts"] for r in train)


def test_a_state_is_read_only_and_says_what_it_does_not_keep(lake):
    then = open_as_of(lake, "demo")
    with pytest.raises(UserError, match="read only"):
        then.write("triplets", "shard-00000", TRIPLETS.empty_table(), "x")
    with pytest.raises(UserError, match="neighbours is not kept"):
        then.read("neighbours")
    assert then.facts("triplets", "shard-77777") is None and open_as_of(lake, None) is lake


def test_licences_kept_apart_are_not_trained_on_together(lake, monkeypatch):
    from mmret.retriever.train.rows import training_rows
    from mmret.settings import EvaluateSettings, LicenceSettings, Recipe

    rows = lake.read("triplets", "shard-00000")
    licences = pa.array(["CC BY-SA 4.0" if i % 3 == 0 else "CC0" for i in range(rows.num_rows)])
    lake.write("triplets", "shard-00000", rows.set_column(rows.column_names.index("licence"), "licence", licences), "x")
    recipe, apart = Recipe(), LicenceSettings(share_alike="apart")
    every = {r["pair_id"] for r in lake.read("triplets").to_pylist()}
    found = {
        s: set(training_rows(lake, recipe.model_copy(update={"licence_set": s}), apart, EvaluateSettings())["pair_id"].to_pylist())
        for s in ("main", "share_alike", "unknown")
    }
    assert found["main"] | found["share_alike"] == every and not found["main"] & found["share_alike"] and not found["unknown"]
    assert len(found["share_alike"]) == -(-rows.num_rows // 3)


def test_checkpoints_of_before_say_so(lake):
    table = lake.read("checkpoints", "demo")
    lake.write("checkpoints", "demo", table, "x")
    with pytest.raises(UserError, match="older than recorded states"):
        open_as_of(lake, "demo")
    assert Path(checkpoint_folder(lake, "demo") / "data.state").is_file()
