"""`make fuzz`: tries the targets in turn with ever new cases for FUZZ_SECONDS (3600), and prints cases and faults of each.

A fault is made as small as it gets and written to ``tests/fuzz/faults/<target>/``, where the tests find it from then on. Ends with
exit code 1 where there was one.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import TARGETS, remove_folder

ROUND = 200
"""Cases of a target before the next one has its turn."""
HERE = Path(__file__).parent


def place(error: BaseException) -> str:
    """Where an error arose: its kind, and the last line of this project's code in its traceback."""
    ours = [
        f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}mmret{os.sep}" in f.filename or "targets" in f.filename
    ]
    where = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "?"
    return f"{type(error).__name__} in {where}"


def main() -> int:
    seconds = float(os.environ.get("FUZZ_SECONDS", "3600"))
    names = sys.argv[1:] or list(TARGETS)
    end, begun = time.monotonic() + seconds, time.monotonic()
    cases: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    faults: dict[tuple[str, str], str] = {}
    while time.monotonic() < end:
        name = min(names, key=lambda n: taken[n])  # each target has the same time
        started = time.monotonic()
        _round(name, cases, faults, end)
        taken[name] += time.monotonic() - started
        told = ", ".join(f"{n} {cases[n]:,}" for n in names)
        print(f"\r{time.monotonic() - begun:6.0f} s  {told}  faults {len(faults)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    remove_folder()
    for name in names:
        print(f"{name:12} {cases[name]:9,} cases  {sum(n == name for n, _ in faults)} faults")
    for (name, where), text in faults.items():
        print(f"\n{name}: {where}\n{text}")
    return 1 if faults else 0


def _round(name: str, cases: Counter[str], faults: dict[tuple[str, str], str], end: float) -> None:
    target = TARGETS[name]
    smallest: dict[str, object] = {}

    def holds(case: object) -> None:
        cases[name] += 1
        try:
            target.check(case)
        except BaseException as error:
            where = place(error)
            if isinstance(error, KeyboardInterrupt) or (name, where) in faults or time.monotonic() > end + 60:
                if isinstance(error, KeyboardInterrupt):
                    raise
                return  # known, or no time left to make it smaller
            smallest[where] = case
            raise

    phases = (Phase.generate, Phase.shrink)
    options = settings(
        max_examples=ROUND, deadline=None, database=None, phases=phases, suppress_health_check=list(HealthCheck), print_blob=False
    )
    try:
        seed(random.getrandbits(64))(options(given(target.cases)(holds)))()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        for where, case in smallest.items():
            text = repr(case)
            path = HERE / "faults" / name / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
            faults[name, where] = f"{path.relative_to(HERE)}\n{''.join(traceback.format_exception(error))[-2000:]}"


if __name__ == "__main__":
    sys.exit(main())
