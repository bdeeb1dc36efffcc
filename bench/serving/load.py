"""Plans of requests at fixed rates, and what came of them: latencies from the moment a request was due, processor time, answers.

Arrivals are a Poisson process, as those of independent people are. Each kind of query has its own. locust sends them
(:mod:`serving.arrivals`), in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from serving.routes import Question

PLAN = pa.schema(
    [
        ("due", pa.float64()),  # seconds after the start
        ("label", pa.string()),
        ("path", pa.string()),
        ("body", pa.binary()),  # null: GET
        ("keep", pa.bool_()),  # whether the answer is wanted
    ]
)
CONNECTIONS = 64
_SLACK_S = 120.0  # that locust may take to start, and to end after its last request


@dataclass(frozen=True)
class Stream:
    """Questions of one kind at ``rate`` a second."""

    label: str
    rate: float
    question: Callable[[np.random.Generator], Question]


@dataclass(frozen=True)
class Answered:
    """All requests of a plan. ``kept``: question, answer as JSON, and when it came (seconds of time.monotonic)."""

    label: np.ndarray
    due: np.ndarray  # seconds of time.monotonic
    sent: np.ndarray
    done: np.ndarray
    status: np.ndarray
    attempts: np.ndarray
    kept: list[tuple[Question, dict[str, Any], float]]
    failures: list[str]
    sender_processor_s: float

    @property
    def wall_s(self) -> float:
        return float(self.done.max() - self.due.min())

    def figures(self, label: str | None = None) -> dict[str, float]:
        """Counts, and latencies in ms from the moment that a request was due; ``late``: sent so long after it was due."""
        chosen = np.ones(len(self.due), bool) if label is None else self.label == label
        good = chosen & (self.status == 200)
        latency, late = (self.done - self.due)[good] * 1e3, (self.sent - self.due)[chosen] * 1e3
        named = {name: float(np.percentile(latency, q)) for name, q in (("p50", 50), ("p90", 90), ("p99", 99), ("max", 100))}
        return {
            "requests": int(chosen.sum()),
            "errors": int(chosen.sum() - good.sum()),
            "per_s": float(chosen.sum() / max(np.ptp(self.due), 1e-9)),
            **(named if len(latency) else dict.fromkeys(named, float("nan"))),
            "late_p99": float(np.percentile(late, 99)),
        }


def sent(
    address: str, streams: Iterable[Stream], seconds: float, seed: int = 0, keep: float = 1.0, retry_s: float = 0.0
) -> Answered:
    """Send ``streams`` to ``address`` (http://127.0.0.1:8000) for ``seconds``; ``keep``: share of the answers that is returned.

    ``retry_s``: for so long a request whose connection was refused or broken is sent again; all that time counts.
    """
    plan, questions = drawn(streams, seconds, seed, keep, retry_s)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(Path(folder) / f"{name}.parquet") for name in ("plan", "answers")}
        pq.write_table(plan, paths["plan"])
        line = [sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("arrivals.py")), "--headless", "--only-summary"]
        line += ["--users", str(CONNECTIONS), "--spawn-rate", "1000", "--host", address, "--loglevel", "ERROR"]
        done = subprocess.run(
            [*line, "--plan", paths["plan"], "--answers", paths["answers"]],
            capture_output=True,
            text=True,
            timeout=seconds + retry_s + _SLACK_S,
        )
        if not Path(paths["answers"]).is_file():  # locust's own exit code is 1 where a request failed, which is counted here
            raise RuntimeError(f"locust ended without answers:\n{done.stderr[-2000:]}")
        return _answered(pq.read_table(paths["answers"]), questions)


def drawn(
    streams: Iterable[Stream], seconds: float, seed: int, keep: float, retry_s: float = 0.0
) -> tuple[pa.Table, list[Question]]:
    """A plan by :data:`PLAN` in order of time, and the question of each of its rows."""
    rng = np.random.default_rng([5, seed])
    rows = []
    for stream in streams:
        due = np.sort(rng.uniform(0, seconds, round(stream.rate * seconds)))  # a Poisson process, given how many came
        rows += [(at, stream.label, stream.question(rng), bool(rng.random() < keep)) for at in due.tolist()]
    rows.sort(key=lambda row: row[0])
    columns = [[at, label, *question.request(), kept] for at, label, question, kept in rows]
    arrays = [pa.array(list(c), f.type) for c, f in zip(zip(*columns, strict=True), PLAN, strict=True)]
    plan = pa.Table.from_arrays(arrays, schema=PLAN.with_metadata({"retry_s": str(retry_s)}))
    return plan, [row[2] for row in rows]


def _answered(table: pa.Table, questions: list[Question]) -> Answered:
    def column(name: str) -> np.ndarray:
        return table[name].to_numpy(zero_copy_only=False)

    rows = zip(*(table[n].to_pylist() for n in ("request", "status", "body", "done", "error")), strict=True)
    kept, failures = [], []
    for request, status, body, done, error in rows:
        if status != 200:
            failures.append(error or f"status {status}: {(body or b'').decode(errors='replace')[:300]}")
        elif body is not None:
            kept.append((questions[request], json.loads(body), done))
    return Answered(
        *(column(n) for n in ("label", "due", "sent", "done", "status", "attempts")),
        kept,
        failures,
        float(table.schema.metadata[b"processor_s"]),
    )


def first_answer(answered: Answered, after: float) -> float:
    """Seconds from ``after`` (time.monotonic) to the first answer to a request that was sent, or sent again, after it."""
    later = (answered.status == 200) & (answered.done > after) & ((answered.sent > after) | (answered.attempts > 1))
    return float(answered.done[later].min() - after) if later.any() else float("nan")
