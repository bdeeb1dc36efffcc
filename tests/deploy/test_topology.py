"""The processes of deploy/compose.yaml without Docker: its commands, health checks and environment, word for word but for hosts,
ports and folders. A backfill of four shards goes through them while the code server is first restarted, then killed.

Webserver and daemon run without this project, as their image has it. Five to ten minutes on two cores.
"""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from mmret.lake import Lake
from mmret.settings import parse_override
from tests.assets.postgres import running
from tests.assets.server import UI, free_port, until
from tests.conftest import CHECKOUT
from tests.deploy.files import compose, copied, image_environment
from tests.endurance.whole_runs import digests
from tests.small_runs import TINY

SOURCE, SHARDS = "shapes:160?seed=3", [f"shard-{i:05d}" for i in range(4)]
SETTINGS = [*TINY, "train=[]"]
PATIENCE = int(os.environ.get("MMRET_PATIENCE", 600))  # seconds a step may take: a crowded machine is no fault of the files
NOT_THERE = """
import sys

class NotInThisImage:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("assets", "mmret", "resources", "torch", "lancedb"):
            raise ModuleNotFoundError(f"{name} is not in the image of webserver and daemon", name=name)

sys.meta_path.insert(0, NotInThisImage())
"""


class Topology:
    """The services of the Compose file as processes of this machine, each in a session of its own."""

    def __init__(self, folder: Path, database: dict[str, str]):
        self.ports = {"code": free_port(), "webserver": free_port()}
        self.home, self.lake, self.folder, self.running = folder / "dagster", folder / "lake", folder, {}
        self.services = compose(given={"DAGSTER_PG_PASSWORD": database["DAGSTER_PG_PASSWORD"]})["services"]
        self.database = database
        for path in (self.home, self.lake, folder / "without"):
            path.mkdir()
        (folder / "without" / "sitecustomize.py").write_text(NOT_THERE)
        for image, source in copied().items():
            if image.startswith("/dagster/"):
                text = (CHECKOUT / source).read_text()
                text = re.sub(r"(start_timeout_seconds): \d+", rf"\1: {PATIENCE}", text)
                (self.home / Path(image).name).write_text(self.here(text) if "grpc_server" in text else text)

    def here(self, text: str) -> str:
        """A command or a file of the container as it has to be said on this machine."""
        said = {
            r"\bcode:4000\b": f"127.0.0.1:{self.ports['code']}",
            r"\bhost: code\b": "host: 127.0.0.1",
            r"\b0\.0\.0\.0\b": "127.0.0.1",
            r"\b4000\b": str(self.ports["code"]),
            r"\b3000\b": str(self.ports["webserver"]),
            r"(?<=\s)/dagster(?=/)|^/dagster\b": str(self.home),
            r"^/(lake|models)$": rf"{self.folder}/\1",
        }
        for pattern, words in said.items():
            text = re.sub(pattern, words, text)
        return text

    def environment(self, name: str) -> dict[str, str]:
        service = self.services[name]
        image = service["build"]["target"]
        told = service["environment"] | {k: v for k, v in self.database.items() if k in service["environment"]}
        assert self.database.keys() <= told.keys(), f"{name} cannot reach the database"
        values = {k: self.here(v) for k, v in (image_environment(image) | told).items()}
        values["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        values["PYTHONPATH"] = str(self.folder / "without") if image == "dagster" else ""
        values["DAGSTER_GRPC_TIMEOUT_SECONDS"] = str(max(int(values["DAGSTER_GRPC_TIMEOUT_SECONDS"]), PATIENCE))
        values["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "2")
        return values

    def run(self, name: str, command: list[str], seconds: float = PATIENCE) -> subprocess.CompletedProcess:
        """A command in the container of a service, as `docker compose exec` would run it."""
        line = [self.here(word) for word in command]
        environment = {**os.environ, **self.environment(name)}
        return subprocess.run(line, env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=seconds)

    def start(self, name: str) -> UI:
        port = self.ports.get(name, 0)
        log = self.folder / f"{name}-{len(list(self.folder.glob(f'{name}-*.log')))}.log"
        self.running[name] = UI([self.here(word) for word in self.services[name]["command"]], port, log, self.environment(name))
        return self.running[name]

    def start_and_wait(self, name: str) -> None:
        """Until it listens, which costs little to ask; then its health check, which starts a Python, has to agree."""
        started = self.start(name)
        until(f"{name} listens; its log: {started.log}", lambda: self.listens(name), PATIENCE, 2)
        health = self.services[name]["healthcheck"]
        for _ in range(health["retries"]):
            done = self.run(name, health["test"][1:])
            if done.returncode == 0:
                return
        raise AssertionError(f"{name} is not healthy: {done.stdout}{done.stderr}")

    def listens(self, name: str) -> bool:
        process = self.running[name]
        assert process.process.poll() is None, f"{name} ended:\n{process.log.read_text()[-3000:]}"
        if name == "daemon":
            try:
                found = self.running["webserver"].ask("{ instance { daemonHealth { allDaemonStatuses { required healthy } } } }")
            except httpx.TimeoutException:
                return False
            return all(d["healthy"] for d in found["instance"]["daemonHealth"]["allDaemonStatuses"] if d["required"])
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.ports[name])) == 0

    def stop(self, name: str, grace: float | None = None) -> None:
        """As Docker does: SIGTERM to the main process, after the time of grace SIGKILL; what it started ends with it."""
        if grace is None:
            grace = float(self.services[name].get("stop_grace_period", "10s").removesuffix("s"))
        service = self.running.pop(name)
        service.note_processes()
        if grace:
            service.process.terminate()
        try:
            service.process.wait(grace or 0.01)
        except subprocess.TimeoutExpired:
            service.note_processes()
        service.kill()
        service.process.wait(10)
        until(f"no process of {name} is left", lambda: not service.left_over(), 10)

    def runs(self) -> dict[str, tuple[str, str]]:
        """Run to (status, the run it is another try of)."""
        found = self.running["webserver"].ask("{ runsOrError { ... on Runs { results { runId status parentRunId } } } }")
        return {run["runId"]: (run["status"], run["parentRunId"] or "") for run in found["runsOrError"]["results"]}

    def a_run_is_under_way(self) -> bool:
        try:
            return any(status == "STARTED" for status, _ in self.runs().values())
        except httpx.TimeoutException:
            return False


