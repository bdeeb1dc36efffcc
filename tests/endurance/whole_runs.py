"""What the long runs share: a tiny lake with every stage, an undisturbed run to compare with, and the stage a disturbance hits."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from mmret.lake import Lake
from mmret.schemas import TABLES
from tests.conftest import CHECKOUT
from tests.small_runs import TINY, command, run

SOURCE = "shapes:120?seed=3"
TIMES = {"written", "seconds", "samples_per_second", "started", "ended", "peak_memory", "peak_gb"}
"""Columns of figures that a second undisturbed run has differently."""
_TIMES_IN_TEXT = re.compile(rf'("(?:{"|".join(sorted(TIMES))})": )[\d.e+-]+')


def count(name: str, small: int) -> int:
    """How often: ``MMRET_<NAME>`` of the environment, else ``small``."""
    return int(os.environ.get(f"MMRET_{name}", small))


def line(lake: Path) -> list[str]:
    settings = [part for s in TINY for part in ("--set", s)]
    return command(lake, "--images", SOURCE, "--shard-size", "60", *settings)


def undisturbed(lake: Path) -> dict[str, str]:
    run(line(lake), 3000)
    return digests(lake)


def digests(lake: Path) -> dict[str, str]:
    """A digest of every table's rows, without figures of time."""
    store, found = Lake(lake), {}
    for table in TABLES:
        rows = store.read(table)
        rows = rows.drop_columns([name for name in rows.schema.names if name in TIMES or pa.types.is_timestamp(rows[name].type)])
        text = sorted(_TIMES_IN_TEXT.sub(r"\g<1>0", json.dumps(row, default=str)) for row in rows.to_pylist())
        found[table] = f"{len(text)} {hashlib.sha256(chr(10).join(text).encode()).hexdigest()[:16]}"
    for name in sorted(path.stem for path in (lake / "lance").glob("*.lance")):
        ids = sorted(store.lance(name).to_arrow()["image_id"].to_pylist())
        assert len(ids) == len(set(ids)), f"rows of Lance table {name} are there twice"
        found[f"lance {name}"] = hashlib.sha256("".join(ids).encode()).hexdigest()[:16]
    return found


def rest(lake: Path) -> list[str]:
    """What a disturbed run must not leave once it has ended well."""
    from mmret.lake.data_sets import data_folder, data_set

    left = [str(p.relative_to(lake)) for p in lake.rglob("*") if p.name.endswith((".tmp", ".work", ".partial", ".held"))]
    for path in (lake / "lance").glob("*.lance"):
        table = Lake(lake).lance(path.stem)
        versions = [data_set(table).checkout_version(version["version"]) for version in data_set(table).versions()]
        used = {file.path for version in versions for part in version.get_fragments() for file in part.data_files()}
        left += [f"{path.stem}: {file.name}" for file in data_folder(table).iterdir() if file.name not in used]
    return left


def answers(lake: Path) -> dict[str, int]:
    """Answers on disk and distinct keys among them, by kind: equal where no request was asked twice."""
    found = {}
    for kind in sorted((lake / "answers").iterdir()):
        keys: list[bytes] = []
        for path in kind.glob("*.arrow"):
            with pa.memory_map(str(path)) as source:
                keys += pa.ipc.open_file(source).read_all()["key"].to_pylist()
        found[kind.name] = len(keys)
        assert len(keys) == len(set(keys)), f"{kind.name}: {len(keys) - len(set(keys))} answers were asked for twice"
    return found


