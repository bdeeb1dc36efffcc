"""`deploy/abandoned_runs.py`: a code server that starts ends the runs that died with the one before it, and no others."""

import json
import runpy
import socket
import subprocess
import sys
import time
from contextlib import nullcontext

import dagster as dg
import pytest
from dagster._core.storage.tags import GRPC_INFO_TAG, RUN_FAILURE_REASON_TAG

from tests.deploy.files import DEPLOY

SCRIPT = runpy.run_path(str(DEPLOY / "abandoned_runs.py"))
OURS = {GRPC_INFO_TAG: json.dumps({"host": "code", "port": 4000})}
OTHERS = {GRPC_INFO_TAG: json.dumps({"host": "another", "port": 4000})}


@dg.job
def quiet() -> None:
    return


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as found:
        yield found


def run(instance: dg.DagsterInstance, status: str, tags: dict[str, str]) -> str:
    return instance.create_run_for_job(quiet, status=dg.DagsterRunStatus(status), tags=tags).run_id


def test_the_tag_is_the_one_that_dagster_writes():
    assert SCRIPT["SERVER_TAG"] == GRPC_INFO_TAG


def test_what_died_with_the_server_is_failed_and_may_be_tried_again(instance):
    started, starting, canceling = (run(instance, status, OURS) for status in ("STARTED", "STARTING", "CANCELING"))
    runs = SCRIPT["abandoned_runs"](instance, "code", 4000)
    assert set(runs) == {started, starting, canceling} == set(SCRIPT["end_runs"](instance, [*runs, "gone"]))
    found = [instance.get_run_by_id(run_id).status.value for run_id in (started, starting, canceling)]
    assert found == ["FAILURE", "FAILURE", "CANCELED"]
    (event,) = instance.all_logs(started, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert event.dagster_event.message == "its code server was stopped or killed, and the run with it"
    reason = instance.get_run_by_id(started).tags.get(RUN_FAILURE_REASON_TAG)
    assert reason != "STEP_FAILURE", "dagster.prod.yaml has no run tried again whose step failed"
    assert SCRIPT["abandoned_runs"](instance, "code", 4000) == [] == SCRIPT["end_runs"](instance, runs)


def test_what_has_not_begun_is_over_or_is_another_s_is_left_alone(instance):
    left = {
        run(instance, status, tags): status
        for status, tags in [
            ("NOT_STARTED", OURS),
            ("SUCCESS", OURS),
            ("FAILURE", OURS),
            ("STARTED", OTHERS),
            ("STARTED", {}),  # `mmret run` executes its runs itself
        ]
    }
    assert SCRIPT["abandoned_runs"](instance, "code", 4000) == []
    assert {run_id: instance.get_run_by_id(run_id).status.value for run_id in left} == left


def command(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["abandoned_runs.py", *arguments])
    runpy.run_path(str(DEPLOY / "abandoned_runs.py"), run_name="__main__")


def test_runs_are_found_before_the_server_starts_and_ended_once_it_answers(instance, monkeypatch, capsys):
    monkeypatch.setattr(dg.DagsterInstance, "get", lambda: nullcontext(instance))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        ours = {GRPC_INFO_TAG: json.dumps({"host": "127.0.0.1", "port": port})}
        started, address, left_to = run(instance, "STARTED", ours), f"127.0.0.1:{port}", []
        monkeypatch.setattr(subprocess, "Popen", left_to.append)
        command(monkeypatch, address, "--settle", "0")
        ((_, _, *arguments),) = left_to
        assert arguments == [address, started, "--settle", "0.0"]
        assert instance.get_run_by_id(started).status.value == "STARTED", "nothing is ended while nobody could try it again"
        later = run(instance, "STARTED", ours)
        waiting = []
        monkeypatch.setattr(time, "sleep", lambda seconds: waiting.append(seconds) or len(waiting) != 2 or server.listen())
        command(monkeypatch, *arguments)
    assert waiting == [1, 1, 0]
    assert capsys.readouterr().err == f"run {started} was cut short by the end of its code server\n"
    assert instance.get_run_by_id(later).status.value == "STARTED", "a run of the new server goes on"
    command(monkeypatch, "nobody:1")
    assert len(left_to) == 1
