"""The batch scripts of deploy/slurm, submitted to a real Slurm of two nodes in two network namespaces.

`pytest -m cluster tests/deploy/test_slurm.py` as root; some minutes on two cores.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.deploy.slurm import NODES, slurm
from tests.endurance.whole_runs import digests
from tests.small_runs import command, first, run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400)]


def losses_of(lake: Path) -> list[float]:
    log = pq.read_table(lake / "checkpoints" / "demo" / "training_log.parquet")
    return log["loss"].drop_null().to_pylist()


ASK = "$MMRET_PYTHON deploy/slurm/nodes.py --expect 2 --seconds 5"


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    with slurm() as started:
        yield started


def test_ray_has_every_node_and_a_job_that_was_stopped_before_its_time_limit_comes_back(cluster):
    command = f'{ASK}; [[ ${{SLURM_RESTART_COUNT:-0}} -gt 0 ]] || {{ echo waiting; exec sleep 900; }}; echo "went on"'
    job = cluster.submit("run.sbatch", LAKE=str(cluster.folder / "home" / "lake"), MMRET_COMMAND=command)
    cluster.wait_for_word(job, "waiting", 300)
    assert set(re.findall(r"Ray node ([\d.]+):", cluster.log(job))) == set(NODES.values())
    cluster.ask("scancel", "--batch", "--signal=USR1", job)
    cluster.wait_for_word(job, "goes back into the queue", 120)
    cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
    said = cluster.finished(job, 400)
    assert "went on" in said and cluster.job(job)["Restarts"] == "1"
    assert set(re.findall(r"Ray node ([\d.]+):", said.split("start 1:")[1])) == set(NODES.values())
    assert not cluster.processes() and not cluster.scratch(job)


def test_a_cancelled_job_asks_the_run_to_end_and_does_not_come_back(cluster):
    home = cluster.folder / "home"
    command = f"trap 'echo ended > {home}/ended; exit 1' TERM; echo waiting; sleep 900 & wait"
    job = cluster.submit("run.sbatch", options=("--nodes=1",), LAKE=str(home / "lake"), MMRET_COMMAND=command)
    cluster.wait_for_word(job, "waiting", 300)
    cluster.ask("scancel", job)
    assert cluster.wait(job, ("CANCELLED", "PENDING", "COMPLETED", "FAILED"), 60)["JobState"] == "CANCELLED"
    cluster.until_nothing_runs(60)
    assert (home / "ended").read_text() == "ended\n" and not cluster.scratch(job)


def test_the_graph_on_two_nodes_makes_the_tables_of_a_run_on_one_machine_and_run_again_does_nothing(cluster, tmp_path):
    lake = cluster.folder / "home" / "lake"
    words = first(lake, "shapes:120?seed=3")
    words = words[words.index("--images") :]
    job = cluster.submit("run.sbatch", *words, "--shard-size", "60", LAKE=str(lake))
    said = cluster.finished(job, 1500)
    run(command(tmp_path / "plain", *words, "--shard-size", "60"), most=1500)
    assert digests(lake) == digests(tmp_path / "plain"), said
    again = cluster.finished(cluster.submit("run.sbatch", options=("--nodes=1",), LAKE=str(lake)), 600)
    assert "Nothing to do" in again, again


def test_one_process_on_each_node_trains_what_one_process_trains_and_goes_on_after_a_stop(cluster, tmp_path):
    lake, plain = cluster.folder / "home" / "trained", tmp_path / "plain"
    more = ("train=[]", "recipes.demo.steps=120", "recipes.demo.checkpoint_every=10", "recipes.demo.log_every=5")
    run([*first(lake, "shapes:120?seed=3"), *(word for text in more for word in ("--set", text))], most=1500)
    shutil.copytree(lake, plain)
    job = cluster.submit("train.sbatch", LAKE=str(lake), RECIPE="demo", OMP_NUM_THREADS="1")
    cluster.wait_for_word(job, "step 20:", 600)
    cluster.ask("scancel", "--batch", "--signal=USR1", job)
    cluster.wait_for_word(job, "goes back into the queue", 180)
    cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
    said = cluster.finished(job, 1200)
    assert cluster.job(job)["Restarts"] == "1" and not cluster.processes(), said
    subprocess.run([sys.executable, "-m", "mmret", "train", "--lake", plain, "--recipe", "demo"], check=True, timeout=1200)
    losses = [losses_of(path) for path in (lake, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3), said


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "set LAKE: a folder that every node sees"),
        ({"LAKE": "lakes/demo"}, "LAKE has to be an absolute path or an address, not lakes/demo"),
        ({"LAKE": "/lake", "MMRET_PYTHON": "/nowhere/python"}, "no /nowhere/python: run `make setup`"),
        ({"LAKE": "/lake", "MMRET_CHECKOUT": "/nowhere"}, "no checkout at /nowhere"),
    ],
)
def test_what_is_missing_is_said_before_anything_starts(cluster, variables, words):
    job = cluster.submit("run.sbatch", **variables)
    assert cluster.wait(job, ("COMPLETED", "FAILED"), 60)["ExitCode"] == "2:0"
    assert words in cluster.log(job)
