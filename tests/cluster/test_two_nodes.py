"""The graph on a Ray cluster of two hosts: equal tables, both at work, and a host that is lost costs its shard and no more.

Root: the hosts are network namespaces. A quarter of an hour on two busy cores, most of it Ray's.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from mmret.lake import Lake
from tests.assets.server import UI, free_port, until
from tests.cluster.namespaces import Cluster, Host, hosts, postgres_on, ray_cluster, seaweedfs_on, wait_for
from tests.conftest import CHECKOUT
from tests.small_runs import TINY

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

SHARDS = [f"shard-{n:05}" for n in range(8)]
SETTINGS = [*TINY, "train=[]"]
BY_SHARD = ("images", "clip_image", "dino_image", "caption", "candidates", "neighbours", "pairs", "descriptions", "instructions")
TABLES = (*BY_SHARD, "triplets", "tasks", "rejects", "towers", "duplicates", "leaks")


class Bench(NamedTuple):
    first: Host
    second: Host
    cluster: Cluster


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Bench]:
    pytest.importorskip("dagster_ray", reason="the extra `cluster` is not installed")
    with hosts("two", 2, "10.77.1") as (first, second), postgres_on(first) as postgres:
        with seaweedfs_on(first, tmp_path_factory.mktemp("s3")) as store:
            with ray_cluster([first, second], env={**postgres, **store}) as cluster:
                yield Bench(first, second, cluster)


def command(lake: Path | str, *more: str, images: int = 320) -> list[str]:
    settings = [part for each in SETTINGS for part in ("--set", each)]
    line = ["--lake", str(lake), "--images", f"shapes:{images}?seed=3", "--shard-size", "40", *settings, "--json", *more]
    return [sys.executable, "-W", "ignore", "-m", "mmret", "run", *line]


def summary(done: subprocess.CompletedProcess) -> dict:
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> tuple[dict, dict[str, str]]:
    """The summary of a run in one process, and the digests of what it made. With one thread, as a node of one core has: training
    the towers differs in the last bit with another number."""
    return in_one_process(tmp_path_factory.mktemp("local") / "lake")


def in_one_process(lake: Path, images: int = 320) -> tuple[dict, dict[str, str]]:
    line = command(lake, images=images)
    done = subprocess.run(line, capture_output=True, text=True, timeout=900, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return summary(done), digests(lake)


def digests(lake: Path | str) -> dict[str, str]:
    at = Lake(lake)
    return {f"{table}/{p}": at.facts(table, p).digest for table in TABLES for p in at.partitions(table)}


def tries(lake: Path, host: Host, env: dict[str, str]) -> list[dict]:
    """Every step of the lake's runs by the records of Dagster: its table, shard, number of tries and rows computed by each."""
    code = """
import json, os, sys
import dagster as dg
found = []
with dg.DagsterInstance.from_config(sys.argv[2]) as instance:
    for run in instance.get_runs(dg.RunsFilter(tags={"mmret/live": sys.argv[1]})):
        events = [e.dagster_event for e in instance.all_logs(run.run_id) if e.is_dagster_event]
        for step in {e.step_key for e in events if e.step_key}:
            own = [e for e in events if e.step_key == step]
            rows = [e.step_materialization_data.materialization.metadata["rows_computed"].value for e in own
                    if e.is_step_materialization and e.asset_key.path[-1] == step]
            kinds = [e.event_type_value for e in own]
            found.append({"step": step, "shard": run.tags.get("dagster/partition"), "rows": rows, "run": run.run_id,
                          "launched": kinds.count("STEP_WORKER_STARTING"), "failed": kinds.count("STEP_FAILURE")})
print(json.dumps(found))
"""
    done = host.run([sys.executable, "-W", "ignore", "-c", code, str(lake), str(lake / ".dagster-cluster")], env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def where(cluster: Cluster, steps: list[dict]) -> Counter:
    """How many of the steps' jobs each host executed, by Ray's own records."""
    runs = {step["run"] for step in steps}
    return Counter(cluster.node_of(job) for job in cluster.jobs() if job["metadata"].get("dagster/run-id") in runs)


def test_every_stage_of_eight_shards_is_equal_to_a_run_in_one_process_and_both_nodes_work(bench, local, tmp_path):
    began = time.monotonic()
    on = f"ray:{bench.cluster.address}"
    made = summary(bench.first.run(command(tmp_path / "lake", "--on", on), env=bench.cluster.env, timeout=1500))
    took = time.monotonic() - began
    assert digests(tmp_path / "lake") == local[1] and local[1]
    same = ("rows", "computed", "rejects", "pair_reasons", "annotation_reasons", "shards", "checks_failed")
    assert {name: made[name] for name in same} == {name: local[0][name] for name in same}
    assert {t: sorted(p) for t, p in made["partitions_computed"].items()} == {
        t: sorted(p) for t, p in local[0]["partitions_computed"].items()
    }
    steps = tries(tmp_path / "lake", bench.first, bench.cluster.env)
    assert {(s["step"], s["shard"]) for s in steps} >= {(table, shard) for table in BY_SHARD for shard in SHARDS}
    assert all(s["launched"] == 1 and not s["failed"] for s in steps)
    by_host = where(bench.cluster, steps)
    assert by_host.keys() == {bench.first.address, bench.second.address} and min(by_host.values()) >= len(steps) // 5, by_host
    named = bench.cluster.env | {"RAY_ADDRESS": bench.cluster.address}
    again = summary(bench.first.run(command(tmp_path / "lake", "--on", "ray"), env=named))
    assert again["up_to_date"] and not again["computed"]
    print(f"\n{len(steps)} steps, {dict(by_host)}: {took:.0f} s on two nodes; one process: {local[0]['total_seconds']:.0f} s")


def test_a_lake_on_an_object_store_is_equal_to_one_in_a_folder(bench, tmp_path, monkeypatch):
    began = time.monotonic()
    line = command("s3://lakes/two", "--on", f"ray:{bench.cluster.address}", images=120)
    before = {job["submission_id"] for job in bench.cluster.jobs()}
    summary(bench.first.run(line, env=bench.cluster.env, timeout=1500))
    took = time.monotonic() - began
    by_host = Counter(bench.cluster.node_of(job) for job in bench.cluster.jobs() if job["submission_id"] not in before)
    assert by_host.keys() == {bench.first.address, bench.second.address}, by_host
    for name, value in bench.cluster.env.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    expected = in_one_process(tmp_path / "lake", images=120)[1]
    assert digests("s3://lakes/two") == expected and expected
    print(f"\n3 shards on s3://, two nodes: {took:.0f} s")


def test_a_backfill_in_a_ui_whose_home_names_the_cluster_is_done_on_its_nodes(bench, tmp_path):
    lake, home, port = tmp_path / "lake", tmp_path / "home", free_port()
    expected = in_one_process(lake, images=120)[1]
    home.mkdir()
    for ours, dagsters in (("dagster.ray.yaml", "dagster.yaml"), ("executor.ray.yaml", "executor.yaml")):
        shutil.copy(CHECKOUT / "dagster_home" / ours, home / dagsters)
    named = {"DAGSTER_HOME": str(home), "MMRET_LAKE": str(lake), "RAY_ADDRESS": bench.cluster.address}
    dev = ["-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    ui = UI([sys.executable, "-W", "ignore", *dev], port, tmp_path / "log", bench.cluster.env | named)
    before = {job["submission_id"] for job in bench.cluster.jobs()}
    stages = [part for stage in ("neighbours", "pairs") for part in ("--stage", stage)]
    line = [sys.executable, "-W", "ignore", "-m", "mmret", "backfill", "--lake", str(lake), *stages, "--url", ui.url, "--wait"]
    try:
        ui.wait_until_up()
        for stage in ("neighbours", "pairs"):
            for shard in SHARDS[:3]:
                Lake(lake).remove(stage, shard)
        began = time.monotonic()

        def taken() -> subprocess.CompletedProcess | None:
            done = subprocess.run(line, capture_output=True, text=True, timeout=600, cwd=CHECKOUT)
            return None if "does not know shard" in done.stderr else done  # its sensor has not looked yet

        done = until("a backfill is taken", taken, 900)
        assert done.returncode == 0, done.stdout + done.stderr + ui.log.read_text()[-3000:]
        print(f"\n{done.stderr.splitlines()[-1]}: {time.monotonic() - began:.0f} s for a backfill of three shards")
    finally:
        with suppress(subprocess.TimeoutExpired):
            ui.ctrl_c()
        ui.kill()
    assert digests(lake) == expected
    ours = [job for job in bench.cluster.jobs() if job["submission_id"] not in before]
    assert {job["metadata"]["dagster/op"] for job in ours} >= {"neighbours", "pairs"}, "its checks are steps too"


def test_a_node_that_is_killed_and_cut_off_costs_the_steps_it_was_at_and_nothing_else(bench, local, tmp_path):
    lake, log = tmp_path / "lake", tmp_path / "log"
    line = command(lake, "--on", f"ray:{bench.cluster.address}")
    run = bench.first.start(line, log, env=bench.cluster.env)
    before = {job["submission_id"] for job in bench.cluster.jobs()}

    def at_work() -> list[dict]:
        assert run.poll() is None, log.read_text()[-3000:]
        jobs = [j for j in bench.cluster.jobs() if j["submission_id"] not in before and j["status"] == "RUNNING"]
        encoding = [j for j in jobs if j["metadata"]["dagster/op"] in ("dino_image", "caption")]
        return [j for j in encoding if bench.cluster.node_of(j) == bench.second.address]

    try:
        wait_for("the second node encodes", at_work, 600)
        lost = {j["metadata"]["dagster/op"] for j in at_work()}
        bench.second.cut()
        bench.cluster.kill_node(bench.second)
        cut = time.monotonic()
        time.sleep(30)
        bench.second.join()
        assert run.wait(1500) == 0, log.read_text()[-3000:]
    finally:
        if run.poll() is None:
            run.send_signal(signal.SIGTERM)
            run.wait(60)
    print(f"\nended {time.monotonic() - cut:.0f} s after the node was lost")
    assert digests(lake) == local[1]
    steps = tries(lake, bench.first, bench.cluster.env)
    again = [s for s in steps if s["launched"] > 1]
    assert 1 <= len(again) <= 3 and lost <= {s["step"] for s in steps}, again
    assert not [s for s in steps if s["failed"]]
    twice = [s for s in steps if sum(1 for rows in s["rows"] if rows) > 1]
    assert twice == [], "nothing that was finished is computed again"
    assert bench.cluster.alive() == [bench.first.address]
    shutil.rmtree(lake)


def test_a_second_run_is_told_who_works_on_the_lake_and_since_when(bench, tmp_path):
    lake, log = tmp_path / "lake", tmp_path / "log"
    run = bench.first.start(command(lake, "--on", f"ray:{bench.cluster.address}"), log, env=bench.cluster.env)
    try:
        wait_for("the run has listed its sources", lambda: "corpus_manifest" in log.read_text(), 60)
        other = bench.second.run(command(lake), timeout=120)
        assert other.returncode == 2 and "another `mmret run` (host" in other.stderr and "since" in other.stderr
    finally:
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130, log.read_text()[-3000:]
    wait_for("no step of it runs on", lambda: all(j["status"] not in ("RUNNING", "PENDING") for j in bench.cluster.jobs()), 60)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"RAY_AUTH_TOKEN": "wrong" * 8}, "wants a token"),
        ({"DAGSTER_PG_HOST": ""}, "keeps its history in Postgres"),
        ({"DAGSTER_PG_PORT": "1"}, "does not open"),
    ],
)
def test_what_keeps_a_run_from_its_cluster_is_said_in_one_sentence(bench, tmp_path, env, said):
    on = f"ray:{bench.cluster.address}"
    done = bench.first.run(command(tmp_path / "lake", "--on", on), env=bench.cluster.env | env, timeout=120)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr[-2000:]
