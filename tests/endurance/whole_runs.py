"""What the long runs share: a tiny lake with every stage, an undisturbed run to compare with, and the stage a disturbance hits."""

import hashlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa

from mmret.lake import Lake
from mmret.schemas import TABLES
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


class Disturbed:
    """One `mmret run` in a process group of its own, whose progress is read as it is said; ``stage`` is the last that began."""

    def __init__(self, lake: Path, environment: dict[str, str] | None = None):
        self.process = subprocess.Popen(
            line(lake), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env=os.environ | (environment or {}),
        )  # fmt: skip
        self.stage, self.said, self.stages = "loading", "", {"loading"}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for text in self.process.stderr:
            self.said += text
            if match := re.match(r"\[[^\]]*\] (\w+)", text):
                self.stage = match[1]
                self.stages.add(match[1])

    def wait_for(self, stage: str, then: float, most: float = 1500.0) -> None:
        """Until ``stage`` was said or the run ended, and ``then`` seconds more."""
        end = time.monotonic() + most
        while stage not in self.stages and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(then)

    def send(self, number: int) -> str:
        """Send a signal to the whole group; the stage it met, ``ended`` where the run had ended before."""
        stage = self.stage
        if self.process.poll() is not None:
            return "ended"
        os.killpg(self.process.pid, number)
        return stage

    def end(self, most: float = 1500.0) -> int:
        code = self.process.wait(most)
        self._reader.join(10)
        return code


STAGES = (
    "loading", "corpus_manifest", "images", "towers", "clip_image", "leaks", "neighbours", "checkpoints", "checks",
)  # fmt: skip
"""First stages of the launches of a run, as its progress names them."""


_MADE_FROM = {
    "images": ("images", "rejects"), "towers": ("towers",), "clip_image": ("clip_image", "candidates"), "leaks": ("leaks",),
    "neighbours": ("neighbours", "pairs", "triplets"), "checkpoints": ("checkpoints", "evaluations"), "checks": ("evaluations",),
}  # fmt: skip


def start_over(lake: Path, stage: str) -> None:
    """Forget what was made from ``stage`` on, so that the next run comes by it again; what was answered and paid for stays."""
    for table in _MADE_FROM.get(stage, ()):
        for path in (lake / table).glob("*.parquet"):
            path.unlink()


def hits(hit: Counter) -> str:
    return ", ".join(f"{stage} {n}" for stage, n in hit.most_common())


KILL, STOP, END = signal.SIGKILL, signal.SIGINT, signal.SIGTERM
