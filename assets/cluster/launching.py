"""Launches of `mmret run` on a Ray cluster: a Dagster run each, followed by a process here, its steps as Ray jobs on the nodes.

Costs a process (some 60 MB) and a question to the database each second per launch; connecting costs a second.
"""

import logging
import multiprocessing
import os
import shutil
import signal
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import dagster as dg

from assets.automation.pools import set_pools
from assets.cluster.nodes import Nodes
from assets.dagster_internals.event_log import open_instance
from assets.dagster_internals.reconstruction import assets_job, execute_recorded, record_run
from assets.display.live import TAG
from assets.runner.launched import Launched
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.ray_cluster import ClusterUnreachable, jobs_at

MOST_AT_ONCE = 64
_GIVE_UP_S = 15.0
_HOME = "dagster.ray.yaml"
_GRAPH = "assets.cluster.job", "defs"
_POSTGRES = tuple(f"DAGSTER_PG_{part}" for part in ("HOST", "PORT", "USER", "PASSWORD", "DB"))


def cluster_instance(lake: Lake) -> dg.DagsterInstance:
    """The Dagster instance that every node reaches: ``DAGSTER_HOME`` where it is set, else one of the Postgres that
    ``DAGSTER_PG_HOST`` and its like name. Raises UserError where there is none."""
    if not os.environ.get("DAGSTER_HOME"):
        if unset := [name for name in _POSTGRES if not os.environ.get(name)]:
            raise ClusterUnreachable(
                f"a cluster keeps its history in Postgres, which every node reaches: set {', '.join(unset)} here and on the nodes, "
                "or DAGSTER_HOME to a folder whose dagster.yaml is dagster_home/dagster.ray.yaml"
            )
        home = lake.scratch / ".dagster-cluster"
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).parents[2] / "dagster_home" / _HOME, home / "dagster.yaml")
        os.environ["DAGSTER_HOME"] = str(home)
    home = os.environ["DAGSTER_HOME"]
    try:
        instance = open_instance(home)
        local = "Sqlite" in type(instance.event_log_storage).__name__
    except Exception as error:
        said = (str(error).splitlines() or ["no reason given"])[0]
        raise ClusterUnreachable(f"the history of {home} does not open: {said}") from None
    if local:
        raise ClusterUnreachable(
            f"{home}/dagster.yaml keeps the history in SQLite, which other machines do not reach: make it a copy of "
            "dagster_home/dagster.ray.yaml"
        )
    set_pools(instance)
    return instance


def _execute(run_id: str, home: str, answer: Connection) -> None:
    """In a process of its own: execute a recorded run to its end and send what came of it. Dagster sets up the logging of a process
    for each run, so that two at once in threads block each other for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: whoever launched this hears it too, and tells
    warnings.simplefilter("ignore")
    logging.getLogger("dagster").setLevel(logging.ERROR)
    with open_instance(home) as instance:
        answer.send(Launched.of(execute_recorded(instance, assets_job(*_GRAPH), run_id)))


class OnRay:
    """Executes launches on the cluster at ``address`` (None: RAY_ADDRESS), up to ``at_once`` side by side, in processes of their
    own that are forked from one that has imported the graph. Close it at the end."""

    def __init__(self, instance: dg.DagsterInstance, address: str | None):
        self._instance, self._address, self._job = instance, address, assets_job(*_GRAPH)
        self._client = jobs_at(address)
        # one more than can run, so that a node that gets free always has work; more would only wait, and Ray gives up what waits
        self.at_once = max(2, min(MOST_AT_ONCE, int(Nodes(self._client).cores()) + 1))
        self.address = self._client.get_address()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["assets.cluster.job", "assets.cluster.launching", "pyarrow.parquet"])
        self._following = ThreadPoolExecutor(self.at_once, thread_name_prefix="launch")
        self._processes: set[multiprocessing.process.BaseProcess] = set()

    def submit(self, assets: Iterable[str], partition: str | None, tags: dict[str, str], lake: str) -> Future[Launched]:
        """Begin a Dagster run of ``assets`` of a partition of the lake called ``lake``."""
        config = {
            "execution": {"config": {"ray": {"address": self._address} if self._address else {}}},
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        }
        of = {"dagster/partition": partition} if partition else {}
        run_id = record_run(self._instance, self._job, assets, config, {**tags, **of, TAG: lake})
        return self._following.submit(self._follow, run_id)

    def _follow(self, run_id: str) -> Launched:
        mine, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_execute, args=(run_id, os.environ["DAGSTER_HOME"], theirs), daemon=True)
        process.start()
        theirs.close()
        self._processes.add(process)
        try:
            return mine.recv()
        except EOFError:
            process.join()
            raise UserError(
                f"the process that followed run {run_id[:8]} ended by {process.exitcode}: is the memory of this machine full?"
            ) from None
        finally:
            process.join()
            self._processes.discard(process)

    def stop(self) -> None:
        """Every launch gives up its steps, and is ended where that takes too long."""
        living = list(self._processes)
        for process in living:
            process.terminate()
        end = time.monotonic() + _GIVE_UP_S
        for process in living:
            process.join(max(0.0, end - time.monotonic()))
            process.kill()

    def close(self) -> None:
        self._following.shutdown(wait=True, cancel_futures=True)

    def stop_jobs_of(self, runs: Sequence[str]) -> int:
        """End the jobs that steps of ``runs`` still have on the cluster, as those of a `mmret run` that was killed; how many."""
        stopped = 0
        for job in self._client.list_jobs() if runs else ():
            ended = job.status.is_terminal()
            if not ended and (job.metadata or {}).get("dagster/run-id") in runs and job.submission_id:
                stopped += bool(self._client.stop_job(job.submission_id))
        return stopped
