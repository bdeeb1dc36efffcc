"""Dagster's own cost: `mmret run` over shards of the built-in corpus against the same stages called as plain functions.

    python bench/orchestration.py [--shards 8] [--images 1000] [--rounds 2]

Both sides start from copies of one lake that is sealed and has its towers, run in processes of their own, in turn, and end in equal
tables (asserted). Both write every stage up to triplets; nothing is trained. Wall time and processor time of the whole process,
imports included; the cost per step is the difference over the steps run. On shared cores look at the processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmret.lake.store import Lake  # noqa: E402
from mmret.stages import FINGERPRINTED_STAGES, assets_of, names_of  # noqa: E402

STAGES = [name for name, stage in FINGERPRINTED_STAGES.items() if stage.partitions != "recipe"]
PLAIN = """
import sys
from mmret.freshness.fingerprints import fingerprint_now
from mmret.lake.configuration import resolve
from mmret.lake import Lake
from mmret.annotate.backends.load import load_annotators
from mmret.annotate.quality.measure import measure_shard
from mmret.annotate.stage import describe_shard, instruct_shard
from mmret.assemble.stage import assemble_shard
from mmret.leaks.stage import write_leaks
from mmret.encode.protocol import load_encoder
from mmret.encode.stage import encode_shard
from mmret.ingest.stage import ingest_shard
from mmret.mine.stage import mine_candidates, mine_neighbours, mine_pairs
from mmret.schemas import SIGNALS

lake = Lake(sys.argv[1])
settings = resolve(lake)[0]
inputs = lambda table, shard: fingerprint_now(lake, settings, table, shard)
shards = lake.shards()
for s in shards:
    ingest_shard(lake, s, settings.ingest, inputs("images", s))
encoders = {g: load_encoder(settings.encoders[g], g, lake.root) for g in SIGNALS}
for s in shards:
    for g in SIGNALS:
        encode_shard(lake, s, g, settings.encoders[g], inputs(g, s), encoders[g])
    mine_candidates(lake, s, settings.mine, inputs("candidates", s), encoders.get)
write_leaks(lake, settings, inputs("leaks", "all"))
annotators = load_annotators(settings.annotate)
for s in shards:
    mine_neighbours(lake, s, settings.mine, inputs("neighbours", s))
    mine_pairs(lake, s, settings.mine, inputs("pairs", s))
    describe_shard(lake, s, annotators["descriptions"], settings.annotate, inputs("descriptions", s))
    instruct_shard(lake, s, annotators["instructions"], settings.annotate, inputs("instructions", s))
    assemble_shard(lake, s, settings.evaluate, inputs("triplets", s),
                   lambda rows: measure_shard(lake, s, rows, settings, lambda: encoders["caption"]))
"""


ENV = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "DAGSTER_HOME", "MMRET_LAKE")} | {
    "PYTHONPYCACHEPREFIX": os.path.join(tempfile.gettempdir(), "mmret-bench-pyc")
}
"""Compiled modules are kept, as in a user's shell, whatever the shell this runs in; the first run of all fills them."""


TINY = (
    "mine.k=10",
    "towers={image_size: 32, width: 32, layers: 1, heads: 2, projection: 16, epochs: 2, dino_epochs: 1, batch_size: 64,"
    " min_steps: 10, vocabulary: 600}",
)


def prepare(lake: Path, shards: int, images: int, settings: tuple[str, ...] = ()) -> None:
    """A lake with its shards sealed and its towers trained, and nothing else."""
    command = [
        sys.executable,
        "-m",
        "mmret",
        "run",
        "--lake",
        str(lake),
        "--images",
        f"shapes:{shards * images}?seed=0",
        "--shard-size",
        str(images),
        "--set",
        "train=[]",
        "--set",
        "towers.max_steps=50",
        *(part for each in settings for part in ("--set", each)),
    ]
    subprocess.run(command, check=True, cwd=ROOT, stderr=subprocess.DEVNULL, env=ENV)
    for table in (*assets_of(STAGES), "inputs", "answers", "lance"):
        if table != "towers":
            shutil.rmtree(lake / table, ignore_errors=True)
    shutil.rmtree(lake / ".dagster", ignore_errors=True)


def timed(command: list[str]) -> tuple[float, float]:
    """(wall, processor) seconds of ``command``, its children included."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=ENV)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(folder: Path, shards: int, images: int, rounds: int, settings: tuple[str, ...] = ()) -> dict[str, list]:
    """(wall, processor) seconds of both sides, in turns. Leaves the two lakes in ``folder``."""
    base = folder / "base"
    prepare(base, shards, images, settings)
    sides = {
        "plain": lambda lake: [sys.executable, "-c", PLAIN, str(lake)],
        "dagster": lambda lake: [sys.executable, "-m", "mmret", "run", "--lake", str(lake)],
    }
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for round_ in range(rounds):
        for side in sorted(sides, reverse=bool(round_ % 2)):
            lake = folder / side
            shutil.rmtree(lake, ignore_errors=True)
            shutil.copytree(base, lake)
            times[side].append(timed(sides[side](lake)))
            print(side, *(f"{t:.1f}" for t in times[side][-1]), file=sys.stderr, flush=True)
    return times


def different_tables(folder: Path) -> list[str]:
    """Tables of the two lakes whose partitions do not have the same content."""

    def digests(side: str, table: str) -> list[str]:
        lake = Lake(folder / side)
        return [lake.facts(table, p).digest for p in lake.partitions(table)]

    return [table for table in STAGES if digests("plain", table) != digests("dagster", table)]


def gate() -> dict[str, float | list[float]]:
    """`mmret run` over plain functions on small shards, where start and bookkeeping weigh most; and what a second run computes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        times = compare(folder, 3, 60, 2, TINY)
        again = [sys.executable, "-m", "mmret", "run", "--lake", str(folder / "dagster"), "--json"]
        done = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, env=ENV, check=True)
        computed = json.loads(done.stdout.splitlines()[-1])["computed"]
        differ = different_tables(folder)
    pairs = list(zip(times["dagster"], times["plain"], strict=True))
    return {
        "tables_that_differ": len(differ),
        "rows_computed_again": sum(computed.values()),
        "dagster_over_plain_wall": [ours[0] / plain[0] for ours, plain in pairs],
        "dagster_over_plain_processor": [ours[1] / plain[1] for ours, plain in pairs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--images", type=int, default=1000, help="per shard")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        times = compare(Path(folder), options.shards, options.images, options.rounds)
        assert not (differ := different_tables(Path(folder))), differ
        wall, cpu = ([statistics.median(t[i] for t in times[side]) for side in ("plain", "dagster")] for i in (0, 1))
        steps = len(names_of("shard")) * options.shards + 1
        print(
            json.dumps(
                {
                    "wall_ratio": round(wall[1] / wall[0], 3),
                    "cpu_ratio": round(cpu[1] / cpu[0], 3),
                    "plain_wall_s": round(wall[0], 1),
                    "dagster_wall_s": round(wall[1], 1),
                    "plain_cpu_s": round(cpu[0], 1),
                    "dagster_cpu_s": round(cpu[1], 1),
                    "steps": steps,
                    "cpu_ms_per_step": round(1000 * (cpu[1] - cpu[0]) / steps),
                }
            )
        )


if __name__ == "__main__":
    main()
