"""The compaction job: runs on a lake, and leaves the Lance tables alone while others write."""

import shutil

import dagster as dg
import pyarrow as pa
import pytest

from assets.run import exclusive
from assets.upkeep import compact
from mmret.lake import Lake
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
    event = next(e for e in result.all_events if e.is_successful_output)
    return {name: entry.value for name, entry in event.event_specific_data.metadata.items()}


def test_the_job_compacts_and_waits_for_writers(lake):
    with dg.DagsterInstance.ephemeral() as instance:
        with exclusive(lake):
            assert run(lake, instance)["lance_files_merged"] == 0
        other = instance.create_run_for_job(compact, status=dg.DagsterRunStatus.STARTED)
        assert run(lake, instance)["lance_files_merged"] == 0
        instance.delete_run(other.run_id)
        done = run(lake, instance)
    assert done["lance_files_merged"] >= 5 and lake.lance("t").count_rows() == 5
