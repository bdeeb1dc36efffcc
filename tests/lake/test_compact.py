"""Compaction: the tables stay what they were, readers are not disturbed, and what a checkpoint was trained on is never dropped."""

import json
import os
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from mmret.cli import app
from mmret.errors import UserError
from mmret.lake import Lake, history
from mmret.lake.compact import compact
from mmret.schemas import CHECKPOINTS, CORPUS_MANIFEST, NEIGHBOURS, TRIPLETS
from mmret.settings import HistorySettings
from mmret.warehouse import connect, refresh_catalogue
from mmret.warehouse.catalogue import attach, catalogue_path
from tests.storage.stores import in_memory

DAY = 86_400 * 10**9
SETTINGS = HistorySettings(days=7, bulky_days=1)


def write(lake: Lake, *ids: str, shard: str = "shard-00000") -> None:
    lake.write("triplets", shard, pa.Table.from_pylist([{"pair_id": i} for i in ids], TRIPLETS), "x")


def ids(lake) -> list[str]:
    return lake.read("triplets", columns=["pair_id"])["pair_id"].to_pylist()


def kept(lake: Lake, table: str = "triplets") -> int:
    return sum(len(history.versions(lake, table, p)) for p in lake.partitions(table))


def test_replaced_versions_go_after_their_time_and_the_current_ones_stay(tmp_path):
    lake = Lake(tmp_path)
    for n in range(5):
        write(lake, str(n))
    lake.write("neighbours", "shard-00000", NEIGHBOURS.empty_table(), "x")
    lake.write("neighbours", "shard-00000", NEIGHBOURS.empty_table(), "y")
    now = time.time_ns()
    assert compact(lake, SETTINGS, now, refresh_catalogue).versions_dropped == 0
    assert compact(lake, SETTINGS, now + 2 * DAY, refresh_catalogue).versions_dropped == 1 and kept(lake, "neighbours") == 1
    report = compact(lake, SETTINGS, now + 8 * DAY, refresh_catalogue)
    assert report.versions_dropped == 4 and report.bytes_freed > 0 and kept(lake) == 1 and ids(lake) == ["4"]
    assert compact(lake, SETTINGS, now + 100 * DAY, refresh_catalogue).versions_dropped == 0
    before = history.versions(lake, "triplets", "shard-00000")[0].written - 1
    with pytest.raises(UserError, match="have been dropped"):
        history.state_at(lake, before, "then")
    assert ids(history.state_at(lake, now, "then")) == ["4"]


@pytest.mark.parametrize("address", ["lake", "s3://tests/lake"])
def test_versions_of_a_partition_that_was_removed_go_after_their_time(tmp_path, monkeypatch, address):
    if address == "lake":
        address = tmp_path / address
    else:
        in_memory(monkeypatch, tmp_path)
    lake = Lake(address)
    write(lake, "a")
    write(lake, "b", shard="shard-00001")
    lake.remove("triplets", "shard-00001")
    now = time.time_ns()
    assert [compact(lake, SETTINGS, now + days * DAY, lambda lake: None).versions_dropped for days in (0, 8, 8)] == [0, 1, 0]
    assert ids(lake) == ["a"] and not history.versions(lake, "triplets", "shard-00001")


def test_what_a_checkpoint_was_trained_on_stays_as_long_as_the_checkpoint(tmp_path):
    lake = Lake(tmp_path)
    write(lake, "a")
    state = history.record_state(lake, history.current_state(lake))
    lake.write("checkpoints", "demo", CHECKPOINTS.empty_table(), "x", state=state)
    for n in range(3):
        write(lake, str(n))
    far = time.time_ns() + 100 * DAY
    compact(lake, SETTINGS, far, refresh_catalogue)
    assert kept(lake) == 2 and ids(history.as_of(lake, "demo")) == ["a"]
    lake.write("checkpoints", "demo", CHECKPOINTS.empty_table(), "y", state=history.record_state(lake, history.current_state(lake)))
    report = compact(lake, SETTINGS, far, refresh_catalogue)
    assert kept(lake) == 1 and report.states_dropped == 1 and ids(history.as_of(lake, "demo")) == ["2"]


def test_a_state_in_use_is_held_and_that_of_a_dead_process_is_not(tmp_path):
    lake = Lake(tmp_path)
    write(lake, "a")
    state = history.record_state(lake, history.current_state(lake))
    write(lake, "b")
    far = time.time_ns() + 100 * DAY
    with history.protect_state(lake, state):
        compact(lake, SETTINGS, far, refresh_catalogue)
        assert ids(history.as_of(lake, state)) == ["a"]
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ((lake.root / "history") / "states" / f"{state}.{dead.pid}-0.held").touch()
    compact(lake, SETTINGS, far, refresh_catalogue)
    assert kept(lake) == 1 and not list((lake.root / "history" / "states").iterdir())


