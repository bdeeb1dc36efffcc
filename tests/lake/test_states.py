"""How a state of a lake is named, what it holds at its very moment, and what is said of one that is gone."""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from mmret.errors import UserError
from mmret.lake import Lake, history
from mmret.lake.as_of import LakeAsOf, open_as_of
from mmret.lake.compact import Report, _droppable, compact, needs_merging, summary
from mmret.schemas import CHECKPOINTS, DECISIONS, NEIGHBOURS, TABLES, TRIPLETS
from mmret.settings import HistorySettings

DAY = 86_400 * 10**9
SHARD = "shard-00000"


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(tmp_path / "lake")


def write(lake: Lake, *ids: str, shard: str = SHARD) -> int:
    """Writes triplets; returns when (ns)."""
    return lake.write("triplets", shard, pa.Table.from_pylist([{"pair_id": i} for i in ids], TRIPLETS), "x").written


def ids(source) -> list[str]:
    return source.read("triplets", columns=["pair_id"])["pair_id"].to_pylist()


def test_a_version_counts_from_the_very_moment_it_was_written(lake):
    first, second = write(lake, "a"), write(lake, "b")
    assert ids(history.state_at(lake, second, "t")) == ["b"] and ids(history.state_at(lake, second - 1, "t")) == ["a"]
    assert ids(history.state_at(lake, first, "t")) == ["a"]
    with pytest.raises(UserError, match=r"--as-of early: .* had no tables at 20\d\d"):
        history.state_at(lake, first - 1, "early")


def test_dropped_versions_end_time_travel_from_the_moment_they_were_replaced(lake):
    write(lake, "a")
    second = write(lake, "b")
    (lake.root / "history" / "cleaned").write_text(json.dumps({"kept": second, "bulky": 0}))
    assert ids(history.state_at(lake, second, "t")) == ["b"]
    with pytest.raises(UserError, match="versions replaced before .* have been dropped"):
        history.state_at(lake, second - 1, "t")
    assert history.dropped_until(lake) == {"kept": second, "bulky": 0}


def test_bulky_tables_are_left_out_of_a_state_before_their_versions_were_dropped(lake):
    when = write(lake, "a")
    lake.write("neighbours", SHARD, NEIGHBOURS.empty_table(), "x")
    now = time.time_ns()
    assert {"neighbours", "candidates", "triplets"} <= history.state_at(lake, now, "t").files.keys()
    (lake.root / "history" / "cleaned").write_text(json.dumps({"bulky": now}))
    assert "neighbours" in history.state_at(lake, now, "t").files
    assert "neighbours" not in history.state_at(lake, when, "t").files and ids(history.state_at(lake, when, "t")) == ["a"]
    assert "decisions" not in history.state_at(lake, now, "t").files, "their rows have times of their own"


def test_a_state_pins_the_lineage_of_triplets_and_no_bulky_table_nor_results(lake):
    write(lake, "a")
    for table in ("neighbours", "checkpoints", "decisions"):
        lake.write(table, "p", TABLES[table].empty_table(), "x")
    files = history.current_state(lake).files
    assert set(files) == set(TABLES) - {"candidates", "neighbours", "checkpoints", "evaluations", "teacher_scores", "verdicts"}
    assert files["decisions"] and history.versions(lake, "decisions", "p")
    assert [v.digest for v in history.versions(lake, "triplets", SHARD)] == [lake.facts("triplets", SHARD).digest]


def test_a_state_has_one_name_for_one_content(lake):
    write(lake, "a")
    one = history.record_state(lake, history.current_state(lake))
    assert history.record_state(lake, history.current_state(lake)) == one and len(one) == 16
    write(lake, "b")
    assert history.record_state(lake, history.current_state(lake)) != one
    write(lake, "a")
    assert history.record_state(lake, history.current_state(lake)) == one
    assert history.read_state(lake, one)["triplets"] == {SHARD: lake.facts("triplets", SHARD).digest}
    assert ids(history.state_by_id(lake, one, "x")) == ["a"] and history.state_by_id(lake, one, "x").name == "x"


def test_what_is_gone_is_named(lake):
    write(lake, "a")
    state = history.record_state(lake, history.current_state(lake))
    with pytest.raises(UserError, match="no recorded state 123: the checkpoint is of another lake"):
        history.read_state(lake, "123")
    write(lake, "b")
    lake.storage.delete([history.versions(lake, "triplets", SHARD)[0].key])
    with pytest.raises(UserError, match=f"demo: triplets of {SHARD} with digest .* is not in .*history any more"):
        history.state_by_id(lake, state, "demo")


