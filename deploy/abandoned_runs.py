"""When a code server starts, the runs of the one before it are marked as failed, so that the daemon runs them again.

A run is a process beside its code server; where the container is stopped or killed it dies with it, and Dagster would show it as
started for ever, because nobody else watches it. Runs in the queue are left alone, and so are those of `mmret run`, which no server
launched. Which runs these are is told before the server starts; they are failed once it answers, because the daemon tries a failed
run again at once, and gives it up where no server is there. Costs one query, and a process that waits for the server.

Usage: ``python deploy/abandoned_runs.py HOST:PORT``, as workspace.yaml names the server, before the server is started.
"""

import argparse
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterable

import dagster as dg

SERVER_TAG = ".dagster/grpc_info"
"""Tag in which Dagster notes the host and the port of the server that launched a run."""
SETTLE_SECONDS = 30.0
"""After the server answers: a daemon that has lost it looks for it again within so long."""


def abandoned_runs(instance: dg.DagsterInstance, host: str, port: int) -> list[str]:
    """Ids of the unfinished runs that the server at this address launched."""
    status, found = dg.DagsterRunStatus, []
    for run in instance.get_runs(dg.RunsFilter(statuses=[status.STARTING, status.STARTED, status.CANCELING])):
        server = json.loads(run.tags.get(SERVER_TAG, "{}"))
        if (server.get("host"), server.get("port")) == (host, port):
            found.append(run.run_id)
    return found


def end_runs(instance: dg.DagsterInstance, run_ids: Iterable[str]) -> list[str]:
    """Mark those that are unfinished as failed, or as canceled where that was asked for; returns their ids."""
    ended = []
    for run_id in run_ids:
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            continue
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, "its code server was stopped")
        else:
            instance.report_run_failed(run, "its code server was stopped or killed, and the run with it")
        ended.append(run_id)
    return ended


def wait_for_server(host: str, port: int, settle: float) -> None:
    """Until the server listens, and ``settle`` seconds more."""
    while True:
        with socket.socket() as probe:
            probe.settimeout(5)
            try:
                probe.connect((host, port))
                break
            except OSError:
                time.sleep(1)
    time.sleep(settle)


def main() -> None:
    parser = argparse.ArgumentParser(prog="abandoned_runs.py")
    parser.add_argument("server", help="HOST:PORT")
    parser.add_argument(
        "runs", nargs="*", help="end these once the server answers; none: find them, and leave that to another process"
    )
    parser.add_argument("--settle", type=float, default=SETTLE_SECONDS)
    options = parser.parse_args()
    host, _, port = options.server.rpartition(":")
    with dg.DagsterInstance.get() as instance:
        if not options.runs:
            if found := abandoned_runs(instance, host, int(port)):
                subprocess.Popen([sys.executable, __file__, options.server, *found, "--settle", str(options.settle)])
            return
        wait_for_server(host, int(port), options.settle)
        for run_id in end_runs(instance, options.runs):
            print(f"run {run_id} was cut short by the end of its code server", file=sys.stderr)


if __name__ == "__main__":
    main()
