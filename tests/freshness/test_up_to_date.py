"""Whether there is anything to do is told without Dagster as a run would tell it: every kind of change sends the run its long way,
and the long way finds something to do."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmret.freshness import last_run, up_to_date
from mmret.freshness.last_run import LastRun, note_last_run, read_last_run, record_path
from mmret.freshness.up_to_date import nothing_to_do
from mmret.ingest import seal as seal_module
from mmret.ingest.stage import is_sealed, seal_corpus
from mmret.lake.configuration import resolve
from mmret.schemas import TABLES
from mmret.stages import STAGES
from tests.freshness.current_folder import Current
from tests.ingest.files import captioned, png, write


@pytest.fixture
def current(tmp_path: Path, monkeypatch) -> Current:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return Current(tmp_path)


def content(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file() and "last_runs" not in path.parts
    }


def test_a_current_lake_has_nothing_to_do_and_asking_writes_nothing(current: Current):
    before = content(current.lake.root)
    found = current.ask()
    assert found is not None and (found.partitions, found.checks) == ({}, {})
    assert found.rows_computed == {"corpus_manifest": 0, "remarks": 0} and set(found.seconds) == {"corpus_manifest"}
    assert content(current.lake.root) == before
    assert not current.has_work() and content(current.lake.root) == before


def new_file(it: Current) -> None:
    write(it.folder, {"new.png": png(99)})
    lines = (it.folder / "captions.jsonl").read_text()
    (it.folder / "captions.jsonl").write_text(lines + json.dumps({"image": "new.png", "caption": "a new one"}) + "\n")


def edited_caption(it: Current) -> None:
    lines = [json.loads(line) for line in (it.folder / "captions.jsonl").read_text().splitlines()]
    lines[2]["caption"] = "another text of the same length or not"
    (it.folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def replaced_picture(it: Current) -> None:
    write(it.folder, {"3.png": png(77)})


def opt_out(it: Current) -> None:
    (it.folder.parent / "out.txt").write_text("3.png\n")
    it.settings(resolve(it.lake, overrides={"corpus.opt_out": [str(it.folder.parent / "out.txt")]})[1])


def setting(name: str, value: object) -> Callable[[Current], None]:
    return lambda it: it.settings(resolve(it.lake, overrides={name: value})[1])


def removed_partition(table: str, partition: str) -> Callable[[Current], None]:
    return lambda it: it.lake.path(table, partition).unlink()


def another_source(it: Current) -> None:
    more = captioned(it.folder.parent / "more", {f"{i}.png": png(200 + i) for i in range(3)})
    it.settings(resolve(it.lake, sources=[str(more)])[1])


CHANGES = {
    "a new file": new_file,
    "an edited caption": edited_caption,
    "a replaced picture": replaced_picture,
    "another source": another_source,
    "an opt-out": opt_out,
    "a setting": setting("mine.k", 7),
    "a smaller corpus": setting("corpus.images", 3),
    "another recipe to train": setting("train", ["demo", "reranker"]),
    "a removed partition": removed_partition("pairs", "shard-00001"),
    "a removed whole table": removed_partition("leaks", "all"),
    "a removed checkpoint": removed_partition("checkpoints", "demo"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changed_goes_the_long_way_which_finds_work(current: Current, change):
    change(current)
    assert current.ask() is None
    assert current.has_work()


def test_a_raised_version_of_a_stage_goes_the_long_way(current: Current, monkeypatch):
    monkeypatch.setitem(STAGES, "pairs", dataclasses.replace(STAGES["pairs"], version=STAGES["pairs"].version + "x"))
    assert current.ask() is None and current.has_work()


def test_a_missing_picture_is_remarked_by_the_long_way_and_forgotten_where_that_is_asked(current: Current):
    (current.folder / "2.png").unlink()
    assert current.ask() is None, "the remark is not written yet"
    seal_corpus(current.lake, current.profile, "x")
    assert current.ask() is not None
    assert current.ask(forget_missing=True) is None and current.has_work(forget_missing=True)


def test_a_damaged_file_is_left_to_the_long_way_and_its_words(current: Current):
    current.lake.path("neighbours", "shard-00000").write_bytes(b"no Parquet")
    assert current.ask() is None


def test_a_source_that_is_gone_is_left_to_the_long_way_and_its_words(current: Current):
    current.folder.rename(current.folder.parent / "elsewhere")
    assert current.ask() is None


def test_requests_without_an_answer_are_asked_again_by_the_long_way(current: Current):
    facts = current.lake.facts("descriptions", "shard-00000")
    current.lake.write(
        "descriptions", "shard-00000", TABLES["descriptions"].empty_table(), facts.inputs, **(facts.notes | {"unanswered": 3})
    )
    assert current.ask() is None and current.has_work()


@pytest.mark.parametrize(
    "other",
    [
        {"shards": ["shard-00000"]},
        {"shards": ["shard-00000", "shard-00001", "shard-00002"]},
        {"recipes": ["demo"]},
        {"failed": ["pairs: counts"]},
        {"ended": time.time() - 3600 * last_run.KEPT_HOURS - 60},
        {"ended": time.time() + 3600},
        {"history": 1},
    ],
    ids=["new shards", "fewer shards", "other recipes", "a failed check", "old", "of the future", "another history"],
)
def test_a_record_of_another_state_stands_for_nothing(current: Current, other: dict):
    found = read_last_run(current.record)
    current.record.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(found, **other))))
    assert current.ask() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"shards": []}', '{"more": 1}'])
def test_a_damaged_record_or_none_goes_the_long_way(current: Current, text: str):
    current.record.write_text(text)
    assert read_last_run(current.record) is None and current.ask() is None
    current.record.unlink()
    assert current.ask() is None


def test_a_later_run_of_another_lake_in_the_same_home_sends_this_one_the_long_way(current: Current):
    other = current.record.with_name("other.json")
    other.write_text(current.record.read_text())
    os.utime(other, ns=(current.record.stat().st_mtime_ns - 1,) * 2)
    assert current.ask() is not None
    os.utime(other, ns=(current.record.stat().st_mtime_ns + 1,) * 2)
    assert current.ask() is None


def test_of_many_new_files_only_the_first_few_are_read(current: Current, monkeypatch):
    read = []
    hash_file = seal_module.hash_file
    monkeypatch.setattr(seal_module, "hash_file", lambda *given: read.append(given) or hash_file(*given))
    for i in range(60):
        write(current.folder, {f"new{i}.png": png(100 + i)})
    with (current.folder / "captions.jsonl").open("a") as file:
        file.writelines(json.dumps({"image": f"new{i}.png", "caption": "a new one"}) + "\n" for i in range(60))
    corpus = current.profile.corpus.model_copy(update={"shard_size": 1000})
    assert not is_sealed(current.lake, current.profile.model_copy(update={"corpus": corpus}))
    assert 0 < len(read) < 30


def test_another_dagster_home_has_a_record_of_its_own(current: Current, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    assert record_path(current.lake) != current.record
    assert os.path.commonpath([record_path(current.lake), tmp_path / "home"]) == str(tmp_path / "home")
    assert nothing_to_do(current.lake, current.profile, record_path(current.lake)) is None


def test_large_and_far_sources_are_listed_once(current: Current, monkeypatch):
    monkeypatch.setattr(up_to_date, "ROWS_AT_MOST", 5)
    assert current.ask() is None
    monkeypatch.setattr(up_to_date, "ROWS_AT_MOST", 6)
    assert current.ask() is not None
    for source in ("s3://bucket/pictures", "urls:/table.csv"):
        far = current.profile.model_copy(update={"corpus": current.profile.corpus.model_copy(update={"sources": (source,)})})
        assert nothing_to_do(current.lake, far, current.record) is None


def test_imported_triplets_are_left_to_the_long_way(current: Current):
    assert is_sealed(current.lake, current.profile)
    current.lake.write("corpus_manifest", "import-x", TABLES["corpus_manifest"].empty_table(), "x")
    assert not is_sealed(current.lake, current.profile)


def test_a_disk_that_takes_no_record_fails_no_run(current: Current):
    current.record.unlink()
    current.record.parent.rmdir()
    current.record.parent.write_text("in the way")
    note_last_run(current.record, current.lake, current.profile, [])
    assert read_last_run(current.record) is None


def test_a_record_survives_being_written_and_read(current: Current):
    note_last_run(current.record, current.lake, current.profile, ["b", "a"])
    found = read_last_run(current.record)
    assert isinstance(found, LastRun) and found.failed == ["a", "b"] and found.is_fresh
    assert found.knows(current.lake, current.profile)