def test_a_name_means_a_checkpoint_before_a_run_and_of_runs_the_last(lake):
    write(lake, "a")
    history.log_run(lake, "run-1", 1, {"triplets": 1})
    write(lake, "b")
    history.log_run(lake, "run-1", 2, {"triplets": 1})
    write(lake, "c")
    assert ids(history.as_of(lake, "run-1")) == ["b"]
    found = history.runs(lake)
    assert [r["started"] for r in found] == [1, 2] and found[0]["computed"] == {"triplets": 1}
    assert found[0]["ended"] < found[1]["ended"] <= time.time_ns()
    state = history.record_state(lake, history.current_state(lake))
    lake.write("checkpoints", "run-1", CHECKPOINTS.empty_table(), "x", state=state)
    write(lake, "d")
    assert ids(history.as_of(lake, "run-1")) == ["c"]
    with pytest.raises(UserError, match=r"--as-of 'nothing': neither .* \(there are run-1, run-1, run-1\), nor a time such as 20"):
        history.as_of(lake, "nothing")


def test_a_line_cut_by_a_crash_hides_no_other_run(lake):
    for n in range(3):
        history.log_run(lake, f"run-{n}", n, {})
    log = (lake.root / "history") / "runs.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], lines[1][:20], lines[2], ""]))
    assert [r["run"] for r in history.runs(lake)] == ["run-0", "run-2"]
    assert history.runs(Lake(lake.root / "other")) == []


def test_a_time_with_a_zone_is_taken_by_its_zone(lake):
    write(lake, "a")
    now = datetime.now(UTC)
    assert ids(history.as_of(lake, now.isoformat())) == ["a"]
    assert history.iso_time(0) == "1970-01-01T00:00:00.000+00:00"
    assert history.iso_time(1_500_000_000) == "1970-01-01T00:00:01.500+00:00"


def test_the_state_in_use_is_told_by_its_locks(lake):
    write(lake, "a")
    state = history.record_state(lake, history.current_state(lake))
    assert history.protected_states(lake) == set()
    with history.protect_state(lake, state), history.protect_state(lake, state):
        assert history.protected_states(lake) == {state}
    mark = (lake.root / history.state_key(state)).with_name(f"{state}.of-a-killed-process.held")
    mark.touch()
    assert history.protected_states(lake) == set() and not mark.exists()


def test_a_lake_as_of_a_state_reads_its_files_and_has_the_partitions_of_then(lake):
    when = write(lake, "a")
    write(lake, "b")
    write(lake, "c", shard="shard-00001")
    then = open_as_of(lake, history.iso_time(when + 10**6))
    assert isinstance(then, LakeAsOf) and then.partitions("triplets") in ([SHARD], [SHARD, "shard-00001"])
    exact = LakeAsOf(lake, history.state_at(lake, when, "then"))
    assert ids(exact) == ["a"] and exact.partitions("triplets") == [SHARD] and exact.facts("triplets", SHARD).rows == 1
    assert exact.facts("triplets", "shard-00001") is None and exact.root == lake.root


def test_a_version_is_dropped_once_it_was_replaced_so_long_ago_and_not_at_that_very_moment(lake):
    write(lake, "a")
    second, third = write(lake, "b"), write(lake, "c")
    for before, gone in ((second, 0), (second + 1, 1), (third, 1), (third + 1, 2), (third + DAY, 2)):
        assert len(_droppable(lake, "triplets", SHARD, before, set())) == gone
    found = _droppable(lake, "triplets", SHARD, third + 1, set())
    assert [replaced for _, replaced in found] == [third, second], "the newest first, each with when it was replaced"


def test_of_versions_with_a_protected_content_the_newest_stays(lake):
    for content in ("a", "b", "a", "c"):
        write(lake, content)
    versions = history.versions(lake, "triplets", SHARD)
    protected = {versions[0].digest}
    dropped = {v.key for v, _ in _droppable(lake, "triplets", SHARD, time.time_ns(), protected)}
    assert dropped == {versions[0].key, versions[1].key}


def test_bytes_are_freed_only_of_files_that_have_no_other_name(lake):
    write(lake, "a")
    first = lake.root / history.versions(lake, "triplets", SHARD)[0].key
    write(lake, "b")
    os.link(first, lake.root / "mine.parquet")
    far = time.time_ns() + 100 * DAY
    assert compact(lake, HistorySettings(), far, lambda _: None).bytes_freed == 0 and not first.exists()
    third = lake.root / history.versions(lake, "triplets", SHARD)[-1].key
    size = third.stat().st_size
    write(lake, "c")
    assert compact(lake, HistorySettings(), far, lambda _: None).bytes_freed == size


