"""Nightly gates: every bench at a small size, its counts and its ratios to a peer against the bounds in bench/gates.yaml.

    python bench/gates.py [--only BENCH] [--json]     exit code 1 where a bound is broken; 5 min 43 s on two idle cores,
                                                      without ingredients and name_queries, which came later
    python bench/gates.py --record [--only BENCH]     write what is measured now into gates.yaml; look at the difference

A bench has a function ``gate() -> dict`` of figures by name: a number, or a list of paired ratios, ours over the peer's (or the
other way round) in turns in one process, whose median counts. Each runs in a process of its own. A bench that fails, or lacks a
figure that has a gate, breaks it. What cannot run here is listed with the reason and never counted as passed: no GPU, a peer that
is not installed, no bound for this processor, and figures called ``*_wall`` while other programs keep the cores busy.

**Noise.** The median of n paired ratios has a standard error of 1.253 σ / √n, σ estimated as 1.4826 times the median distance from
the median; relative to the median this is ``spread`` in gates.yaml. ``--record`` puts a bound four of them away from what was
measured, but never closer than a tenth: other machines of one kind and other days differ that much where nothing else does. A
ratio beyond its bound is measured once more, and the median over both times counts. A bound that says ``aim`` is what the project
promises; it stays where it is.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

BENCH = Path(__file__).resolve().parent
FILE = BENCH / "gates.yaml"
PROCESSORS = ("any", "avx512-vnni", "avx512", "avx2", "other")
_ERRORS, _LEAST_TOLERANCE = 4, 0.1  # standard errors, and the share of a figure, that a recorded bound is away from it at least
_BUSY = 20.0  # percent of the processor that other programs use, above which a clock on the wall says nothing
_MOST_SECONDS = 900

Figures = dict[str, float | list[float]]


class Gate(BaseModel):
    """A bound of one figure of a bench. ``measured`` and ``spread``: what it was when the bound was recorded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bench: str
    metric: str
    exactly: float | None = None
    most: float | None = None
    least: float | None = None
    aim: bool = False
    processor: Literal[PROCESSORS] = "any"  # type: ignore[valid-type]
    measured: float | None = None
    spread: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Gate:
        if sum(bound is not None for bound in (self.exactly, self.most, self.least)) != 1:
            raise ValueError(f"{self.bench} {self.metric} needs one of exactly, most and least")
        return self

    @property
    def bound(self) -> str:
        return next(f"{word} {value:g}" for word in ("exactly", "most", "least") if (value := getattr(self, word)) is not None)

    def excess(self, value: float) -> float:
        """By how much ``value`` is beyond the bound, as a share of it; 0 where it is within. No number is infinitely beyond."""
        if not math.isfinite(value):
            return math.inf
        if self.exactly is not None:
            return 0.0 if value == self.exactly else abs(value - self.exactly) / abs(self.exactly or 1.0)
        bound = self.most if self.most is not None else self.least
        beyond = value - bound if self.most is not None else bound - value
        return max(0.0, beyond / abs(bound or 1.0))


class Gates(BaseModel):
    """The file. ``needs``: by bench what it needs besides the project: ``gpu``, or a module that can be imported."""

    model_config = ConfigDict(extra="forbid")

    needs: dict[str, list[str]]
    gates: list[Gate]

    @model_validator(mode="after")
    def _consistent(self) -> Gates:
        keys = [(g.bench, g.metric, g.processor) for g in self.gates]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"twice in the file: {sorted(twice)}")
        if unknown := {g.bench for g in self.gates} - self.needs.keys():
            raise ValueError(f"gates of benches that are not under needs: {sorted(unknown)}")
        if gone := [name for name in self.needs if not (BENCH / f"{name}.py").is_file()]:
            raise ValueError(f"there is no bench called {gone}")
        return self


@dataclass(frozen=True)
class Result:
    """``state``: passed, broken or not run; ``why``: the reason, where it is not passed."""

    gate: Gate
    state: Literal["passed", "broken", "not run"]
    value: float | None = None
    why: str = ""


