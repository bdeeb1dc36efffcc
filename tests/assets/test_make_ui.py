"""`make ui` from a checkout, used through its GraphQL API as a browser would: backfill, a watched folder, a schedule, Ctrl-C.

Ten to twenty minutes on two cores, most of it the daemon's ticks and the start of runs.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmret.freshness.survey import survey
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.settings import parse_override
from tests.assets.pictures import drop
from tests.assets.server import UI, free_port, until
from tests.small_runs import TINY

UP_TO_TRIPLETS = [
    "images",
    "rejects",
    "towers",
    "clip_image",
    "dino_image",
    "caption",
    "candidates",
    "duplicates",
    "leaks",
    "neighbours",
    "pairs",
    "descriptions",
    "instructions",
    "triplets",
]
SHARDS = [f"shard-{i:05d}" for i in range(9)]
SETTINGS = dict(parse_override(s) for s in [*TINY, "automation.settle_seconds=5", "automation.new_pairs=100000"])


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_backfill_watched_folder_schedule_and_one_ctrl_c(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed: the test starts the UI as the README does")
    folder, store, port = tmp_path / "landing", Lake(tmp_path / "lake"), free_port()
    drop(folder, 0, 320)
    # -o: the test does not install; the environment it runs in is the one that `make setup` made
    ui = UI(
        ["make", "-o", ".venv/.installed", "ui", f"LAKE={store.root}", f"PORT={port}"],
        port,
        tmp_path / "ui.log",
        {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")},
    )
    try:
        ui.wait_until_up()
        seal_eight_shards(ui, store, folder)
        backfill_all_stages(ui, store)
        new_shard_flows_by_itself(ui, store, folder)
        schedule_launches_only_what_is_missing(ui, store)
        command_fills_a_gap(ui, store)
        assert ui.ctrl_c() in (0, 2, 130, -2), ui.log.read_text()[-2000:]
        assert until("every process is gone", lambda: not ui.left_over(), 20), ui.left_over()
    finally:
        ui.kill()


def seal_eight_shards(ui: UI, store: Lake, folder: Path) -> None:
    run = ui.launch_job(
        "seal_corpus",
        {"ops": {"corpus_manifest": {"config": {"sources": [str(folder)], "shard_size": 40, "settings": SETTINGS}}}},
    )
    assert ui.finish(run) == "SUCCESS"
    assert store.shards() == SHARDS[:8]


def backfill_all_stages(ui: UI, store: Lake) -> None:
    backfill = ui.backfill(UP_TO_TRIPLETS, SHARDS[:8])
    done = until("the backfill ends", lambda: (s := ui.backfill_status(backfill)) not in ("REQUESTED", "FAILING") and s, 900, 3)
    assert done == "COMPLETED_SUCCESS"
    assert store.partitions("triplets") == SHARDS[:8]
    assert all(s.state == "current" for s in up_to_triplets(store))


def new_shard_flows_by_itself(ui: UI, store: Lake, folder: Path) -> None:
    old = {t: store.facts(t, SHARDS[0]) for t in ("images", "clip_image", "candidates")}
    for sensor in ("new_pictures", "missing_or_stale_shards", "train_on_new_pairs"):
        ui.start_sensor(sensor)
    drop(folder, 320, 360)
    until("the new shard's triplets", lambda: store.facts("triplets", SHARDS[8]), 900, 3)
    until("older shards have met the new one", lambda: all(s.state == "current" for s in up_to_triplets(store)), 600, 3)
    assert store.facts("images", SHARDS[8]).rows == 40
    assert {t: store.facts(t, SHARDS[0]) for t in old} == old, "what was sealed is not computed again"
    assert not store.partitions("checkpoints"), "training waits for automation.new_pairs"
    for sensor in ("new_pictures", "missing_or_stale_shards", "train_on_new_pairs"):
        ui.stop_sensor(sensor)


def schedule_launches_only_what_is_missing(ui: UI, store: Lake) -> None:
    assert ui.tick_schedule("backfill_missing_and_stale") == []
    digest = store.facts("triplets", SHARDS[3]).digest
    store.path("triplets", SHARDS[3]).unlink()
    (request,) = ui.tick_schedule("backfill_missing_and_stale")
    tags = {t["key"]: t["value"] for t in request["tags"]}
    assert [a["path"] for a in request["assetSelection"]] == [["triplets"]]
    assert tags["dagster/asset_partition_range_start"] == tags["dagster/asset_partition_range_end"] == SHARDS[3]
    assert tags["mmret/because"] == "not computed yet"
    assert ui.finish(ui.launch_job("stale_shards", {}, request["tags"], ["triplets"])) == "SUCCESS"
    assert store.facts("triplets", SHARDS[3]).digest == digest
    assert ui.tick_schedule("backfill_missing_and_stale") == []


def command_fills_a_gap(ui: UI, store: Lake) -> None:
    store.path("triplets", SHARDS[5]).unlink()
    done = subprocess.run(
        [sys.executable, "-m", "mmret", "backfill", "--lake", str(store.root), "--stage", "triplets", "--wait", "--url", ui.url],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0 and "1 of 1 partitions" in done.stderr, done.stderr
    assert store.facts("triplets", SHARDS[5])


def up_to_triplets(store: Lake) -> list:
    return [s for s in survey(store, resolve(store)[0]) if s.table not in ("checkpoints", "evaluations")]
