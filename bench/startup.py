"""What a command costs before it answers: `mmret run` with nothing to do, `status`, `sql` and `--help`, each a process of its own.

    python bench/startup.py [--lake LAKE] [--before CHECKOUT] [--rounds 5]
    python bench/startup.py --models --lake LAKE    the first character of the commands that load a model; LAKE has a checkpoint

Without --lake one of six pictures and empty tables is made, every stage current. First the counts: a command ends well and prints
the same as the time before, and as the checkout given with --before does, seconds apart. Then in turns: the command, that of the
other checkout, and ``python -c "import pyarrow, duckdb"``, the least that a lakehouse has to load; medians of wall time, of the
time until the first character is there, and of processor time. For the figures
of users compile the bytecode first (``python -m compileall mmret assets resources``) where Python may not write it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.freshness.current_folder import Current  # noqa: E402

BARE = [sys.executable, "-c", "import pyarrow, duckdb"]
QUERY = "SELECT count(*) FROM images"
_SECONDS = re.compile(r"(?m)^(  corpus_manifest .*?)\d+\.\d *$")


class Cost(NamedTuple):
    """Seconds: until the process has ended, until its first character was there, and of the processor."""

    wall: float
    first: float
    processor: float


def commands(lake: Path) -> dict[str, list[str]]:
    """The commands by name."""
    found = {"run": ["run"], "status": ["status"], "sql": ["sql", QUERY]}
    return {name: [*line, "--lake", str(lake)] for name, line in found.items()} | {"help": ["--help"]}


def call(line: list[str], checkout: Path = ROOT) -> tuple[Cost, str]:
    """What ``line`` cost and what it printed, without the seconds in it. Raises RuntimeError where it fails."""
    before, began = os.times(), time.perf_counter()
    process = subprocess.Popen(line, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    printed = process.stdout.read1(1)
    first = time.perf_counter() - began
    printed += process.stdout.read()
    status = process.wait()
    wall, after = time.perf_counter() - began, os.times()
    text = printed.decode()
    if status:
        raise RuntimeError(f"{' '.join(line)}: exit code {status}\n{text[-2000:]}")
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return Cost(wall, first, used), _SECONDS.sub(r"\1", text)


def first_character(line: list[str], checkout: Path = ROOT) -> float:
    """Seconds until ``mmret line`` prints anything; then it is ended. Raises RuntimeError where it ends without a word."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "mmret", *line]
    process = subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = process.stdout.read1(1)
    first = time.perf_counter() - began
    process.kill()
    process.communicate()
    if not said:
        raise RuntimeError(f"mmret {' '.join(line)}: ended without a word")
    return first


def loading(lake: Path, folder: Path) -> dict[str, list[str]]:
    """The commands that load a model, by name; ``folder``: where what they read or would write lies."""
    triplets = folder / "triplets.jsonl"
    triplets.write_text("")
    recipe = json.loads(mmret(["sql", "--lake", str(lake), "--json", "SELECT recipe FROM checkpoints"])[1])[0]["recipe"]
    found = {
        "search": ["--text", "a red circle"],
        "serve": ["--port", "0"],
        "evaluate": ["--triplets", str(triplets)],
        "train": ["--recipe", recipe],
        "gallery": ["--port", "0", "--no-browser"],
        "embed": ["shapes:4", "--out", str(folder / "vectors")],
        "check": ["--filter", "consistency"],
        "teach": ["--recipe", recipe],
        "export-onnx": ["--out", str(folder / "graphs")],
        "merge": ["--recipe", recipe, "--out", str(folder / "merged")],
    }
    return {name: [name, "--lake", str(lake), *line] for name, line in found.items()}


def models(lake: Path, rounds: int, before: Path | None) -> dict[str, dict[str, list[float]]]:
    """By command that loads a model and side the seconds until its first character, in turns."""
    sides = {"now": ROOT} | ({"before": before} if before else {})
    with tempfile.TemporaryDirectory() as folder:
        lines = loading(lake, Path(folder))
        found: dict[str, dict[str, list[float]]] = {name: {side: [] for side in sides} for name in lines}
        for name, line in lines.items():
            for _ in range(rounds):
                for side, checkout in sides.items():
                    found[name][side].append(first_character(line, checkout))
    return found


def mmret(arguments: list[str], checkout: Path = ROOT) -> tuple[Cost, str]:
    return call([sys.executable, "-m", "mmret", *arguments], checkout)


def answer(text: str) -> list[str]:
    """The lines of a command's output that are its answer: not those of progress, which a run without a graph has less of."""
    return [line.rstrip() for line in text.splitlines() if line != "loading …" and not re.match(r"\[.*\] corpus_manifest", line)]


def compare(lake: Path, rounds: int, before: Path | None) -> dict[str, dict[str, list[Cost]]]:
    """By command and side (``now``, ``before``, ``bare``) the costs of each round. Raises RuntimeError where answers differ."""
    sides = {"now": ROOT} | ({"before": before} if before else {})
    costs: dict[str, dict[str, list[Cost]]] = {}
    for name, line in commands(lake).items():
        mmret(line)  # a first call may leave a catalogue or a record behind
        said = [answer(mmret(line, checkout)[1]) for checkout in (*sides.values(), ROOT)]
        if any(each != said[0] for each in said) and name != "help":
            raise RuntimeError(f"mmret {name} does not answer the same each time")
        costs[name] = {side: [] for side in (*sides, "bare")}
        for _ in range(rounds):
            for side, checkout in sides.items():
                costs[name][side].append(mmret(line, checkout)[0])
            costs[name]["bare"].append(call(BARE, Path("/"))[0])
    return costs


def gate() -> dict[str, float | list[float]]:
    """A lake of empty tables: how many stages are current, and paired ratios to the bare imports by processor time."""
    with tempfile.TemporaryDirectory() as folder:
        lake = Current(Path(folder)).lake
        stages = json.loads(mmret(["status", "--lake", str(lake.root), "--json"])[1])["stages"]
        costs = compare(lake.root, 5, None)
    figures: dict[str, float | list[float]] = {
        "stages": float(len(stages)),
        "not_current": float(sum(stage["stale"] + stage["missing"] for stage in stages.values())),
    }
    for name, of in costs.items():
        figures[f"{name}_over_bare_imports_processor"] = [
            ours.processor / bare.processor for ours, bare in zip(of["now"], of["bare"], strict=True)
        ]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lake", type=Path, help="an up-to-date lake of this machine")
    parser.add_argument("--before", type=Path, help="another checkout, of which the same is asked in turns")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", action="store_true", help="the first character of the commands that load a model")
    given = parser.parse_args()
    if given.models:
        if given.lake is None:
            parser.error("--models needs --lake, one with a checkpoint")
        for name, sides in models(given.lake.absolute(), given.rounds, given.before).items():
            print(f"{name:<12}" + "".join(f"{side} {statistics.median(each):.2f} s  " for side, each in sides.items()))
        return
    with tempfile.TemporaryDirectory() as folder:
        lake = given.lake or Current(Path(folder)).lake.root
        costs = compare(lake.absolute(), given.rounds, given.before)
    print(f"{'command':<10}{'side':<10}{'wall s':>8}{'first s':>9}{'processor s':>13}")
    for name, of in costs.items():
        for side, each in of.items():
            wall, first, used = (statistics.median(column) for column in zip(*each, strict=True))
            print(f"{name:<10}{side:<10}{wall:>8.2f}{first:>9.2f}{used:>13.2f}")


if __name__ == "__main__":
    main()