def read_gates(path: Path = FILE) -> Gates:
    """The gates of ``path``. Exits with the places that are wrong, where it is not as :class:`Gates` says."""
    try:
        return Gates.model_validate(yaml.safe_load(path.read_text()))
    except (ValidationError, yaml.YAMLError) as error:
        raise SystemExit(f"{path}: {error}") from None


def processor_kind() -> str:
    """What the kernels that count can use here: eight-bit products, wide vectors, or neither."""
    import torch

    kind = torch.backends.cpu.get_cpu_capability()
    if "AVX512" in kind:
        return "avx512-vnni" if torch.cpu._is_vnni_supported() else "avx512"
    return "avx2" if kind == "AVX2" else "other"


def missing(needs: Iterable[str]) -> str:
    """What of ``needs`` is not here, in words; empty where all is."""
    for need in needs:
        if need == "gpu":
            import torch

            if not torch.cuda.is_available():
                return "no GPU"
        elif importlib.util.find_spec(need) is None:
            return f"{need} is not installed"
    return ""


def median_of(figure: float | list[float]) -> float:
    return statistics.median(figure) if isinstance(figure, list) else float(figure)


def spread_of(figure: float | list[float]) -> float:
    """Standard error of the median of paired ratios, as a share of it; 0 for a figure that is not repeated."""
    if not isinstance(figure, list) or len(figure) < 2:
        return 0.0
    middle = statistics.median(figure)
    sigma = 1.4826 * statistics.median(abs(x - middle) for x in figure)
    return 1.253 * sigma / math.sqrt(len(figure)) / abs(middle or 1.0)


def applies(gate: Gate, here: str, all_gates: Iterable[Gate]) -> bool:
    """Whether a gate counts on a processor of kind ``here``: its own, or one for any where there is none of its own."""
    own = any((g.bench, g.metric, g.processor) == (gate.bench, gate.metric, here) for g in all_gates)
    return gate.processor == (here if own else "any")


def judge(gates: Iterable[Gate], figures: Figures | str, here: str, busy: float = 0.0) -> list[Result]:
    """The gates of one bench against its ``figures``, or against the reason why there are none. ``busy``: percent of the processor
    that other programs used.

    >>> judge(read_gates().gates, {"recall": 1.0}, "avx2")
    """
    gates = list(gates)
    found = []
    for metric in dict.fromkeys(g.metric for g in gates):
        of_metric = [g for g in gates if g.metric == metric]
        gate = next((g for g in of_metric if applies(g, here, gates)), None)
        if gate is None:
            found.append(Result(of_metric[0], "not run", why=f"no bound for {here}"))
        elif isinstance(figures, str):
            found.append(Result(gate, "not run", why=figures))
        elif metric.endswith("_wall") and busy > _BUSY:
            found.append(Result(gate, "not run", why=f"other programs used {busy:.0f} % of the processor"))
        elif metric not in figures:
            found.append(Result(gate, "broken", why="the bench gave no such figure"))
        else:
            value = median_of(figures[metric])
            excess = gate.excess(value)
            found.append(Result(gate, "broken" if excess else "passed", value, f"{excess:.1%} beyond it" if excess else ""))
    return found


def failed(gates: Iterable[Gate], here: str, why: str) -> list[Result]:
    """All gates of a bench that ended with an error."""
    return [Result(r.gate, "broken", why=why) if r.state == "broken" else r for r in judge(gates, {}, here)]


def pooled(first: Figures, second: Figures) -> Figures:
    """Paired ratios of both times together; of all else the second time."""
    both = {m: [*first[m], *second[m]] for m in first if isinstance(first[m], list) and isinstance(second.get(m), list)}
    return first | second | both


