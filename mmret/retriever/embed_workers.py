"""Several processes that embed at the same time: parts are dealt to whoever is free, each process has its own copy of the model.

Processes and not threads, because reading, decoding and tokenising hold Python's lock. Each runs ``python -m
mmret.retriever.embed_workers`` and is spoken to in lines of JSON: it asks for the number of a part, and tells how far it is. A
process that ends ends the run; what is finished stays. Cost: the model is loaded once per process, and each lists the sources.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from mmret.devices import device_of
from mmret.errors import UserError
from mmret.interrupts import listen
from mmret.progress import advance, reporting
from mmret.retriever.embed_parts import EmbedOptions, PartFacts, PartWork
from mmret.system_errors import explain

_PATIENCE_S = 10.0
"""That a process has to end by itself when it is told to."""


def device_names(options: EmbedOptions) -> list[str]:
    """The device of each process. Raises UserError where there are fewer processes than devices."""
    names = options.devices or (options.device,)
    processes = options.processes or len(names)
    if processes < len(names):
        raise UserError(f"{processes} processes cannot use {len(names)} devices: give a process for each, or fewer devices")
    return [names[at % len(names)] for at in range(processes)]


def embed_in_processes(
    sources: Sequence[str], checkpoint: str | Path, work: Path, options: EmbedOptions, devices: Sequence[str]
) -> Iterator[PartFacts]:
    """Make all parts in ``work``, a process for each of ``devices``; gives the facts of each part as it is finished.

    Raises UserError where a process raises it or ends, and where they count different numbers of rows. However it ends, no
    process is left.
    """
    said: SimpleQueue[tuple[int, dict[str, Any] | None]] = SimpleQueue()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    job = {"sources": list(sources), "checkpoint": str(checkpoint), "work": str(work), "options": asdict(options)}
    processes: list[subprocess.Popen[str]] = []
    try:
        for at, device in enumerate(devices):
            processes.append(_start({**job, "device": device, "place": at, "threads": max(1, cores // len(devices))}))
            threading.Thread(target=_listen, args=(at, processes[at], said), daemon=True).start()
        yield from _deal(processes, devices, said)
    finally:
        _end(processes)


def _start(job: dict[str, Any]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "mmret.retriever.embed_workers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,  # a Ctrl-C reaches this process alone, which ends the others
    )
    _tell(process, json.dumps(job))
    return process


def _tell(process: subprocess.Popen[str], line: str) -> None:
    """Write a line to the process; one that has ended is noticed where it is listened to."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(line + "\n")
        process.stdin.flush()


def _listen(at: int, process: subprocess.Popen[str], said: SimpleQueue[tuple[int, dict[str, Any] | None]]) -> None:
    """Hand on what a process says, and None when it says nothing any more."""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            said.put((at, json.loads(line)))
    except ValueError:  # a line broken off, or the pipe closed by _end
        pass
    said.put((at, None))


def _deal(
    processes: Sequence[subprocess.Popen[str]], devices: Sequence[str], said: SimpleQueue[tuple[int, dict[str, Any] | None]]
) -> Iterator[PartFacts]:
    numbers = count()
    counted: dict[int, int] = {}  # rows of the sources, by process that has come to their end
    done: dict[int, int] = {}  # rows, by process
    gone: set[int] = set()
    while len(gone) < len(processes):
        at, message = said.get()
        if message is None:
            if at not in counted:
                raise UserError(_how_it_ended(devices[at], processes[at]))
            gone.add(at)
        elif "error" in message:
            raise UserError(message["error"])
        elif "claim" in message:
            _tell(processes[at], str(next(numbers)))
        elif "done" in message:
            done[at] = message["done"]
            advance("embed", sum(done.values()), None)
        elif "rows" in message:
            counted[at] = message["rows"]
        else:
            yield PartFacts(**message["part"])
    if len(set(counted.values())) > 1:
        raise UserError(
            f"the sources changed while they were read: one process counted {min(counted.values()):,} rows, another "
            f"{max(counted.values()):,}. Give the same command again: the parts that still fit are kept"
        )


def _how_it_ended(device: str, process: subprocess.Popen[str]) -> str:
    code = process.wait()
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}, its words are above"
    return (
        f"the process that embeds on {device} {how}. What is finished is kept, and the same command goes on from there; fewer "
        "processes (--processes, --devices) and a smaller --batch-size take less memory"
    )


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End those that still run, and wait for them."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()


def main() -> None:
    """One process: a job on standard input, then the number of a part for each claim on standard output."""
    listen()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a library that prints does not speak in between

    def say(**message: Any) -> None:
        print(json.dumps(message), file=answers, flush=True)

    def claim() -> int:
        say(claim=True)
        line = sys.stdin.readline()
        if not line:  # who started this one is gone
            raise KeyboardInterrupt
        return int(line)

    try:
        job = json.loads(sys.stdin.readline())
        options = EmbedOptions(**{**job["options"], "devices": tuple(job["options"]["devices"])})
        work = PartWork(job["sources"], job["checkpoint"], Path(job["work"]), options, _place(job))
        with reporting(lambda task, done, total, note="", counts=None: say(done=done)):
            for facts in work.run(claim):
                say(part=asdict(facts))
        say(rows=work.rows)
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(143)  # answers cannot be flushed any more
    except Exception as error:
        words = str(error) if isinstance(error, UserError) else explain(error)
        if words is None:
            raise
        say(error=words)


def _place(job: dict[str, Any]) -> str:
    """The device of the job; ``auto`` are all GPUs in turn. Torch is told how many threads it may have."""
    import torch

    torch.set_num_threads(job["threads"])
    if job["device"] == "auto" and torch.cuda.is_available():
        return f"cuda:{job['place'] % torch.cuda.device_count()}"
    return str(device_of(job["device"]))  # refused before the model is loaded


if __name__ == "__main__":
    main()
