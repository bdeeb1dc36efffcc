"""The compaction job: runs on a lake, and leaves the Lance tables alone while others write."""

import shutil

import dagster as dg
import pyarrow as pa
import pytest

from assets.automation.upkeep import compact, fresh_catalogue
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake import compact as module
from mmret.lake.lease import exclusive, is_leased
from mmret.schemas import CORPUS_MANIFEST, TRIPLETS
from mmret.warehouse import catalogue_path
from mmret.warehouse.catalogue import attach
from resources.lake import LakeResource, ProfileResource


@pytest.fixture()
def lake(small_lake, tmp_path) -> Lake:
    lake = Lake(shutil.copytree(small_lake[0], tmp_path / "lake"))
    table = lake.lance("t", pa.schema([("x", pa.int64())]))
    for n in range(5):
        table.add(pa.table({"x": [n]}))
    return lake


def run(lake: Lake, instance: dg.DagsterInstance) -> dict:
    resources = {"lake": LakeResource(folder=str(lake.root)), "profile": ProfileResource()}
    result = compact.execute_in_process(resources=resources, instance=instance)
    assert result.success
    said = [e.user_message for e in instance.all_logs(result.run_id) if not e.is_dagster_event]
    event = next(e for e in result.all_events if e.is_successful_output)
    return {name: entry.value for name, entry in event.event_specific_data.metadata.items()} | {"said": said}


def test_the_job_compacts_and_waits_for_writers(lake):
    with dg.DagsterInstance.ephemeral() as instance:
        with exclusive(lake):
            waited = run(lake, instance)
        assert waited["lance_files_merged"] == 0 and any("wait for the next time: another `mmret run`" in t for t in waited["said"])
        other = instance.create_run_for_job(compact, status=dg.DagsterRunStatus.STARTED)
        waited = run(lake, instance)
        assert waited["lance_files_merged"] == 0 and any("another run is writing" in text for text in waited["said"])
        instance.delete_run(other.run_id)
        done = run(lake, instance)
    assert not done["said"] and done["lance_files_merged"] >= 5 and lake.lance("t").count_rows() == 5


def test_the_job_merges_under_the_lease_so_that_no_mmret_run_begins_meanwhile(lake, monkeypatch):
    (lake.root / ".run.lock").write_text('{"lease": "of a killed run"}')
    orphan = lake.root / "lance" / "t.lance" / "data" / "0000deadbeef.lance"
    orphan.write_bytes(next(orphan.parent.iterdir()).read_bytes())
    refused = []

    def merge(*arguments, lance: bool):
        assert lance and is_leased(lake)
        with pytest.raises(UserError, match="another `the job compact`"), exclusive(lake):
            pass
        refused.append(True)
        return module.Report()

    monkeypatch.setattr(module, "compact", merge)
    with dg.DagsterInstance.ephemeral() as instance:
        run(lake, instance)
    assert refused and not is_leased(lake)
    assert not orphan.exists(), "what a killed run left is cleared up by the next holder, whoever that is"


def test_the_catalogue_follows_what_runs_write_and_waits_for_mmret_run(tmp_path):
    lake = Lake(tmp_path / "lake")

    def tick() -> str:
        return fresh_catalogue(dg.build_sensor_context(resources={"lake": LakeResource(folder=str(lake.root))})).skip_message

    assert "no lake" in tick() and not lake.root.exists()
    lake.write("corpus_manifest", "shard-00000", CORPUS_MANIFEST.empty_table(), "x")
    assert tick() == "made anew" and tick() == "it is of the lake as it is"
    lake.write("triplets", "shard-00000", pa.Table.from_pylist([{"pair_id": "a"}], TRIPLETS), "x")
    with exclusive(lake):
        assert "mmret run" in tick()
    assert tick() == "made anew"
    assert attach(catalogue_path(lake)).execute("SELECT pair_id FROM triplets").fetchall() == [("a",)]
