"""`make fuzz-serve`: requests that mean harm, over raw sockets, against `mmret serve` in a process of its own.

    python -m tests.serve.hostile --lake LAKE --requests 10000

Prints the statuses by kind, the time, and the server's memory before and after. Ends with exit code 1 where the server ended,
made a mistake of its own (500), told one of its paths, wrote a file, or answered an ordinary search otherwise than before.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.conftest import CHECKOUT
from tests.serve.requests_that_harm import KINDS, RARE, Attack

ALLOWED = {200, 307, 400, 401, 403, 404, 405, 408, 413, 415, 421, 422, 426, 429, 431, 501, 503, 505}
"""Statuses that a hostile request may get; never 500."""
_STATUS = re.compile(rb"^HTTP/1\.[01] (\d{3}) ")
_GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
_PATIENCE = 0.5  # seconds, for what may never be answered
_CANARY = b"GET /search?text=a%20red%20circle&k=5 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@dataclass
class Report:
    """What came of a number of attacks. ``faults``: what must not happen, with the attack that did it."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    megabytes: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of the server: before, after, at most."""


class Server:
    """`mmret serve` with a working folder, a home and a folder for temporary files of its own, all of them empty."""

    def __init__(self, lake: Path, folder: Path, *flags: str):
        self.lake, self.folder = lake, folder
        for name in ("cwd", "home", "tmp"):
            (folder / name).mkdir(parents=True)
        own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(CHECKOUT), "HF_HUB_OFFLINE": "1"}
        self._log = (folder / "log").open("w")
        line = [sys.executable, "-m", "mmret", "serve", "--lake", str(lake), "--port", "0", *flags]
        self.process = subprocess.Popen(
            line, cwd=folder / "cwd", env={**os.environ, **own}, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self.address = self.process.stdout.readline().split(": ")[1].split()[0]
        self.port = int(self.address.rsplit(":", 1)[1])
        self.most = 0.0

    def send(self, data: bytes, seconds: float = 30, pieces: int = 1, pause: float = 0.0, half: bool = False) -> bytes:
        """The answer to ``data``, sent in ``pieces``; ``half``: where none comes soon, the server is told that this was all."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            size = max(1, -(-len(data) // pieces))
            parts: list[bytes] = []
            try:
                for start in range(0, len(data), size):
                    connection.sendall(data[start : start + size])
                    time.sleep(pause)
                if half and not select.select([connection], [], [], _PATIENCE)[0]:
                    connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    parts.append(part)
                    if len(parts) > 1000 or _is_whole(b"".join(parts)):
                        break
            except TimeoutError:
                return b"".join(parts) or b"(silent)"
            except ConnectionError:
                pass
            return b"".join(parts).removeprefix(_GO_ON)

    def memory(self) -> float:
        """Megabytes that the process holds now."""
        now = psutil.Process(self.process.pid).memory_info().rss / 2**20
        self.most = max(self.most, now)
        return now

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file that the server could have written: of the lake and of its folders, with size and time of the last change."""
        places = [self.lake, *(self.folder / name for name in ("cwd", "home", "tmp"))]
        found = [path for place in places for path in place.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self._log.close()


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.removeprefix(_GO_ON).partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return bool(end and length and len(body) >= int(length[1]))


@contextmanager
def started(lake: Path, folder: Path, *flags: str) -> Iterator[Server]:
    """A server that answers."""
    server = Server(lake, folder, *flags)
    try:
        end = time.monotonic() + 120
        while b" 200 " not in server.send(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")[:20]:
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.2)
        yield server
    finally:
        server.stop()


def attack(server: Server, requests: int, seed: int = 0, only: str | None = None, threads: int = 4) -> Report:
    """Send ``requests`` attacks of all kinds in turn, or of kind ``only``; the same seed gives the same."""
    report, secrets = Report(), _secrets(server)
    for _ in range(3):
        expected = _hits(server)
    names = sorted(KINDS)
    before, files, began = server.memory(), server.files(), time.monotonic()

    def one(n: int) -> tuple[str, Attack, bytes]:
        kind = only or ("large" if n % 100 == 99 else names[n % len(names)])
        made = {**KINDS, **RARE}[kind](random.Random(f"{seed} {n}"))
        return kind, made, server.send(made.data, made.seconds, made.pieces, made.pause, made.half)

    with ThreadPoolExecutor(threads) as pool:
        for n, (kind, made, answer) in enumerate(pool.map(one, range(requests))):
            report.statuses[kind, _said(answer)] += 1
            report.faults += [f"{kind} {n}: {fault}: {made.data[:300]!r}" for fault in _faults(made, answer, secrets)]
            if n % 100 == 0:
                server.memory()
                if server.process.poll() is not None:
                    report.faults.append(f"the server ended with {server.process.returncode} about request {n}")
                    break
    report.seconds, report.megabytes = time.monotonic() - began, (before, server.memory(), server.most)
    if _hits(server) != expected:
        report.faults.append("an ordinary search has another answer than before")
    if changed := {path for path, _ in files.items() ^ server.files().items()}:
        report.faults.append(f"written: {sorted(changed)[:5]}")
    return report


def _hits(server: Server) -> object:
    return json.loads(server.send(_CANARY).partition(b"\r\n\r\n")[2])


def _secrets(server: Server) -> list[bytes]:
    places = [server.lake, server.lake.parent, server.folder, CHECKOUT, Path(sys.prefix)]
    return [
        *(str(place).encode() for place in places if len(place.parts) > 2),
        b"Traceback",
        b"site-packages",
        b"root:x:0",
        b'"root"',
    ]


def _said(answer: bytes) -> str:
    found = _STATUS.match(answer)
    return found[1].decode() if found else "closed" if not answer else "silent" if answer == b"(silent)" else "no HTTP"


def _faults(made: Attack, answer: bytes, secrets: list[bytes]) -> Iterator[str]:
    said = _said(answer)
    if said.isdigit() and int(said) not in ALLOWED:
        yield f"status {said}: {answer[-200:]!r}"
    if said == "no HTTP" or (said == "silent" and not made.may_be_silent):
        yield f"{said}: {answer[:100]!r}"
    for secret in secrets:
        if secret in answer and secret not in made.data:
            yield f"tells {secret!r}"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lake", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[*KINDS, *RARE])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, started(asked.lake.resolve(), Path(folder) / "server") as server:
        report = attack(server, asked.requests, asked.seed, asked.only)
        log = (Path(folder) / "server" / "log").read_text()
    for kind in sorted({kind for kind, _ in report.statuses}):
        print(f"{kind:12}", _listed({status: n for (name, status), n in report.statuses.items() if name == kind}))
    in_all: Counter[str] = Counter()
    for (_, status), n in report.statuses.items():
        in_all[status] += n
    before, after, most = report.megabytes
    print("in all      ", _listed(in_all))
    print(f"{report.seconds:.0f} s; memory before {before:.0f} MB, after {after:.0f} MB, at most {most:.0f} MB")
    print(f"{len(report.faults)} faults; {len(log.splitlines())} lines in the server's log")
    print(*report.faults[:40], log[-3000:], sep="\n")
    return 1 if report.faults else 0


def _listed(counts: dict[str, int]) -> str:
    return "  ".join(f"{status} {count}" for status, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
