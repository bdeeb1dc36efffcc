"""Both Dagster homes start: the embedded default, and the production sibling on a Postgres of the machine's own."""

import os
import shutil
import subprocess
import sys
from contextlib import nullcontext

import pytest

from assets.automation.pools import POOLS
from assets.runner.run import dagster_instance
from mmret.errors import UserError
from mmret.lake import Lake
from tests.assets.postgres import running
from tests.assets.server import UI, free_port, until
from tests.conftest import CHECKOUT

LOOK = """
import dagster as dg
from assets.automation.pools import POOLS, set_pools
instance = dg.DagsterInstance.get()
assert set_pools(instance) == POOLS and set_pools(instance) == {}, "set once, and left alone after"
instance.event_log_storage.set_concurrency_slots("gpu", 3)
set_pools(instance)
assert {p.name: p.limit for p in instance.event_log_storage.get_pool_limits()} == POOLS | {"gpu": 3}
with dg.DagsterInstance.get() as again:
    assert dg.materialize([dg.asset(name="a")(lambda: None)], instance=again).success
    assert again.get_latest_materialization_event(dg.AssetKey("a"))
queue = instance.get_concurrency_config().run_queue_config
print(type(instance.run_storage).__name__, queue.max_concurrent_runs, instance.run_monitoring_enabled, instance.run_retries_enabled,
      instance.get_tick_retention_settings(dg._core.definitions.run_request.InstigatorType.SCHEDULE))
"""


def look(home, env) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOOK],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "DAGSTER_HOME": str(home), **env},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def _answers(env: dict[str, str]) -> bool:
    import psycopg2

    try:
        psycopg2.connect(host=env["DAGSTER_PG_HOST"], port=env["DAGSTER_PG_PORT"], user="mmret", dbname="postgres").close()
    except psycopg2.OperationalError:
        return False
    return True


def test_embedded_home(tmp_path):
    shutil.copy(CHECKOUT / "dagster_home" / "dagster.yaml", tmp_path / "dagster.yaml")
    assert look(tmp_path, {}).startswith("SqliteRunStorage 4 True True")
    assert POOLS.keys() == {"gpu", "vlm", "lake"}


def test_production_home_on_postgres(tmp_path):
    pytest.importorskip("dagster_postgres", reason="the extra `postgres` is not installed")
    shutil.copy(CHECKOUT / "dagster_home" / "dagster.prod.yaml", tmp_path / "dagster.yaml")
    with running() as env:
        until("Postgres answers", lambda: _answers(env), 60)
        found = look(tmp_path, env)
        assert found.startswith("PostgresRunStorage 16 True True") and "90" in found


def test_on_a_cluster_pools_leave_it_to_ray_and_are_there_before_two_runs_meet_them(tmp_path, monkeypatch):
    pytest.importorskip("dagster_ray", reason="the extra `cluster` is not installed")
    from assets.cluster.launching import cluster_instance
    from mmret.lake import Lake

    with running() as env:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("DAGSTER_HOME", raising=False)
        until("Postgres answers", lambda: _answers(env), 60)
        with cluster_instance(Lake(tmp_path / "lake")) as instance:
            limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
            assert limits.keys() == POOLS.keys() and min(limits.values()) == 256
            assert type(instance.run_storage).__name__ == "PostgresRunStorage"
        assert os.environ["DAGSTER_HOME"] == str(tmp_path / "lake" / ".dagster-cluster")


def test_a_history_that_other_machines_do_not_reach_is_refused_for_a_cluster(tmp_path, monkeypatch):
    pytest.importorskip("dagster_ray", reason="the extra `cluster` is not installed")
    from assets.cluster.launching import cluster_instance
    from mmret.lake import Lake

    monkeypatch.delenv("DAGSTER_PG_HOST", raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with pytest.raises(UserError, match="a cluster keeps its history in Postgres.*DAGSTER_PG_HOST"):
        cluster_instance(Lake(tmp_path / "lake"))
    shutil.copy(CHECKOUT / "dagster_home" / "dagster.yaml", tmp_path / "dagster.yaml")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with pytest.raises(UserError, match="in SQLite, which other machines do not reach"):
        cluster_instance(Lake(tmp_path / "lake"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("home", ["dagster.yaml", "dagster.prod.yaml"])
def test_the_ui_serves_this_graph_from_both_homes_and_stops_on_one_ctrl_c(tmp_path, home):
    shutil.copy(CHECKOUT / "dagster_home" / home, tmp_path / "dagster.yaml")
    with running() if "prod" in home else nullcontext({}) as env:
        port = free_port()
        command = [sys.executable, "-W", "ignore", "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1"]
        ui = UI(
            [*command, "-p", str(port)],
            port,
            tmp_path / "log",
            {**env, "DAGSTER_HOME": str(tmp_path), "MMRET_LAKE": str(tmp_path / "lake")},
        )
        try:
            ui.wait_until_up()
            health = until(
                "all daemons beat",
                lambda: (
                    ui.ask("{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }")["instance"][
                        "daemonHealth"
                    ]["allDaemonStatuses"]
                    if ui.process.poll() is None
                    else []
                ),
                60,
            )
            assert {"SCHEDULER", "SENSOR", "BACKFILL", "QUEUED_RUN_COORDINATOR"} <= {d["daemonType"] for d in health}
            assert ui.ctrl_c() in (0, 2, 130, -2)
            until("every process is gone", lambda: not ui.left_over(), 20)
        finally:
            ui.kill()


def test_a_home_that_does_not_exist_yet_is_made_with_the_settings_of_the_embedded_one(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "new" / "home"))
    with dagster_instance(Lake(tmp_path / "lake")):
        assert (tmp_path / "new" / "home" / "dagster.yaml").read_text() == (CHECKOUT / "dagster_home" / "dagster.yaml").read_text()
    assert not (tmp_path / "lake").exists()