class Starter:
    """Starts runs, each in a fork of one process that has the libraries loaded (:mod:`tests.endurance.warm`)."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.endurance.warm"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
        )
        assert self._server.stdout.readline() == "ready\n"

    def start(self, arguments: list[str], stderr: Path) -> Forked:
        self._server.stdin.write(json.dumps({"arguments": arguments, "stderr": str(stderr)}) + "\n")
        self._server.stdin.flush()
        return Forked(int(self._server.stdout.readline()), self._server.stdout)

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(60)


class Forked:
    """A started run, with what is used of :class:`subprocess.Popen`."""

    def __init__(self, pid: int, answers: IO[str]):
        self.pid, self._code = pid, None
        self._ended = threading.Event()
        threading.Thread(target=self._wait, args=(answers,), daemon=True).start()

    def _wait(self, answers: IO[str]) -> None:
        self._code = int(answers.readline())
        self._ended.set()

    def poll(self) -> int | None:
        return self._code

    def wait(self, most: float) -> int:
        assert self._ended.wait(most), f"the run was still going after {most} s"
        return self._code


class Disturbed:
    """One `mmret run` in a process group of its own, whose progress is read as it is said; ``stage`` is the one with
    which the last launch began, ``stages`` are all that were launched.

    Without a ``starter`` in a fresh process, as a user starts it.
    """

    def __init__(self, lake: Path, starter: Starter | None = None, environment: dict[str, str] | None = None):
        if starter:
            said = starter.folder / f"said-{uuid.uuid4().hex[:8]}"
            os.mkfifo(said)
            # open at both ends before the run begins, so that nobody waits for another
            ear, mouth = os.open(said, os.O_RDONLY | os.O_NONBLOCK), os.open(said, os.O_WRONLY)
            os.set_blocking(ear, True)
            self.process: Any = starter.start(line(lake)[3:], said)
            os.close(mouth)
            said.unlink()
            self._stderr = os.fdopen(ear, encoding="utf-8", errors="replace")
        else:
            self.process = subprocess.Popen(
                line(lake), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
                env=os.environ | (environment or {}),
            )  # fmt: skip
            self._stderr = self.process.stderr
        self.stage, self.said, self.stages = "loading", "", {"loading"}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for text in self._stderr:
            self.said += text
            if match := re.match(r"\[[^\]]*\] (\w+(?: → \w+)*)", text):
                launched = match[1].split(" → ")
                self.stage = launched[0]
                self.stages |= set(launched)

    def wait_for(self, stage: str, then: float, most: float = 1500.0) -> None:
        """Until ``stage`` was said or the run ended, and ``then`` seconds more."""
        end = time.monotonic() + most
        while stage not in self.stages and self.process.poll() is None:
            assert time.monotonic() < end, f"{stage} was not reached in {most} s: {self.said[-2000:]}"
            time.sleep(0.02)
        time.sleep(then)

    def send(self, number: int) -> str:
        """Send a signal to the whole group; the stage it met, ``ended`` where the run had ended before."""
        stage = self.stage
        if self.process.poll() is not None:
            return "ended"
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return "ended"
        return stage

    def end(self, most: float = 1500.0) -> int:
        """The exit code; raises AssertionError where the run does not end."""
        try:
            code = self.process.wait(most)
        except (AssertionError, subprocess.TimeoutExpired):
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"the run did not end within {most} s: {self.said[-3000:]}") from None
        self._reader.join(10)
        return code


STAGES = (
    "loading", "corpus_manifest", "images", "towers", "clip_image", "dino_image", "caption", "candidates", "leaks", "neighbours",
    "pairs", "descriptions", "instructions", "triplets", "checkpoints", "evaluations", "checks",
)  # fmt: skip
"""Stages that can be met: whatever begins a launch of a run, as its progress names it."""
_MADE_FROM = {"images": ("images", "rejects"), "checks": ("evaluations",)}
_BEGIN_WITH_NOTHING = ("images", "clip_image", "descriptions")


def start_over(lake: Path, stage: str, coin: random.Random) -> None:
    """Forget what ``stage`` made, so that the next run comes by it again; at times all that the lake has, or all answers."""
    if stage in _BEGIN_WITH_NOTHING and coin.random() < 0.4:
        if stage == "descriptions":
            shutil.rmtree(lake / "answers", ignore_errors=True)
            forget(lake, ("instructions", "triplets"))
        else:
            for path in lake.iterdir() if lake.exists() else ():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    forget(lake, _MADE_FROM.get(stage, (stage,) if stage in STAGES[2:] else ()))


def forget(lake: Path, tables: tuple[str, ...]) -> None:
    for table in tables:
        for path in (lake / table).glob("*.parquet"):
            path.unlink()


def hits(hit: Counter) -> str:
    return ", ".join(f"{stage} {n}" for stage, n in hit.most_common())


KILL, STOP, END = signal.SIGKILL, signal.SIGINT, signal.SIGTERM
