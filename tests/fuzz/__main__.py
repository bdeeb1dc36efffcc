"""`make fuzz`: tries the targets in turn with ever new cases for FUZZ_SECONDS (3600), and prints cases and faults of each.

The cases run in a process of their own, so that one that ends it is a fault like any other. A fault is made as small as it gets and
written to ``tests/fuzz/faults/<target>/``, where the tests find it from then on. Ends with exit code 1 where there was one.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.rounds import Fault, work
from tests.fuzz.targets import TARGETS

SILENT = 600
"""Seconds after which a round that says nothing is a fault."""
HERE = Path(__file__).parent


def main() -> int:
    seconds, names = float(os.environ.get("FUZZ_SECONDS", "3600")), sys.argv[1:] or list(TARGETS)
    begun = time.monotonic()
    cases: Counter[str] = Counter()
    taken: dict[str, float] = dict.fromkeys(names, 0.0)
    faults: dict[tuple[str, str], Fault] = {}
    worker = Worker()
    while time.monotonic() < begun + seconds:
        name = min(names, key=lambda n: taken[n])  # each target has the same time
        started = time.monotonic()
        tried, found = worker.round(name, {where for n, where in faults if n == name})
        taken[name] += time.monotonic() - started
        cases[name] += tried
        for fault in found:
            faults[name, fault.where] = fault
            _keep(name, fault)
        told = ", ".join(f"{n} {cases[n]:,}" for n in names)
        print(f"{time.monotonic() - begun:6.0f} s  {told}  faults {len(faults)}", file=sys.stderr, flush=True)
    worker.stop()
    for name in names:
        print(f"{name:12} {cases[name]:9,} cases  {sum(n == name for n, _ in faults)} faults")
    for (name, where), fault in faults.items():
        print(f"\n{name}: {where}\n{_path(name, fault).relative_to(HERE)}\n{fault.text}")
    return 1 if faults else 0


class Worker:
    """The process that tries cases; a new one where it died."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=work, args=(there,), daemon=True)
        self._process.start()
        there.close()
        self._file = self._here.recv()

    def round(self, name: str, known: set[str]) -> tuple[int, list[Fault]]:
        """Some cases of target ``name``: how many, and the faults that are not ``known``."""
        self._here.send((name, known))
        try:
            if self._here.poll(SILENT):
                return self._here.recv()
            where = f"no end after {SILENT} s"
        except (EOFError, ConnectionError):
            self._process.join(10)
            where = f"the process ended with {self._process.exitcode}"
        self._process.kill()
        case = Path(self._file).read_text()
        self._start()
        return 0, [] if where in known else [Fault(where, case, case[:500])]

    def stop(self) -> None:
        self._here.send(None)
        self._process.join(30)


def _path(name: str, fault: Fault) -> Path:
    return HERE / "faults" / name / f"{hashlib.sha256(fault.case.encode()).hexdigest()[:12]}.txt"


def _keep(name: str, fault: Fault) -> None:
    path = _path(name, fault)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fault.case + "\n")


if __name__ == "__main__":
    sys.exit(main())
