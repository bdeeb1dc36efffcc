"""A server as a process of its own: started, asked, watched every second, killed; what it used of processor and memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil

from serving.routes import METRICS, READY, Question

STARTED_IN_S = 120.0
_PAUSE_S = 0.02


@dataclass
class Server:
    """``command`` listens on ``port`` of 127.0.0.1. ``started``: seconds of time.monotonic at the last start."""

    command: list[str]
    port: int
    started: float = 0.0
    process: subprocess.Popen | None = None
    log: Path = field(default_factory=lambda: Path(tempfile.mkstemp(prefix="bench-serve-", suffix=".log")[1]))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        self.started = time.monotonic()
        with self.log.open("ab") as said:
            self.process = subprocess.Popen(self.command, stdout=said, stderr=said, start_new_session=True)
        return self

    def ready(self, within_s: float = STARTED_IN_S) -> float:
        """Wait until it says that it is ready; seconds since its start. Raises RuntimeError where it does not get there."""
        while time.monotonic() < self.started + within_s:
            if self.process is None or self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(self.address + READY, timeout=5) as response:
                    if response.status == 200:
                        return time.monotonic() - self.started
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(_PAUSE_S)
        raise RuntimeError(f"the server is not ready after {within_s:.0f} s:\n{self.last_words()}")

    def ask(self, question: Question) -> dict[str, Any]:
        """The answer, as JSON. Raises RuntimeError with what the server said where it refused."""
        path, body = question.request()
        request = urllib.request.Request(self.address + path, body, {"Content-Type": "application/json"} if body else {})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as refused:
            raise RuntimeError(f"{path}: {refused.code} {refused.read().decode(errors='replace')[:500]}") from None

    def metrics(self) -> dict[str, float]:
        """Every sample of its metrics by name and labels; empty where it has none."""
        try:
            with urllib.request.urlopen(self.address + METRICS, timeout=10) as response:
                lines = response.read().decode().splitlines()
        except (urllib.error.URLError, OSError):
            return {}
        samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def kill(self) -> None:
        """kill -9, as the kernel does where memory runs out."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """An interrupt, and after a while a kill."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        self.log.unlink(missing_ok=True)

    def last_words(self) -> str:
        """The end of what it wrote to its terminal."""
        return self.log.read_text(errors="replace")[-1000:] if self.log.exists() else ""

    def processor_s(self) -> float:
        """Seconds of processor that it has used since its start."""
        return sum(sum(p.cpu_times()[:2]) for p in self._processes())

    def memory(self) -> tuple[float, float]:
        """MB resident, and those of them that are its own: mapped files are in the first alone."""
        found = [p.memory_info() for p in self._processes()]
        return sum(f.rss for f in found) / 1e6, sum(f.rss - f.shared for f in found) / 1e6

    def _processes(self) -> list[psutil.Process]:
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class Watch:
    """Memory of ``server`` every second, in a thread, until the end of the block."""

    def __init__(self, server: Server):
        self.server, self.samples = server, []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            try:
                self.samples.append((time.monotonic(), *self.server.memory()))
            except psutil.NoSuchProcess:
                continue

    def figures(self) -> dict[str, float]:
        """MB; ``slope`` in MB a minute over the last three quarters of the samples, by least squares."""
        if len(self.samples) < 4:
            return {}
        at, resident, own = np.array(self.samples).T
        late = slice(len(at) // 4, None)
        slope = np.polyfit((at[late] - at[0]) / 60, resident[late], 1)[0]
        return {"first": resident[0], "last": resident[-1], "most": resident.max(), "own_most": own.max(), "slope": float(slope)}


def free_port() -> int:
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def histograms(before: dict[str, float], after: dict[str, float]) -> list[dict[str, Any]]:
    """What happened between two readings of the metrics, a row for each histogram of seconds that counted anything.

    ``p99_under``: the smallest bound of a bucket that 99 of 100 were within; seconds.
    """
    rows = []
    for name in sorted(after):
        base, _, labels = name.partition("{")
        if not base.endswith("_seconds_count") or not (count := after[name] - before.get(name, 0)):
            continue
        stem, inner = base.removesuffix("_count"), labels.removesuffix("}")

        def grown(sample: str) -> float:
            return after.get(sample, 0) - before.get(sample, 0)

        buckets = {}
        for sample in after:
            if sample.startswith(f"{stem}_bucket{{") and all(part in sample for part in inner.split(",") if part):
                bound = sample.split('le="')[1].split('"')[0]
                buckets[float(bound)] = grown(sample)
        under = [bound for bound, within in sorted(buckets.items()) if within >= 0.99 * count]
        named = f"{{{labels}" if labels else ""
        figures = {"count": count, "seconds": grown(f"{stem}_sum{named}"), "p99_under": min(under, default=float("inf"))}
        rows.append({"name": stem + named, **figures})
    return rows