@contextmanager
def topology(folder: Path) -> Iterator[Topology]:
    with running() as database:
        started = Topology(folder, database)
        try:
            done = started.run("setup", started.services["setup"]["command"])
            assert done.returncode == 0, done.stderr[-3000:]
            for name in ("code", "webserver", "daemon"):
                started.start_and_wait(name)
            yield started
        finally:
            for service in started.running.values():
                service.kill()
                service.process.wait(10)


@pytest.mark.slow
@pytest.mark.timeout(6 * PATIENCE)
def test_a_backfill_outlives_its_code_server_and_makes_the_lake_that_a_run_makes(tmp_path):
    pytest.importorskip("dagster_postgres", reason="the extra `postgres` is not installed")
    with topology(tmp_path) as services:
        ui, store = services.running["webserver"], Lake(services.lake)
        ui.wait_until_up(PATIENCE)
        config = {"sources": [SOURCE], "shard_size": 40, "settings": dict(map(parse_override, SETTINGS))}
        assert ui.finish(ui.launch_job("seal_corpus", {"ops": {"corpus_manifest": {"config": config}}}), PATIENCE) == "SUCCESS"
        assert store.shards() == SHARDS

        with (tmp_path / "backfill.log").open("w") as log:
            line = [sys.executable, "-W", "ignore", "-m", "mmret", "backfill", "--lake", store.root, "--url", ui.url, "--wait"]
            backfill = subprocess.Popen(line, cwd=CHECKOUT, stdout=log, stderr=subprocess.STDOUT)
            try:
                until("the first shards have pictures", lambda: store.partitions("images"), PATIENCE)
                until("a run is under way", services.a_run_is_under_way, PATIENCE)
                services.stop("code")
                services.start_and_wait("code")
                until("the shards have vectors", lambda: store.partitions("clip_image"), PATIENCE)
                until("a run is under way", services.a_run_is_under_way, PATIENCE)
                services.stop("code", grace=0)
                services.start_and_wait("code")
                assert backfill.wait(2 * PATIENCE) == 0, (tmp_path / "backfill.log").read_text()
            finally:
                backfill.kill()
                backfill.wait()

        runs = services.runs()
        cut_short = {run for run, (status, _) in runs.items() if status == "FAILURE"}
        assert cut_short and cut_short <= {first for _, first in runs.values()}, f"a run that died was not tried again: {runs}"
        said = "".join(path.read_text() for path in tmp_path.glob("code-*.log"))
        assert set(re.findall(r"run ([\w-]+) was cut short by the end of its code server", said)) & cut_short
        assert all(store.partitions(table) == SHARDS for table in ("images", "pairs", "triplets"))
        for name in ("daemon", "webserver", "code"):
            services.stop(name)

    plain = tmp_path / "plain"
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    line = [sys.executable, "-W", "ignore", "-m", "mmret", "run", "--lake", plain, "--images", SOURCE, "--shard-size", "40", *sets]
    subprocess.run(line, cwd=CHECKOUT, check=True, capture_output=True, timeout=PATIENCE)
    assert digests(store.root) == digests(plain)
    left = [p.cmdline() for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert not left, left
