"""Long runs: kills, Ctrl-C, a full disk and a jumping clock at random moments of every stage end in the tables of a quiet run.

Few of each under ``-m slow``; ``make endurance`` does MMRET_KILLS=200, MMRET_STOPS=20, MMRET_FULL_DISKS=20, MMRET_CLOCKS=10.
What was hit where is printed (``-s``), and written to ENDURANCE_REPORT where that names a file.
"""

import contextlib
import json
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from assets.dagster_internals.event_log import open_instance
from mmret.lake import Lake, history
from mmret.lake.lease import is_leased
from tests.endurance.whole_runs import (
    KILL,
    STAGES,
    STOP,
    Disturbed,
    Starter,
    answers,
    count,
    digests,
    hits,
    line,
    rest,
    start_over,
    undisturbed,
)  # fmt: skip
from tests.small_runs import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    lake = tmp_path_factory.mktemp("quiet") / "lake"
    return lake, undisturbed(lake)


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    starter = Starter(tmp_path_factory.mktemp("said"))
    yield starter
    starter.close()


def report(what: str, hit: Counter) -> None:
    text = f"{what}: {sum(hit.values())} times; {hits(hit)}"
    print(text, flush=True)
    if place := os.environ.get("ENDURANCE_REPORT"):
        with open(place, "a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, **hit}) + "\n")


def progress(what: str, n: int, of: int, stage: str, hit: Counter) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what} {n + 1}/{of}: aimed at {stage}, so far {hits(hit)}", flush=True)


def as_undisturbed(lake: Path, quiet: tuple[Path, dict[str, str]]) -> None:
    """The lake ends as the quiet one: equal tables, nothing left over, no answer asked for twice, nothing to do."""
    run(line(lake), 3000)
    assert digests(lake) == quiet[1]
    assert answers(lake) == answers(quiet[0])
    assert not rest(lake) and not is_leased(Lake(lake))
    assert run(line(lake), 3000)["up_to_date"]
    assert not unfinished_runs(lake)


def unfinished_runs(lake: Path) -> list[str]:
    """Runs in the lake's history that have not ended, and those that hold a place in a pool or wait for one."""
    with open_instance(str(lake / ".dagster")) as instance:
        found = [run.run_id for run in instance.get_runs() if not run.is_finished]
        for pool in instance.event_log_storage.get_concurrency_keys():
            info = instance.event_log_storage.get_concurrency_info(pool)
            found += [f"{pool}: {each}" for each in (*info.claimed_slots, *info.pending_steps)]
    return found


def test_kills_at_random_moments_of_every_stage_change_nothing(quiet, starter, tmp_path):
    coin, hit, lake = random.Random(1), Counter(), tmp_path / "lake"
    kills = count("KILLS", 3)
    while (n := sum(hit.values()) - hit["ended"]) < kills:
        assert hit["ended"] <= kills, "most runs end before they are killed"
        stage = STAGES[sum(hit.values()) % len(STAGES)] if kills >= len(STAGES) else coin.choice(STAGES[1:])
        start_over(lake, stage, coin)
        disturbed = Disturbed(lake, starter if stage != "loading" else None)
        disturbed.wait_for(stage, coin.uniform(0, 1.5))
        hit[disturbed.send(KILL)] += 1
        assert disturbed.end() in (-KILL, 0), disturbed.said[-3000:]
        progress("kill -9", n, kills, stage, hit)
        if n % 100 == 99 and n < kills - 1:
            as_undisturbed(lake, quiet)
    report("kill -9", hit)
    as_undisturbed(lake, quiet)


def test_ctrl_c_ends_with_a_sentence_and_its_exit_code_and_the_same_command_goes_on(quiet, starter, tmp_path):
    coin, hit, lake = random.Random(2), Counter(), tmp_path / "lake"
    stops = count("STOPS", 2)
    for n in range(stops):
        stage = STAGES[1:][n % (len(STAGES) - 1)]
        start_over(lake, stage, coin)
        disturbed = Disturbed(lake, starter if n % 4 else None)
        disturbed.wait_for(stage, coin.uniform(0, 1.0))
        met = disturbed.send(STOP)
        code = disturbed.end()
        assert "Traceback" not in disturbed.said, disturbed.said[-3000:]
        if code == 0:  # it was at its last line
            met = "ended"
        else:
            assert code == 130 and "the same command goes on from there" in disturbed.said, (code, disturbed.said[-3000:])
        hit[met] += 1
        progress("Ctrl-C", n, stops, stage, hit)
    report("Ctrl-C", hit)
    as_undisturbed(lake, quiet)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own in memory, and a function that leaves it so many KB free."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(place)]).returncode == 0
    if not mounted:
        pytest.skip("a file system in memory can only be mounted by root")

    def leave(free_kb: int | None) -> None:
        balloon = place / "balloon"
        balloon.unlink(missing_ok=True)
        # in steps, because what runs writes meanwhile
        while free_kb is not None and (surplus := shutil.disk_usage(place).free - free_kb * 1024) > 0:
            with balloon.open("ab") as file, contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), file.tell(), surplus)

    try:
        yield place, leave
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_stops_with_a_sentence_and_once_there_is_room_the_same_command_goes_on(quiet, starter, small_disk):
    place, leave = small_disk
    coin, hit, lake = random.Random(3), Counter(), place / "lake"
    disks = count("FULL_DISKS", 2)
    for n in range(disks):
        stage = STAGES[1:][n % (len(STAGES) - 1)]
        leave(None)
        start_over(lake, stage, coin)
        disturbed = Disturbed(lake, starter if n % 4 else None)
        disturbed.wait_for(stage, coin.uniform(0, 0.5))
        met = disturbed.stage
        leave(coin.choice((0, 8, 64, 300)))
        code = disturbed.end()
        assert "Traceback" not in disturbed.said, disturbed.said[-3000:]
        if code == 0:
            met = "ended"
        else:
            assert code == 2 and "error: " in disturbed.said, (code, disturbed.said[-3000:])
            assert "again" in disturbed.said.rpartition("error: ")[2], disturbed.said[-3000:]
        hit[met] += 1
        progress("full disk", n, disks, stage, hit)
    leave(None)
    report("full disk", hit)
    as_undisturbed(lake, quiet)


def test_a_clock_that_jumps_between_killed_runs_changes_nothing(quiet, tmp_path):
    coin, hit, lake = random.Random(4), Counter(), tmp_path / "lake"
    clock = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "clock"), os.environ.get("PYTHONPATH", "")])}
    clocks = count("CLOCKS", 2)
    for n in range(clocks):
        by = coin.choice((-40 * 86400, -86400, -3600, -5, 5, 3600, 86400, 40 * 86400))
        stage = STAGES[n % len(STAGES)]
        start_over(lake, stage, coin)
        disturbed = Disturbed(lake, environment=clock | {"MMRET_TEST_CLOCK": str(by)})
        disturbed.wait_for(stage, coin.uniform(0, 1.5))
        hit[disturbed.send(KILL)] += 1
        assert disturbed.end() in (-KILL, 0), disturbed.said[-3000:]
        progress("jumping clock", n, clocks, stage, hit)
    report("jumping clock", hit)
    as_undisturbed(lake, quiet)
    store = Lake(lake)
    for recipe in store.partitions("checkpoints"):
        state = history.as_of(store, recipe)
        assert state.read("triplets").num_rows == store.read("triplets").num_rows
