"""A lake of 200 shards: how long `mmret status` takes, and how long the asset page of Dagster's UI takes to show its partitions.

    python bench/shards.py [--shards 200] [--rounds 3]
    python bench/shards.py --page            # also the page, in Chromium: the real webserver over a history of every partition
    python bench/shards.py --lake DIR --page   # an existing lake with its history

The lake is written by the lake's own writer: four made-up rows a partition, each with the fingerprint of what it reads, as if it
had been computed; a person's lake has larger files and the same number of footers. Its history has one materialisation for each
partition, with the metadata that a run leaves. Everything being current is asserted. Aims: 2 s and 3 s on idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmret.freshness.fingerprints import inputs_of  # noqa: E402
from mmret.freshness.survey import Snapshot, partitions_of, survey  # noqa: E402
from mmret.lake import Lake  # noqa: E402
from mmret.lake.configuration import resolve  # noqa: E402
from mmret.lake.inputs import LINKED, record_inputs  # noqa: E402
from mmret.schemas import TABLES  # noqa: E402
from mmret.stages import FINGERPRINTED_STAGES, STAGES  # noqa: E402

ROWS = 4
COMPUTED = [name for name, stage in FINGERPRINTED_STAGES.items() if stage.partitions != "recipe"]
PAGE = "candidates"
"""The asset whose page is opened: one that has a partition for each shard."""


def rows(table: str, shard: str) -> pa.Table:
    """``ROWS`` rows of ``table``: ids that differ, all else null."""
    ids = [f"{abs(hash((shard, n))):032x}"[:32] for n in range(ROWS)]
    known = {"image_id": ids, "pair_id": ids, "query_id": ids, "target_id": ids, "shard": [shard] * ROWS}
    columns = [pa.array(known[f.name], f.type) if f.name in known else pa.nulls(ROWS, f.type) for f in TABLES[table]]
    return pa.table(columns, schema=TABLES[table])


def make(root: Path, shards: int) -> Lake:
    """A lake in which every partition of every stage is current."""
    lake = Lake(root)
    lake.write_configuration({"profile": "demo", "sources": ["shapes:800?seed=0"], "overrides": {"train": []}})
    names = [f"shard-{n:05d}" for n in range(shards)]
    for name in names:
        lake.write("corpus_manifest", name, rows("corpus_manifest", name), "made")
    profile = resolve(lake)[0]
    for stage in COMPUTED:
        before = Snapshot(lake.root)  # a stage reads what earlier ones wrote
        for partition in partitions_of(lake, profile, stage):
            inputs = inputs_of(before, profile, stage, partition)
            record_inputs(lake, inputs)
            for table in STAGES[stage].tables:
                lake.write(table, partition, rows(table, partition), inputs.fingerprint, **{LINKED: names})
    return lake


def remember(lake: Lake) -> None:
    """Write a history in which every partition was materialised, as a run leaves it."""
    os.environ["MMRET_LAKE"] = str(lake.root)
    os.environ.pop("DAGSTER_HOME", None)
    import dagster as dg

    from assets.display.metadata import describe
    from assets.runner.run import dagster_instance

    with dagster_instance(lake) as instance:
        instance.add_dynamic_partitions("corpus_shards", lake.shards())
        for table in ("corpus_manifest", *COMPUTED):
            whole = STAGES[table].partitions == "whole" and table != "corpus_manifest"
            for partition in lake.partitions(table):
                facts = lake.facts(table, partition)
                shown = describe(lake, table, partition, facts, facts.rows)
                where = None if whole or table == "corpus_manifest" else partition
                instance.report_runless_asset_event(
                    dg.AssetMaterialization(table, partition=where, metadata=shown, tags={"dagster/data_version": facts.digest})
                )


def status(lake: Lake) -> tuple[float, float]:
    """(wall, processor) seconds of `mmret status`, which has to find everything current."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    line = [sys.executable, "-m", "mmret", "status", "--lake", str(lake.root)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and "everything is current" in done.stdout, done.stdout + done.stderr
    return time.perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def webserver(lake: Lake) -> Iterator[str]:
    """Address of Dagster's webserver over the lake's history."""
    from tests.assets.server import UI, free_port

    port, log = free_port(), lake.root / ".webserver.log"
    home = os.environ.get("DAGSTER_HOME") or str(lake.root / ".dagster")
    program = Path(sys.executable).with_name("dagster-webserver")
    ui = UI(
        [str(program), "-w", str(ROOT / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(port)],
        port,
        log,
        {"DAGSTER_HOME": home, "MMRET_LAKE": str(lake.root), "PYTHONWARNINGS": "ignore"},
    )
    try:
        ui.wait_until_up(600)
        yield ui.url
    finally:
        ui.kill()


def page(lake: Lake, visits: int, picture: Path | None = None) -> list[float]:
    """Seconds from the address of the asset's page until its partitions are listed with their state, on each visit."""
    from tests.browser import Watched, chromium

    seconds = []
    with webserver(lake) as address, chromium() as browser:
        for _ in range(visits):
            watched = Watched(browser, address).page
            started = time.perf_counter()
            watched.goto(f"{address}/assets/{PAGE}?view=partitions")
            for shown in (re.compile(r"^shard-\d{5}$"), re.compile("Materialized")):
                watched.get_by_text(shown).first.wait_for(timeout=120_000)
            seconds.append(time.perf_counter() - started)
            if picture:
                watched.screenshot(path=str(picture))
            watched.close()
    return seconds


def gate() -> dict[str, float | list[float]]:
    """Processor time of a survey over that of reading every footer once and nothing else, in a lake of 40 shards."""
    with tempfile.TemporaryDirectory() as folder:
        lake = make(Path(folder), 40)
        profile = resolve(lake)[0]
        files = [lake.path(t, p) for s in ("corpus_manifest", *COMPUTED) for t in STAGES[s].tables for p in lake.partitions(t)]
        costs = []
        for turn in range(8):
            started = time.process_time()
            states = [s.state for s in survey(lake, profile)]
            own, started = time.process_time() - started, time.process_time()
            for file in files:
                pq.read_metadata(file)
            if turn:  # the first also warms up
                costs.append(own / (time.process_time() - started))
    return {
        "partitions": len(states),
        "not_current": sum(state != "current" for state in states),
        "survey_over_footers_processor": costs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, help="an existing lake, or a folder to make one in")
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="also the asset page, in Chromium")
    parser.add_argument("--picture", type=Path, help="where to keep a picture of the page")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = given.lake or Path(folder) / "lake"
        lake = Lake(root) if Lake(root).shards() else make(root, given.shards)
        times = [status(lake) for _ in range(given.rounds)]
        wall, processor = (round(statistics.median(column), 2) for column in zip(*times, strict=True))
        print(json.dumps({"shards": len(lake.shards()), "status_wall_s": wall, "status_processor_s": processor}), flush=True)
        if given.page:
            if not (lake.root / ".dagster").exists():
                remember(lake)
            found = [round(s, 2) for s in page(lake, given.rounds, given.picture)]
            print(json.dumps({"page": PAGE, "visits_s": found, "load": round(os.getloadavg()[0], 1)}))


if __name__ == "__main__":
    main()
