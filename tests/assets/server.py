"""`make ui` in a process of its own, asked over GraphQL as a browser asks it, and stopped by one Ctrl-C."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.conftest import CHECKOUT

LOCATION = {"repositoryName": "__repository__", "repositoryLocationName": "mmret"}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def until(what: str, true: Callable[[], Any], seconds: float, every: float = 1.0) -> Any:
    """The first true value; fails with ``what`` after ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := true():
            return value
        time.sleep(every)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


class UI:
    """``command`` is started in a session of its own, with SIGINT as a terminal would leave it."""

    def __init__(self, command: list[str], port: int, log: Path, env: dict[str, str] | None = None):
        self.url, self.log = f"http://127.0.0.1:{port}", log
        # make and pytest hand their flags down by the environment; a user's shell has none of them
        clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "DAGSTER_HOME", "MMRET_LAKE")}
        self.process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            env=clean | (env or {}),
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.seen: dict[int, float] = {}

    def wait_until_up(self, seconds: float = 120) -> None:
        until(f"the UI answers; its log: {self.log}", self._answers, seconds)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            found = self.ask(
                "{ workspaceOrError { ... on Workspace { locationEntries { loadStatus locationOrLoadError { __typename"
                " ... on PythonError { message } } } } } }"
            )
        except httpx.HTTPError:
            return False
        entries = found["workspaceOrError"].get("locationEntries", [])
        for entry in entries:
            assert (entry["locationOrLoadError"] or {}).get("__typename") != "PythonError", entry
        return bool(entries) and all(e["loadStatus"] == "LOADED" for e in entries)

    def ask(self, query: str, **variables: Any) -> Any:
        answer = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60).json()
        assert "errors" not in answer, answer["errors"]
        self.note_processes()
        return answer["data"]

    def note_processes(self) -> None:
        """Remember every process below, to ask later what became of it."""
        try:
            below = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        for child in below:
            try:
                self.seen[child.pid] = child.create_time()
            except psutil.NoSuchProcess:
                continue

    def left_over(self) -> list[str]:
        found = []
        for pid, born in self.seen.items():
            try:
                process = psutil.Process(pid)
                if process.create_time() == born and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except psutil.NoSuchProcess:
                continue
        return found

    def ctrl_c(self, seconds: float = 60) -> int:
        """One Ctrl-C, as a terminal sends it: SIGINT to the whole foreground group. Returns the exit code."""
        self.note_processes()
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """For a test that failed: nothing stays behind."""
        self.note_processes()
        for pid in (self.process.pid, *self.seen):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    # -- what a browser asks ------------------------------------------------------------------------------------------

    def launch_job(self, job: str, config: dict, tags: list[dict] | None = None, assets: list[str] | None = None) -> str:
        selector = LOCATION | {"pipelineName": job} | ({"assetSelection": [{"path": [a]} for a in assets]} if assets else {})
        found = self.ask(
            """mutation ($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename
            ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
            ... on RunConfigValidationInvalid { errors { message } } } }""",
            p={"selector": selector, "runConfigData": config, "mode": "default", "executionMetadata": {"tags": tags or []}},
        )["launchRun"]
        assert found["__typename"] == "LaunchRunSuccess", found
        return found["run"]["runId"]

    def run_status(self, run_id: str) -> str:
        return self.ask("query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id)["runOrError"]["status"]

    def finish(self, run_id: str, seconds: float = 120) -> str:
        ended = ("SUCCESS", "FAILURE", "CANCELED")
        return until(f"run {run_id} ends", lambda: (s := self.run_status(run_id)) in ended and s, seconds)

    def backfill(self, assets: list[str], partitions: list[str]) -> str:
        found = self.ask(
            """mutation ($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename
            ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
            p={"assetSelection": [{"path": [a]} for a in assets], "partitionNames": partitions, "title": "as from the browser"},
        )["launchPartitionBackfill"]
        assert found["__typename"] == "LaunchBackfillSuccess", found
        return found["backfillId"]

    def backfill_status(self, backfill_id: str) -> str:
        query = "query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
        return self.ask(query, id=backfill_id)["partitionBackfillOrError"]["status"]

    def start_sensor(self, name: str) -> None:
        found = self.ask(
            "mutation ($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }", s=LOCATION | {"sensorName": name}
        )["startSensor"]
        assert found["__typename"] == "Sensor", found

    def stop_sensor(self, name: str) -> None:
        query = "query ($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor { sensorState { id } } } }"
        found = self.ask(query, s=LOCATION | {"sensorName": name})["sensorOrError"]
        self.ask("mutation ($id: String!) { stopSensor(id: $id) { __typename } }", id=found["sensorState"]["id"])

    def tick_schedule(self, name: str) -> list[dict]:
        """What the UI's *Test schedule* shows: the run requests of a tick now."""
        found = self.ask(
            """mutation ($s: ScheduleSelector!, $t: Float) { scheduleDryRun(selectorData: $s, timestamp: $t) {
            __typename ... on DryRunInstigationTick { evaluationResult { skipReason error { message }
            runRequests { tags { key value } assetSelection { path } } } } ... on PythonError { message } } }""",
            s=LOCATION | {"scheduleName": name},
            t=time.time(),
        )["scheduleDryRun"]
        assert found["__typename"] == "DryRunInstigationTick", found
        result = found["evaluationResult"]
        assert not result["error"], result
        return result["runRequests"] or []
