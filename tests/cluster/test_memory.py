"""What the stage table says of a step's memory holds: the peak of its process, at two sizes of a shard."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import CHECKOUT
from tests.small_runs import TINY, command, run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

PEAK = """
import json, os, resource, sys
import dagster as dg
from assets.cluster.job import defs
from assets.partitions import register
from mmret.lake import Lake
from mmret.stages import STAGES, assets_of
lake, (stage, shard) = Lake(os.environ["MMRET_LAKE"]), sys.argv[1:]
lake.remove(stage, shard)
with dg.DagsterInstance.ephemeral() as instance:
    register(instance, lake.shards(), [])
    keys = {dg.AssetKey(table) for table in assets_of([stage])}
    job = defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection=keys)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    made = job.execute_in_process(instance=instance, partition_key=shard, run_config=quiet)
images = {shard: lake.facts("corpus_manifest", shard).rows for shard in lake.shards()}
stated = STAGES[stage].resources.memory.bytes(images[shard], sum(images.values()))
print(json.dumps([made.success, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, stated]))
"""


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """1,500 images in a large shard and one of the rest."""
    lake = tmp_path_factory.mktemp("memory") / "lake"
    settings = [part for each in (*TINY, "train=[]") for part in ("--set", each)]
    run(command(lake, "--images", "shapes:1600?seed=3", "--shard-size", "1500", *settings), most=900)
    return lake


@pytest.mark.parametrize("stage", ["clip_image", "pairs", "triplets"])
@pytest.mark.parametrize("shard", ["shard-00000", "shard-00001"])
def test_a_step_has_no_more_in_memory_than_its_stage_states_for_its_shard(lake, stage, shard):
    env = {**os.environ, "MMRET_LAKE": str(lake), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-W", "ignore", "-c", PEAK, stage, shard]
    done = subprocess.run(line, env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    success, peak, stated = json.loads(done.stdout.splitlines()[-1])
    assert success and peak <= stated, f"{peak / 2**20:.0f} MiB, and {stated / 2**20:.0f} stated"
    assert stated <= 3 * peak, "not so much more that nodes stay empty"