def measure(bench: str) -> Figures:
    """The figures of a bench, in a process of its own. Raises RuntimeError with its last line where it fails."""
    line = [sys.executable, str(Path(__file__)), "--run", bench]
    try:
        done = subprocess.run(line, capture_output=True, text=True, cwd=BENCH.parent, timeout=_MOST_SECONDS)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"took longer than {_MOST_SECONDS} s") from None
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["failed without a word"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def run_bench(bench: str, needs: list[str], gates: list[Gate], here: str, measured: Callable[[str], Figures]) -> tuple:
    """(results, figures) of one bench; figures are empty where it did not run or failed."""
    if reason := missing(needs):
        return judge(gates, reason, here), {}
    busy = psutil.cpu_percent(interval=1.0)
    try:
        figures = measured(bench)
        results = judge(gates, figures, here, busy)
        ratios = {r.gate.metric for r in results if r.state == "broken" and isinstance(figures.get(r.gate.metric), list)}
        if ratios:
            figures = pooled(figures, measured(bench))
            results = judge(gates, figures, here, busy)
    except RuntimeError as error:
        return failed(gates, here, str(error)), {}
    return results, figures


def recorded(gates: Gates, figures: dict[str, Figures], here: str) -> Gates:
    """The gates with what was measured now; bounds of ratios move to where the noise lets them, those that are aims stay."""

    def renewed(gate: Gate) -> Gate:
        figure = figures.get(gate.bench, {}).get(gate.metric)
        if figure is None or gate.exactly is not None or not applies(gate, here, gates.gates):
            return gate
        value, spread = median_of(figure), spread_of(figure)
        change: dict[str, Any] = {"measured": float(f"{value:.3g}"), "spread": float(f"{spread:.2g}")}
        if not gate.aim:
            away = 1 + max(_LEAST_TOLERANCE, _ERRORS * spread)
            bound = "most" if gate.most is not None else "least"
            change[bound] = float(f"{value * away if bound == 'most' else value / away:.3g}")
        return gate.model_copy(update=change)

    return Gates(needs=gates.needs, gates=[renewed(gate) for gate in gates.gates])


def write_gates(gates: Gates, path: Path = FILE) -> None:
    """Write the file, its comments at the head kept, a line for a gate."""
    head = "".join(line + "\n" for line in path.read_text().splitlines() if line.startswith("#")) if path.exists() else ""
    needs = "".join(f"  {name}: {json.dumps(what)}\n" for name, what in gates.needs.items())

    def line(gate: Gate) -> str:
        values = gate.model_dump(exclude_defaults=True)
        values |= {bound: int(values[bound]) for bound in ("exactly", "most", "least") if values.get(bound, 0.5) % 1 == 0}
        return "- {" + ", ".join(f"{k}: {v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items()) + "}\n"

    path.write_text(f"{head}needs:\n{needs}gates:\n{''.join(map(line, gates.gates))}")


def table(results: list[Result]) -> str:
    """One line a gate; what is broken first."""
    order = {"broken": 0, "not run": 1, "passed": 2}
    rows = [("", "bench", "figure", "bound", "now", "recorded", "")]
    for r in sorted(results, key=lambda r: order[r.state]):
        value, before = ("" if v is None else f"{v:.4g}" for v in (r.value, r.gate.measured))
        rows.append(
            (r.state.upper() if r.state == "broken" else r.state, r.gate.bench, r.gate.metric, r.gate.bound, value, before, r.why)
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="a bench; may be given several times")
    parser.add_argument("--record", action="store_true", help="write new figures and bounds into gates.yaml")
    parser.add_argument("--json", action="store_true", help="one JSON object of all results")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        sys.path.insert(0, str(BENCH.parent))
        print(json.dumps(importlib.import_module(given.run).gate()))
        return 0
    gates, here = read_gates(), processor_kind()
    if unknown := set(given.only or ()) - gates.needs.keys():
        parser.error(f"no bench called {', '.join(sorted(unknown))}; there are {', '.join(gates.needs)}")
    results: list[Result] = []
    figures: dict[str, Figures] = {}
    for bench in given.only or gates.needs:
        print(f"{bench} …", file=sys.stderr, flush=True)
        own = [g for g in gates.gates if g.bench == bench]
        found, figures[bench] = run_bench(bench, gates.needs[bench], own, here, measure)
        results += found
    if given.record:
        write_gates(recorded(gates, figures, here))
    count = {state: sum(r.state == state for r in results) for state in ("passed", "broken", "not run")}
    if given.json:
        rows = [{"state": r.state, "value": r.value, "why": r.why, **r.gate.model_dump(exclude_none=True)} for r in results]
        print(json.dumps({"processor": here, **count, "gates": rows}))
    else:
        print(table(results))
        print(f"{here}: " + ", ".join(f"{n} {state}" for state, n in count.items()))
    return 1 if count["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