def test_decisions_are_kept_for_a_checkpoint_alone_and_do_not_end_time_travel(tmp_path):
    from mmret.schemas import DECISIONS

    lake = Lake(tmp_path)
    write(lake, "a")
    lake.write("decisions", "me", DECISIONS.empty_table(), "")
    assert kept(lake, "decisions") == 0
    history.current_state(lake)
    lake.write("decisions", "me", DECISIONS.empty_table(), "")
    assert kept(lake, "decisions") == 1
    now = time.time_ns()
    assert compact(lake, SETTINGS, now + 100 * DAY, refresh_catalogue).versions_dropped == 1
    assert ids(history.state_at(lake, now, "then")) == ["a"]


def test_a_reader_of_an_open_connection_is_not_disturbed(tmp_path):
    lake = Lake(tmp_path)
    write(lake, "a")
    with connect(lake) as reader:
        write(lake, "b")
        compact(lake, SETTINGS, time.time_ns(), refresh_catalogue)
        assert reader.execute("SELECT pair_id FROM triplets").fetchall() == [("a",)]


def test_no_catalogue_on_disk_names_a_file_that_compaction_has_dropped(tmp_path):
    lake = Lake(tmp_path)
    lake.write("corpus_manifest", "shard-00000", CORPUS_MANIFEST.empty_table(), "x")
    write(lake, "a")
    refresh_catalogue(lake)
    write(lake, "b")
    assert compact(lake, SETTINGS, time.time_ns() + 100 * DAY, refresh_catalogue).versions_dropped == 1
    assert attach(catalogue_path(lake)).execute("SELECT pair_id FROM triplets").fetchall() == [("b",)]


def test_the_catalogue_is_refreshed_before_anything_is_dropped(tmp_path):
    lake, versions = Lake(tmp_path), []
    lake.write("corpus_manifest", "shard-00000", CORPUS_MANIFEST.empty_table(), "x")
    write(lake, "a")
    write(lake, "b")
    compact(lake, SETTINGS, time.time_ns() + 100 * DAY, lambda lake: versions.append(kept(lake)))
    assert versions == [2] and kept(lake) == 1


def test_lance_files_are_merged_beside_readers_and_hold_the_same_rows(tmp_path):
    lake, done, problems, counts = Lake(tmp_path), threading.Event(), [], set()
    table = lake.lance("t", pa.schema([("x", pa.int64()), ("data", pa.large_binary())]))
    for n in range(30):
        table.add(pa.table({"x": [n], "data": pa.array([os.urandom(2000)], pa.large_binary())}))
    table.delete("x = 7")
    rows = sorted(map(str, table.to_arrow().to_pylist()))
    reader = lake.lance("t")  # opened before: it reads the versions of before

    def read():
        while not done.is_set():
            try:
                counts.add(len(reader.to_arrow()))
                counts.add(len(lake.lance("t").search().where("x >= 0").limit(None).to_arrow()))
            except Exception as error:  # noqa: BLE001 - whatever a reader would see
                problems.append(repr(error))

    thread = threading.Thread(target=read)
    thread.start()
    report = compact(lake, SETTINGS, time.time_ns(), refresh_catalogue)
    done.set()
    thread.join()
    assert not problems and counts == {29}, problems[:2]
    assert report.lance_files_merged >= 29 and report.lance_files_made == 1 and report.lance_files_dropped == 0
    assert sorted(map(str, lake.lance("t").to_arrow().to_pylist())) == rows
    dropped = compact(lake, HistorySettings(bulky_days=0), time.time_ns(), refresh_catalogue)
    assert dropped.lance_versions_dropped > 25 and sorted(map(str, lake.lance("t").to_arrow().to_pylist())) == rows
    assert len(list((tmp_path / "lance" / "t.lance" / "data").iterdir())) == 1
    assert compact(lake, SETTINGS, time.time_ns(), refresh_catalogue).counts() == {name: 0 for name in dropped.counts()}


def test_tables_that_a_writer_works_on_are_left_alone(tmp_path):
    lake = Lake(tmp_path)
    table = lake.lance("t", pa.schema([("x", pa.int64())]))
    for n in range(4):
        table.add(pa.table({"x": [n]}))
    assert compact(lake, SETTINGS, time.time_ns(), refresh_catalogue, lance=False).lance_files_merged == 0


def test_the_command_does_it_and_is_safe_to_repeat(small_lake, tmp_path):
    import shutil

    lake = Lake(shutil.copytree(small_lake[0], tmp_path / "lake"))
    before = {t: lake.read(t) for t in ("triplets", "pairs", "images")}
    pictures = lake.lance("images").count_rows()

    def call() -> dict:
        done = CliRunner().invoke(app, ["compact", "--lake", str(lake.root), "--json"], catch_exceptions=False)
        return json.loads(done.stdout)

    call()
    assert call() == {}
    assert all(lake.read(t).equals(rows) for t, rows in before.items()) and lake.lance("images").count_rows() == pictures
    assert ids(history.as_of(lake, "demo")) == before["triplets"]["pair_id"].to_pylist()
