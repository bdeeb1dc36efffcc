"""Before a code server starts, the runs of the one before it are marked as failed, so that the daemon runs them again.

A run is a process beside its code server; where the container is stopped or killed it dies with it, and Dagster would show it as
started for ever, because nobody else watches it. Runs in the queue are left alone, and so are those of `mmret run`, which no server
launched. Costs one query. Usage: ``python deploy/abandoned_runs.py HOST:PORT``, as workspace.yaml names the server.
"""

import json
import sys

import dagster as dg

SERVER_TAG = ".dagster/grpc_info"
"""Tag in which Dagster notes the host and the port of the server that launched a run."""


def end_abandoned_runs(instance: dg.DagsterInstance, host: str, port: int) -> list[str]:
    """Ids of the runs that this server had launched and that were unfinished: now failed, or canceled where that was asked for."""
    status, ended = dg.DagsterRunStatus, []
    for run in instance.get_runs(dg.RunsFilter(statuses=[status.STARTING, status.STARTED, status.CANCELING])):
        server = json.loads(run.tags.get(SERVER_TAG, "{}"))
        if (server.get("host"), server.get("port")) != (host, port):
            continue
        if run.status == status.CANCELING:
            instance.report_run_canceled(run, "its code server was stopped")
        else:
            instance.report_run_failed(run, "its code server was stopped or killed, and the run with it")
        ended.append(run.run_id)
    return ended


if __name__ == "__main__":
    _host, _, _port = sys.argv[1].rpartition(":")
    with dg.DagsterInstance.get() as _instance:
        for _run in end_abandoned_runs(_instance, _host, int(_port)):
            print(f"run {_run} was cut short by the end of its code server", file=sys.stderr)
