"""How right the time left of `mmret run` is: records runs, and replays them through the estimate as it is now.

    python bench/time_left.py record OUT.jsonl.gz run --lake L [--images ...]    # any arguments of mmret
    python bench/time_left.py replay tests/cli/recorded_runs/*.jsonl.gz [--faster 3]

A recording has each progress report with its time, thinned to two a second, and what the run found to do; not the lake. A replay
prints by how much the predicted total (elapsed and left) was off at worst and when, from the first minute or a fifth of the run on.
``--faster 0.33`` replays the run of a machine three times as slow. Costs the run; a replay takes a second.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmret.cli.run_work import Work
from mmret.cli.time_left import Estimate
from mmret.settings import load_profile

RUNS = Path(__file__).resolve().parents[1] / "tests" / "cli" / "recorded_runs"
EVERY = 0.5
"""Seconds between two reports of one loop that are kept; its first and its last are always."""


class Sample(NamedTuple):
    """What was said at one moment, and how long the run took in the end. ``left`` and ``unknown``: None and () before the plan."""

    at: float
    left: float | None
    unknown: tuple[str, ...]
    total: float
    what: str

    @property
    def off(self) -> float:
        """Factor between the predicted total and the true one, at least 1."""
        predicted = self.at + (self.left or 0.0)
        return max(predicted / self.total, self.total / predicted)


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Recording:
    """One run. ``events`` have ``t``, seconds since it began, and are of four kinds: ``plan``, ``begin``, ``task``, ``end``."""

    profile: str
    overrides: Mapping[str, Any]
    remembered: Mapping[str, float]
    about: str
    events: tuple[Mapping[str, Any], ...]

    @classmethod
    def read(cls, path: Path) -> Recording:
        with gzip.open(path, "rt") as file:
            head, *events = [json.loads(line) for line in file]
        return cls(head["profile"], head["overrides"], head["remembered"], head["about"], tuple(events))

    def write(self, path: Path) -> None:
        head = {k: v for k, v in asdict(self).items() if k != "events"}
        lines = "".join(json.dumps(e, separators=(",", ":")) + "\n" for e in (head, *thinned(self.events)))
        with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
            file.write(lines.encode())

    @property
    def seconds(self) -> float:
        return self.events[-1]["t"]

    def replay(self, faster: float = 1.0, remembered: Mapping[str, float] | None = None) -> tuple[Estimate, list[Sample]]:
        """The estimate at the end, and a sample after every event and every two seconds between them; ``faster``: than recorded."""
        clock = _Clock()
        known = self.remembered if remembered is None else remembered
        estimate = Estimate(load_profile(self.profile, dict(self.overrides)), clock, known)
        samples: list[Sample] = []
        total, what = self.seconds / faster, "loading"
        for event in self.events:
            at = event["t"] / faster
            while clock.now + 2.0 < at:
                clock.now += 2.0
                samples.append(_sample(estimate, clock.now, total, what))
            clock.now = at
            if "plan" in event:
                estimate.plan(Work(**event["plan"]))
            elif "begin" in event:
                what = f"{event['begin'][0]} {event['partition'] or ''}"
                estimate.begin(event["begin"], event["partition"])
            elif "task" in event:
                what = event["task"]
                estimate.advance(event["task"], event["done"], event["total"])
            else:
                estimate.finish()
                break
            samples.append(_sample(estimate, at, total, what))
        return estimate, samples


def _sample(estimate: Estimate, at: float, total: float, what: str) -> Sample:
    left = estimate.left()
    return Sample(at, left and left.seconds, left.unknown if left else (), total, what)


def judged(samples: list[Sample]) -> list[Sample]:
    """The samples that must be right: from the first minute or a fifth of the run on, whichever comes first, save where nothing is
    claimed, because the corpus is not listed yet or stages are named whose pace nobody knows."""
    first = min(60.0, 0.2 * samples[-1].total)
    return [s for s in samples if s.at >= first and s.left is not None and not s.unknown]


def thinned(events: tuple[Mapping[str, Any], ...]) -> Iterator[Mapping[str, Any]]:
    """``events`` without those reports of a loop that come within ``EVERY`` seconds of another, first and last excepted."""
    told: dict[str, float] = {}
    held: Mapping[str, Any] | None = None
    for event in events:
        task = event.get("task")
        if held is not None and task != held["task"]:
            yield held
            held = None
        if task is None:
            told.clear()
        elif task in told and event["t"] - told[task] < EVERY:
            held = event
            continue
        else:
            told[task], held = event["t"], None
        yield event


app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


def gate() -> dict[str, float | list[float]]:
    """How far the predicted total of the quiet demo, and of a run with a slow server, is off at worst."""
    runs = {name: judged(Recording.read(RUNS / f"{name}.jsonl.gz").replay()[1]) for name in ("demo_quiet", "slow_server")}
    off: dict[str, float | list[float]] = {f"{name}_off": max(s.off for s in samples) for name, samples in runs.items()}
    return off | {"runs": len(runs)}


@app.command(context_settings={"ignore_unknown_options": True})
def record(out: Path, arguments: list[str]) -> None:
    """Run ``mmret`` with ARGUMENTS and write its progress to OUT."""
    from mmret.cli import main, run_progress

    began, events = time.monotonic(), []
    about = " ".join(a for a in arguments if "/" not in a)
    known: dict[str, Any] = {"profile": "demo", "overrides": {}, "remembered": {}}

    def note(**event: Any) -> None:
        events.append({"t": round(time.monotonic() - began, 2), **event})

    class Recorded(Estimate):
        def plan(self, work: Work) -> None:
            note(plan=asdict(work))
            super().plan(work)

        def begin(self, tables: list[str], partition: str | None) -> None:
            note(begin=tables, partition=partition)
            super().begin(tables, partition)

        def advance(self, task: str, done: int, total: int | None) -> None:
            note(task=task, done=done, total=total)
            super().advance(task, done, total)

        def finish(self) -> None:
            super().finish()
            note(end=True)

    class Progress(run_progress.RunProgress):
        def __init__(self, lake: Any, profile: Any):
            super().__init__(lake, profile)
            known.update(profile=profile.name, remembered=dict(self.estimate.paces.remembered))

        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            known.update(overrides=self._lake.read_configuration().get("overrides", {}))

    run_progress.Estimate, run_progress.RunProgress = Recorded, Progress  # type: ignore[misc,assignment]
    sys.argv = ["mmret", *arguments]
    try:
        main()
    finally:
        Recording(**known, about=about, events=tuple(events)).write(out)


@app.command()
def replay(recordings: list[Path], faster: Annotated[float, typer.Option(help="than it was recorded")] = 1.0) -> None:
    """Print how far the predicted total was off."""
    for path in recordings:
        recording = Recording.read(path)
        samples = judged(recording.replay(faster)[1])
        worst = max(samples, key=lambda s: s.off)
        beyond = sum(s.off > 1.5 for s in samples)
        print(
            f"{path.name}: {recording.seconds / faster:,.0f} s, {len(samples)} samples, {beyond} off by more than 1.5; worst "
            f"{worst.off:.2f} after {worst.at:,.0f} s ({worst.what}): {worst.at + (worst.left or 0):,.0f} s"
        )


if __name__ == "__main__":
    app()
