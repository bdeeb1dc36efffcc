"""A whole small lake on a real S3 server against one in a folder: equal tables, also after kills of the run and of the server."""

import json
import os
import random
import subprocess
import sys
import time

import pytest

from mmret.lake import Lake
from mmret.lake.lease import is_leased
from mmret.schemas import TABLES
from mmret.storage import is_object_address
from tests.assets.server import until
from tests.small_runs import first
from tests.storage.seaweed import BUCKET, Seaweed

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("obstore")
    server = Seaweed(tmp_path_factory.mktemp("weed"))
    try:
        server.start()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in server.env.items():
                patch.setenv(name, value)
            yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Lake:
    lake = tmp_path_factory.mktemp("local") / "lake"
    run(str(lake))
    return Lake(lake)


def run(lake: str) -> dict:
    done = subprocess.run(first(lake), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def mmret(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "mmret", *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def digests(lake: Lake) -> dict[tuple[str, str], str]:
    """Of every partition; of checkpoints what is not a measured time, and what was computed from them follows from it."""
    found = {(t, p): lake.facts(t, p).digest for t in TABLES for p in lake.partitions(t)}
    for recipe in lake.partitions("checkpoints"):
        rows = lake.read("checkpoints", recipe).to_pylist()
        found["checkpoints", recipe] = json.dumps([{k: v for k, v in row.items() if k != "seconds"} for row in rows], default=str)
    return found


def lance_rows(lake: Lake) -> dict[str, int]:
    return {name: lake.lance(name).count_rows() for name in lake.lance_names()}


def test_a_lake_on_s3_has_the_tables_of_one_in_a_folder_and_every_command_works_on_it(server, local, tmp_path):
    address = f"s3://{BUCKET}/lakes/small"
    assert is_object_address(address)
    first_run = run(address)
    lake = Lake(address)
    assert digests(lake) == digests(local)
    assert lance_rows(lake) == lance_rows(local)
    assert not first_run["up_to_date"] and run(address)["up_to_date"]
    stages = json.loads(mmret("status", "--lake", address, "--json"))["stages"]
    assert all(not stage["stale"] and not stage["missing"] for stage in stages.values())
    count = "SELECT count(*) AS n FROM triplets"
    for more in ([], ["--as-of", "demo"], ["--as-of", "run-1"]):
        assert mmret("sql", "--lake", address, "--json", *more, count) == mmret("sql", "--lake", local.address, "--json", count)
    for command in (["search", "--text", "a red circle", "-k", "3", "--json"], ["quality", "--json"]):
        assert json.loads(mmret(command[0], "--lake", address, *command[1:])) == json.loads(
            mmret(command[0], "--lake", local.address, *command[1:])
        )
    mmret("compact", "--lake", address)
    mmret("export", "--lake", address, "--format", "megapairs", "--out", str(tmp_path / "out"))
    assert any((tmp_path / "out").rglob("*.jsonl"))
    assert digests(lake) == digests(local) and not (tmp_path / "s3:").exists()


SECONDS_TO_A_KILL = (2.5, 5)
"""A run of the small lake takes some 25 s on idle cores, three of them to begin, and goes on from where it was killed."""


def test_kills_of_the_run_and_of_the_server_at_any_moment_leave_equal_tables(server, local):
    address = f"s3://{BUCKET}/lakes/killed"
    chance = random.Random(int(os.environ.get("MMRET_SEED", time.time())))
    kills = ["run"] * int(os.environ.get("MMRET_KILLS", 3)) + ["server", "server"]
    chance.shuffle(kills)
    hits: dict[str, int] = dict.fromkeys(kills, 0)
    for kill in kills:
        work = subprocess.Popen(first(address), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            work.wait(chance.uniform(*SECONDS_TO_A_KILL))
        except subprocess.TimeoutExpired:
            hits[kill] += 1
            if kill == "server":
                server.kill()
                time.sleep(chance.uniform(0, 5))
                server.start()
                said = work.communicate(timeout=600)[1]
                assert work.returncode in (0, 2) and "Traceback" not in said, said[-3000:]
                continue
            work.kill()
        work.communicate()
    run(address)
    print(f"killed at work: {hits}")
    assert hits["run"], "the first of them meets a run that has just begun"
    assert digests(Lake(address)) == digests(local)


def test_two_runs_at_once_do_no_damage_and_the_second_says_who_works(server, local):
    address = f"s3://{BUCKET}/lakes/twice"
    one = subprocess.Popen(first(address), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    other = dict(os.environ, MMRET_SCRATCH=f"{os.environ['MMRET_SCRATCH']}-of-another-machine")
    try:
        until("the first works", lambda: is_leased(Lake(address)), 120)
        two = subprocess.run(first(address), capture_output=True, text=True, env=other, timeout=900)
        assert two.returncode == 2 and "another `mmret run` (host " in two.stderr and "since 20" in two.stderr, two.stderr[-2000:]
        said = one.communicate(timeout=900)[1]
        assert one.returncode == 0, said[-3000:]
    finally:
        one.kill()
    assert digests(Lake(address)) == digests(local)
