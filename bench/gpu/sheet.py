"""What a part writes down: rows that are on disk as soon as they are known, whatever becomes of the part.

A question that fails leaves its traceback as a row and the next one is asked; one that does not fit the memory is asked again
in a smaller size. Clocks are read with the device's work done, medians are of rounds behind a warm-up.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")
_ROUNDS, _ENOUGH = 5, 0.05


class Sheet:
    """Rows of one part into ``path``. ``until``: of ``time.time()``, when the part has to be done; ``started``: the whole run.

    ``small``: a rehearsal, in sizes of seconds, on ``device`` cpu.
    """

    def __init__(self, part: str, path: Path, device: str, until: float, started: float, small: bool):
        self.part, self.path, self.until, self.started, self.small = part, path, until, started, small
        self.device = torch.device(device)
        self.rows: list[dict[str, Any]] = []

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.time()

    def say(self, text: str) -> None:
        print(f"[{time.time() - self.started:6.1f} s] {self.part}: {text}", file=sys.stderr, flush=True)

    def row(self, key: str, figure: float | int | None, unit: str, beside: str = "", note: str = "", failed: str = "") -> None:
        """``key``: the row of docs/gpu.md; ``beside``: what the figure is compared with; ``failed``: why there is none."""
        peak = torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else None
        row = {"part": self.part, "row": key, "figure": figure, "unit": unit, "beside": beside, "note": note, "failed": failed}
        self.rows.append(row | {"peak_gib": None if peak is None else round(peak, 2), "at_s": round(time.time() - self.started, 1)})
        with self.path.open("a") as file:
            file.write(json.dumps(self.rows[-1]) + "\n")
        self.say(f"{key}: {'failed: ' + failed.strip().splitlines()[-1] if failed else f'{figure:.5g} {unit} {beside}'}")

    def ask(self, key: str, work: Callable[[Any], Result], sizes: Sequence[Any] = (None,), needs: float = 0.0) -> Result | None:
        """``work(size)`` with the first of ``sizes`` that fits the memory; None where it fails, or where fewer seconds than
        ``needs`` are left. ``work`` writes its rows itself."""
        if self.left < needs:
            self.row(key, None, "", failed=f"not measured: {self.left:.0f} s were left and it takes about {needs:.0f}")
            return None
        full = ""
        for size in sizes:
            self._forget()
            try:
                return work(size)
            except torch.OutOfMemoryError as error:
                full = f"{size or 'as it is'}: {error}"
                self.say(f"{key}: out of memory with {full.splitlines()[0][:200]}")
            except Exception:
                self.row(key, None, "", failed=traceback.format_exc())
                return None
        self.row(key, None, "", failed=f"out of memory, at last with {full}")
        return None

    def _forget(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any]) -> float:
        """Of one call, the device's work included."""
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started

    def median(self, work: Callable[[], Any], rounds: int = 3) -> float:
        """Seconds, the median of ``rounds`` calls behind a warm-up."""
        work()
        return statistics.median(self.seconds(work) for _ in range(rounds))

    def short(self, kernel: Callable[[], Any]) -> float:
        """Seconds of a call that takes less than its launch costs: so many in a row that they take :data:`_ENOUGH`, between two
        events of the device, medians of :data:`_ROUNDS`."""
        kernel()
        once = self.seconds(kernel)
        repeats = 1 if self.small else max(1, min(1000, int(_ENOUGH / max(once, 1e-6))))

        def many() -> None:
            for _ in range(repeats):
                kernel()

        if self.device.type != "cuda":
            return statistics.median(self.seconds(many) for _ in range(_ROUNDS)) / repeats
        times = []
        for _ in range(_ROUNDS):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            many()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1000 / repeats)
        return statistics.median(times)