def test_a_state_that_no_checkpoint_names_goes_after_the_days_of_the_settings(lake):
    write(lake, "a")
    state = history.record_state(lake, history.current_state(lake))
    now = (lake.root / history.state_key(state)).stat().st_mtime_ns
    settings = HistorySettings(days=7)
    assert compact(lake, settings, now + 7 * DAY - 10**9, lambda _: None).states_dropped == 0
    folder = lake.root / "checkpoints" / "demo"
    folder.mkdir(parents=True)
    (folder / history.STATE_FILE).write_text(json.dumps({"state": state}))
    assert compact(lake, settings, now + 8 * DAY, lambda _: None).states_dropped == 0, "a checkpoint in the making names it"
    (folder / history.STATE_FILE).unlink()
    assert compact(lake, settings, now + 8 * DAY, lambda _: None).states_dropped == 1


def test_what_was_dropped_is_noted_by_the_kind_of_table_and_by_when_it_was_replaced_last(lake):
    for inputs in "xyz":
        last = lake.write("neighbours", SHARD, NEIGHBOURS.empty_table(), inputs).written
    write(lake, "a")
    replaced = write(lake, "b")
    now = time.time_ns()
    compact(lake, HistorySettings(days=7, bulky_days=1), now + 2 * DAY, lambda _: None)
    assert history.dropped_until(lake) == {"kept": 0, "bulky": last}
    compact(lake, HistorySettings(days=7, bulky_days=1), now + 8 * DAY, lambda _: None)
    assert history.dropped_until(lake) == {"kept": replaced, "bulky": last}


def test_a_checkpoint_whose_state_is_gone_does_not_stop_the_compaction(lake):
    write(lake, "a")
    lake.write("checkpoints", "demo", CHECKPOINTS.empty_table(), "x", state="0" * 16)
    write(lake, "b")
    assert compact(lake, HistorySettings(), time.time_ns() + 100 * DAY, lambda _: None).versions_dropped == 1


def test_the_version_of_a_file_is_linked_once(lake, monkeypatch):
    write(lake, "a")
    write(lake, "b")
    monkeypatch.setattr(os, "link", lambda *_: pytest.fail("it has a name in history already"))
    assert history.current_version(lake, "triplets", SHARD) == history.versions(lake, "triplets", SHARD)[-1].key
    assert history.current_version(lake, "triplets", "none") is None


def test_without_hard_links_a_look_copies_nothing_unless_it_is_told_to(lake, monkeypatch):
    def refuse(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    write(lake, "a")
    assert history.current_version(lake, "triplets", SHARD) is None and not history.versions(lake, "triplets", SHARD)
    copied = history.current_version(lake, "triplets", SHARD, copy=True)
    assert copied == history.versions(lake, "triplets", SHARD)[0].key
    assert (lake.root / copied).read_bytes() == lake.path("triplets", SHARD).read_bytes()


def test_decisions_that_no_checkpoint_needs_go_without_ending_time_travel(lake):
    lake.write("decisions", "me", DECISIONS.empty_table(), "")
    history.current_state(lake)
    lake.write("decisions", "me", pa.Table.from_pylist([{"pair_id": "a", "decision": "accepted"}], DECISIONS), "")
    history.current_state(lake)
    assert compact(lake, HistorySettings(), time.time_ns() + 100 * DAY, lambda _: None).versions_dropped == 1
    assert history.dropped_until(lake) == {"kept": 0, "bulky": 0}


def test_a_table_is_merged_by_a_run_only_beyond_so_many_files(lake):
    table = lake.lance("t", pa.schema([("x", pa.int64())]))
    assert not needs_merging(lake)
    for n in range(64):
        table.add(pa.table({"x": [n]}))
    assert not needs_merging(lake), "64 files are not too many"
    table.add(pa.table({"x": [64]}))
    assert needs_merging(lake)


def test_a_summary_says_what_was_done_and_no_zeros():
    assert summary(Report()) == {} and summary(Report(versions_dropped=2, bytes_freed=5)) == {
        "versions_dropped": 2,
        "bytes_freed": 5,
    }


@pytest.mark.parametrize(
    "text", ["", "0001-01-01", "9999-12-31T23:59:59-23:00", "a\0b", "../../x", "x" * 300, "2026-13-01", "\ud800"]
)
def test_whatever_is_typed_as_a_state_is_told_apart_from_one(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nor a time such as|have been dropped|File name too long"):
        history.as_of(Lake(tmp_path), text)


def test_a_checkpoints_folder_below_the_home_folder_names_its_state_or_is_called_damaged(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / history.STATE_FILE).write_text("[]")
    with pytest.raises(UserError, match=r"c/data.state is damaged"):
        history.as_of(Lake(tmp_path / "lake"), "~/c")
