"""Everything that only a GPU can answer, in one run of less than eight minutes on one card: docs/gpu.md says what each row means.

    python bench/gpu_all.py [--out DIR] [--seconds 460] [--only mining --only mllm]
    python bench/gpu_all.py --rehearse          # the same code in small numbers on a CPU, a minute or two

Needs a checkout and torch with CUDA; nothing is downloaded, models are made with random weights. What is not installed is
listed first, and parts that can do without run. Each part has a process and a time limit of its own; what it knew when it
failed, ran out of memory or was stopped is in the report, with the reason. ``DIR`` (``$OUT``, else ``gpu-report``) gets
``report.md``, ``report.json`` and ``rows.jsonl``, written anew with each row; the table is also printed at the end, progress
on standard error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.gpu.plan import PARTS, Part, limit  # noqa: E402

_LOOK, _GRACE, _LEAST = 0.2, 3.0, 5.0  # seconds between looks at a part, beyond its limit, and that a part needs at least
_HERE = Path(__file__).resolve()


class Run:
    """Parts one after the other into ``out``."""

    def __init__(self, out: Path, seconds: float, small: bool, parts: Sequence[Part] = PARTS):
        self.out, self.small, self.parts = out, small, parts
        self.started = time.time()
        self.until = self.started + seconds
        self.facts: dict[str, Any] = {}
        self.states: list[dict[str, Any]] = []
        self._written = -1
        out.mkdir(parents=True, exist_ok=True)
        self.rows_file.unlink(missing_ok=True)

    @property
    def rows_file(self) -> Path:
        return self.out / "rows.jsonl"

    def all_parts(self) -> None:
        from bench.gpu.machine import facts

        self.facts = facts(self.parts)
        self.facts["taken"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()) + (", a rehearsal" if self.small else "")
        for name, value in self.facts.items():
            print(f"{name}: {value}", file=sys.stderr, flush=True)
        for at, part in enumerate(self.parts):
            started = time.time()
            ended = self.one(part, limit(self.parts, at, self.until - started))
            self.states.append({"part": part.name, "seconds": round(time.time() - started, 1), "ended": ended})
            print(f"[{time.time() - self.started:6.1f} s] {part.name} ended: {ended}", file=sys.stderr, flush=True)
            self.write()

    def one(self, part: Part, seconds: float) -> str:
        """What became of a part."""
        if gone := part.missing():
            return f"not run: not installed: {', '.join(gone)}"
        if seconds < _LEAST:
            return f"not run: {seconds:.0f} s were left"
        environment = os.environ | {
            "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
            "HF_HUB_OFFLINE": "1",
            "TQDM_DISABLE": "1",
        }
        child = subprocess.Popen(self.command(part, seconds), stdout=2, env=environment, start_new_session=True)
        stop_at = time.time() + seconds + _GRACE
        try:
            while child.poll() is None and time.time() < stop_at:
                time.sleep(_LOOK)
                self.write()
        finally:
            over = child.poll() is None
            if over:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        if over:
            return f"stopped after {seconds:.0f} s"
        return "done" if child.returncode == 0 else f"failed with exit code {child.returncode}, see standard error"

    def command(self, part: Part, seconds: float) -> list[str]:
        line = [sys.executable, "-u", str(_HERE), "--part", part.run, "--name", part.name, "--out", str(self.out)]
        line += ["--until", str(time.time() + seconds), "--started", str(self.started)]
        return [*line, "--rehearse"] if self.small else line

    def write(self) -> None:
        """Both files, where there is something new."""
        from bench.gpu.table import read_rows, write_report

        size = self.rows_file.stat().st_size if self.rows_file.exists() else 0
        if size + len(self.states) != self._written:
            self._written = size + len(self.states)
            write_report(self.out, self.facts, read_rows(self.rows_file), self.states)


def part_in_this_process(given: argparse.Namespace) -> None:
    import torch

    from bench.gpu.sheet import Sheet

    if given.rehearse:
        torch.set_num_threads(1)
    module, _, function = given.part.partition(":")
    sheet = Sheet(
        given.name,
        given.out / "rows.jsonl",
        "cpu" if given.rehearse else "cuda",
        given.until,
        given.started,
        given.rehearse,
    )
    getattr(importlib.import_module(module), function)(sheet)


def gate() -> dict[str, float | list[float]]:
    """Parts, questions without an answer, and shares of what the bare products reach, of one whole run."""
    with tempfile.TemporaryDirectory() as out:
        run = Run(Path(out), 460.0, False)
        run.all_parts()
        rows = json.loads((Path(out) / "report.json").read_text())["rows"]
    figures = {row["row"]: row["figure"] for row in rows if not row["failed"]}
    step = next((row["beside"].split()[0] for row in rows if row["row"] == "clip.step" and not row["failed"]), "0")
    return {
        "parts_done": sum(state["ended"] == "done" for state in run.states),
        "unanswered": sum(bool(row["failed"]) for row in rows),
        "clip_step_over_bare_product": float(step),
        "million_rows_a_second": figures.get("mining.million_rows", 0.0),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "gpu-report"))
    parser.add_argument("--seconds", type=float, default=460.0, help="that all parts share")
    parser.add_argument("--only", action="append", choices=[part.name for part in PARTS], help="may be given several times")
    parser.add_argument("--rehearse", action="store_true", help="small numbers, on the CPU")
    for hidden in ("--part", "--name"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    for hidden in ("--until", "--started"):
        parser.add_argument(hidden, type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        part_in_this_process(given)
        return 0
    if not given.rehearse and not _sees_a_gpu():
        print("torch sees no GPU here: --rehearse runs the same code in small numbers on the CPU", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the part in progress is ended, what is known is printed
    run = Run(given.out, given.seconds, given.rehearse, [p for p in PARTS if not given.only or p.name in given.only])
    try:
        run.all_parts()
    finally:
        run.write()
        print((given.out / "report.md").read_text())
    return 0 if all(state["ended"] == "done" for state in run.states) else 1


def _sees_a_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
