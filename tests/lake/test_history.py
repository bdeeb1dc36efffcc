"""History: every version of a partition can be read again, and a state is exact whatever is written later."""

import os
import threading
import time
from datetime import datetime

import pyarrow as pa
import pytest

from mmret.errors import UserError
from mmret.lake import Lake, history
from mmret.schemas import CHECKPOINTS, TRIPLETS


def rows(*ids: str) -> pa.Table:
    return pa.Table.from_pylist([{"pair_id": i, "split": "train"} for i in ids], TRIPLETS)


def write(lake: Lake, shard: str, *ids: str) -> None:
    lake.write("triplets", shard, rows(*ids), "x")


def ids(state: history.State) -> list[str]:
    return state.read("triplets", ["pair_id"])["pair_id"].to_pylist()


def test_a_replaced_partition_can_be_read_as_of_any_time_since(tmp_path):
    lake, times = Lake(tmp_path), []
    for n in range(3):
        write(lake, "shard-00000", *(str(i) for i in range(n + 1)))
        times.append(time.time_ns())
    write(lake, "shard-00001", "later")
    for n, when in enumerate(times):
        assert ids(history.state_at(lake, when, "t")) == [str(i) for i in range(n + 1)]
    assert ids(history.current_state(lake)) == ["0", "1", "2", "later"]
    local = datetime.fromtimestamp(times[0] / 1e9).isoformat()
    assert ids(history.as_of(lake, local)) == ["0"]
    with pytest.raises(UserError, match="no tables at"):
        history.as_of(lake, "2001-01-01")


def test_a_version_costs_no_space_until_it_is_replaced(tmp_path):
    lake = Lake(tmp_path)
    write(lake, "shard-00000", "a")
    kept = history.versions(lake, "triplets", "shard-00000")
    assert [(lake.root / v.key).stat().st_ino for v in kept] == [lake.path("triplets", "shard-00000").stat().st_ino]
    assert (
        history.current_version(lake, "triplets", "shard-00000") == kept[0].key
        and len(os.listdir((lake.root / kept[0].key).parent)) == 1
    )


def test_the_state_of_a_checkpoint_outlives_what_is_written_later(tmp_path):
    lake = Lake(tmp_path)
    write(lake, "shard-00000", "a", "b")
    state = history.record_state(lake, history.current_state(lake))
    lake.write("checkpoints", "demo", CHECKPOINTS.empty_table(), "x", state=state)
    write(lake, "shard-00000", "c")
    write(lake, "shard-00001", "d")
    for name in ("demo", state):
        assert ids(history.as_of(lake, name)) == ["a", "b"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / history.STATE_FILE).write_text(f'{{"state": "{state}"}}')
    assert ids(history.as_of(lake, str(tmp_path / "out"))) == ["a", "b"]
    for version in history.versions(lake, "triplets", "shard-00000")[:1]:
        (lake.root / version.key).unlink()
    with pytest.raises(UserError, match="triplets of shard-00000"):
        history.as_of(lake, "demo")


def test_a_run_is_asked_for_by_its_name_and_what_is_not_known_says_what_is(tmp_path):
    lake = Lake(tmp_path)
    write(lake, "shard-00000", "a")
    history.log_run(lake, "run-1", 0, {"triplets": 1})
    write(lake, "shard-00000", "b")
    with open((lake.root / "history") / "runs.jsonl", "a") as log:
        log.write('{"run": "run-2", "sta')
    assert ids(history.as_of(lake, "run-1")) == ["a"]
    with pytest.raises(UserError, match="there are run-1"):
        history.as_of(lake, "run-2")


def test_partitions_of_before_versions_were_kept_are_pinned_too_and_a_damaged_one_is_replaced(tmp_path):
    lake = Lake(tmp_path)
    write(lake, "shard-00000", "a")
    for version in history.versions(lake, "triplets", "shard-00000"):
        (lake.root / version.key).unlink()
    assert ids(history.current_state(lake)) == ["a"]
    for version in history.versions(lake, "triplets", "shard-00000"):
        (lake.root / version.key).unlink()
    os.truncate(lake.path("triplets", "shard-00000"), 20)
    write(lake, "shard-00000", "b")
    assert ids(history.current_state(lake)) == ["b"]


def test_a_file_system_without_hard_links_copies_what_is_pinned(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    lake = Lake(tmp_path)
    write(lake, "shard-00000", "a")
    assert history.versions(lake, "triplets", "shard-00000") == []
    state = history.current_state(lake)
    write(lake, "shard-00000", "b")
    assert ids(state) == ["a"] and not [p for p in tmp_path.rglob("*.tmp")]


def test_a_state_pinned_while_partitions_are_rewritten_is_whole(tmp_path):
    lake, stop = Lake(tmp_path), threading.Event()
    write(lake, "shard-00000", *(["0"] * 5))

    def rewrite():
        n = 0
        while not stop.is_set():
            n += 1
            write(lake, "shard-00000", *([str(n)] * 5))

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        seen = set()
        for _ in range(30):
            found = ids(history.current_state(lake, ("triplets",)))
            assert len(found) == 5 and len(set(found)) == 1
            seen.add(found[0])
    finally:
        stop.set()
        writer.join()
    assert len(seen) > 1, "the writer was not at work, so the test would show nothing"
