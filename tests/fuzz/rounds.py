"""Rounds of fuzzing: some hundred cases of one target, each fault made as small as it gets. Runs in a process of its own."""

from __future__ import annotations

import os
import random
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import TARGETS, case_file, remove_folder

ROUND = 50
"""Cases of a target before the next one has its turn."""


class Fault(NamedTuple):
    """``where``: the kind of an error and the place it arose; ``case``: as Python writes it."""

    where: str
    case: str
    text: str


def work(pipe: Connection) -> None:
    """Send where cases are written, then answer (target, known faults) with (cases tried, new faults) until told None."""
    pipe.send(str(case_file()))
    try:
        while asked := pipe.recv():
            pipe.send(_round(*asked))
    except (EOFError, KeyboardInterrupt):  # the one who asks is gone
        pass
    remove_folder()


def _round(name: str, known: set[str]) -> tuple[int, list[Fault]]:
    tried = 0
    smallest: dict[str, str] = {}

    def holds(case: Any) -> None:
        nonlocal tried
        tried += 1
        case_file().write_text(repr(case))
        try:
            TARGETS[name].check(case)
        except Exception as error:
            if place(error) in known:
                return
            smallest[place(error)] = repr(case)
            raise

    options = settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    try:
        seed(random.getrandbits(64))(options(given(TARGETS[name].cases)(holds)))()
    except Exception as error:  # of several faults in one round Hypothesis raises a group
        text = "".join(traceback.format_exception(error))[-3000:]
        return tried, [Fault(where, case, text) for where, case in smallest.items()]
    return tried, []


def place(error: BaseException) -> str:
    """The kind of an error, and the last function of this project that it passed."""
    ours = [
        f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}mmret{os.sep}" in f.filename or "targets" in f.filename
    ]
    return f"{type(error).__name__} in {Path(ours[-1].filename).stem}.{ours[-1].name}" if ours else type(error).__name__
