"""What a change of a lake costs: each row of the table in docs/rescaling.md is applied to a copy of one small lake and run.

    python bench/rescaling.py [--lake FOLDER]

Prints per change how many partitions of each stage were computed again, and the time as a share of the first run's.
Some two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mmret.lake import Lake
from mmret.stages import RUNS

ROOT = Path(__file__).resolve().parents[1]
DOC = ROOT / "docs" / "rescaling.md"
STAGES = tuple(table for group in RUNS for table in group)


def documented() -> tuple[str, dict[str, dict[str, int]]]:
    """The arguments that make the lake, and per change the partitions of each stage, as docs/rescaling.md has them."""
    lines = [
        [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
        for line in DOC.read_text().splitlines()
        if line.startswith("|")
    ]
    head = next(i for i, cells in enumerate(lines) if cells[0] == "change")
    columns = lines[head]
    table = {}
    for cells in lines[head + 2 :]:
        if len(cells) != len(columns):
            break
        table[cells[0]] = {name: int(n or 0) for name, n in zip(columns, cells, strict=True) if name in STAGES}
    first = next(
        line.strip().removeprefix("mmret run --lake L ")
        for line in DOC.read_text().splitlines()
        if line.strip().startswith("mmret run --lake L ")
    )
    return first, table


def run(lake: Path, arguments: str) -> dict:
    """The summary of `mmret run`."""
    done = subprocess.run(
        [sys.executable, "-m", "mmret", "run", "--lake", str(lake), "--json", *shlex.split(arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def written(lake: Path) -> dict[tuple[str, str], int]:
    """Which file each partition is: a partition that is computed again is another file."""
    store = Lake(lake)
    return {(t, p): store.path(t, p).stat().st_ino for t in STAGES for p in store.partitions(t)}


def change(base: Path, folder: Path, arguments: str) -> tuple[dict[str, int], dict]:
    """Partitions of each stage computed again, and the run's summary, on a copy of ``base``."""
    lake = folder / "changed"
    shutil.rmtree(lake, ignore_errors=True)
    shutil.copytree(base, lake)
    before = written(lake)
    summary = run(lake, arguments)
    after = written(lake)
    redone = [key for key, file in after.items() if before.get(key) != file]
    return {stage: sum(t == stage for t, _ in redone) for stage in STAGES}, summary


def gate() -> dict[str, float | list[float]]:
    """Two rows of the documented table, one that changes nothing and one that begins in the middle. Each number of
    partitions has to be as documented, and a run that finds nothing to do is compared with the first run by processor time."""

    def processor() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    first, table = documented()
    tried = ("--shard-size 500", "--set mine.targets_per_query=2")
    wrong, nothing = 0, []
    with tempfile.TemporaryDirectory() as folder:
        base, started = Path(folder) / "lake", processor()
        run(base, first)
        whole = processor() - started
        for arguments in tried:
            found, _ = change(base, Path(folder), arguments)
            wrong += sum(n != table[arguments][stage] for stage, n in found.items() if stage in table[arguments])
        for _ in range(3):
            started = processor()
            run(base, "")
            nothing.append((processor() - started) / whole)
    return {"stages_not_as_documented": wrong, "changes": len(tried), "nothing_to_do_over_first_run_processor": nothing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lake", type=Path, help="folder of the first lake, kept for the next time")
    options = parser.parse_args()
    first, table = documented()
    with tempfile.TemporaryDirectory() as folder:
        base = options.lake or Path(folder) / "lake"
        whole = run(base, first)["total_seconds"]
        print(f"first run {whole:.1f} s")
        for arguments, said in table.items():
            found, summary = change(base, Path(folder), arguments)
            print(
                f"{arguments}: {summary['total_seconds']:.1f} s, {summary['total_seconds'] / whole:.2f} of the first run; "
                f"{json.dumps({k: n for k, n in found.items() if n})}{'' if found == said else ' (docs differ)'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
