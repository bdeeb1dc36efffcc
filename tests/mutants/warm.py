"""Runs pytest again and again on copies of the checkout, each time in a fork of a process that has the heavy libraries loaded.

A run costs what its tests cost and half a second more; a fresh process would pay ten seconds for torch, Dagster and their like.
None of the project's own modules is loaded before the fork, so each run reads them as they lie in its copy.
"""

import contextlib
import importlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

Key = TypeVar("Key", bound=Hashable)

HEAVY = "numpy torch torch.nn.functional torchvision transformers PIL.Image pyarrow.parquet pyarrow.compute duckdb dagster yaml"
HEAVY += " polars pydantic_settings hypothesis typer rich httpx openai webdataset pytest coverage"
"""Libraries that start no thread when they are imported: a fork has one thread."""


@dataclass(frozen=True)
class Job:
    """pytest with ``arguments`` for at most ``limit`` seconds, on a copy whose file ``path`` has other content, if it is given."""

    arguments: Sequence[str]
    limit: float
    path: str = ""
    source: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    code: int | None
    """pytest's exit code; None where the time was over."""
    output: str
    seconds: float


class Copy:
    """One copy of the checkout, for one run at a time."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.checkout, self.root = checkout, folder / "checkout"
        self.temporary = Path(tempfile.mkdtemp(prefix="mutants-"))
        self.home, self.log = self.temporary / "run", self.temporary / "output.txt"
        self.child = 0
        shutil.rmtree(folder, ignore_errors=True)
        self.root.mkdir(parents=True)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=checkout, capture_output=True, check=True
        )
        for name in sorted(set(listed.stdout.decode().split("\0")) - {""}):
            if (checkout / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(checkout / name, self.root / name)
        (self.root / ".venv").symlink_to(checkout / ".venv")
        if (checkout.parent / "shared").is_dir():
            (folder / "shared").symlink_to((checkout.parent / "shared").resolve())

    def start(self, job: Job, stamp: int) -> None:
        """``stamp`` becomes the time of the file changed, another one each time: by it Python knows that its bytecode is old."""
        self.job, self.began = job, time.monotonic()
        if job.path:
            (self.root / job.path).write_text(job.source, encoding="utf-8")
            os.utime(self.root / job.path, (stamp, stamp))
        self.home.mkdir()
        self.child = os.fork()
        if self.child == 0:
            _run(self.root, self.home, self.log, job)

    def ended(self) -> Outcome | None:
        """The outcome once the run has ended or its time is over; whatever it started has ended then, and the file is as before."""
        done, status = os.waitpid(self.child, os.WNOHANG)
        if not done and time.monotonic() < self.began + self.job.limit:
            return None
        self._end(running=not done)
        shutil.rmtree(self.home, ignore_errors=True)
        if self.job.path:
            shutil.copy2(self.checkout / self.job.path, self.root / self.job.path)
        code = os.waitstatus_to_exitcode(status) if done else None
        return Outcome(code, self.log.read_text(errors="replace"), time.monotonic() - self.began)

    def _end(self, running: bool) -> None:
        if running:
            os.kill(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)
        self.child = 0
        _end_offspring(self.home)

    def close(self) -> None:
        """Ends what still runs and removes the copy."""
        if self.child:
            self._end(running=True)
        shutil.rmtree(self.temporary, ignore_errors=True)
        shutil.rmtree(self.root.parent, ignore_errors=True)


def outcomes(copies: Sequence[Copy], jobs: Iterable[tuple[Key, Job]]) -> Iterator[tuple[Key, Outcome]]:
    """Runs the jobs, as many at a time as there are copies, and yields outcomes as they come in. No threads: it forks."""
    waiting, stamps, running = iter(jobs), itertools.count(1_000_000_000), {}
    while True:
        for copy in copies:
            if copy not in running and (following := next(waiting, None)):
                running[copy] = following[0]
                copy.start(following[1], next(stamps))
        if not running:
            return
        for copy in list(running):
            if outcome := copy.ended():
                yield running.pop(copy), outcome
        time.sleep(0.05)


def _run(root: Path, home: Path, log: Path, job: Job) -> None:
    """In the fork: never returns."""
    code = 70
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(out, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(root)
        for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "mmret", "assets", "resources")]:
            del sys.modules[name]
        sys.path[:] = [str(root), *(p for p in sys.path if p and Path(p).resolve() != root)]
        os.environ |= {"PYTHONPATH": str(root), "TMPDIR": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        os.environ |= {"HYPOTHESIS_STORAGE_DIRECTORY": str(home / "hypothesis"), "MUTANTS_RUN": str(home), **job.environment}
        tempfile.tempdir = None
        sys.argv[1:] = list(job.arguments)
        import pytest

        code = int(pytest.main([*job.arguments, "-p", "no:cacheprovider", "--no-header", "--tb=line"]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def _end_offspring(home: Path) -> None:
    """Ends what a run started and left behind: it has a variable in its environment that no other process has."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("MUTANTS_RUN") == str(home):
                process.kill()


def warm_up() -> None:
    for name in HEAVY.split():
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
