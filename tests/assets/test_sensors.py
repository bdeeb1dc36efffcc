"""Sensors on a lake of empty tables: when new pictures count as quiet, and what the UI is told of stale partitions."""

import json
import time

import dagster as dg
import pyarrow as pa
import pytest

from assets.automation.sensors import new_pictures, stale_partitions
from mmret.ingest import watch
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.lake.lease import exclusive
from mmret.schemas import TABLES
from resources.declared import Declarations, DeclaredSource
from resources.lake import LakeResource
from tests.freshness.empty_tables import SHARDS, current_lake


class Clock:
    """The time, in seconds, and the signature of each source: None where it is not there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now, self.signatures = 1000.0, {}
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr("assets.automation.watching.signature", lambda source: self.signatures.get(source))


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def watched(tmp_path) -> Lake:
    lake = Lake(tmp_path / "lake")
    sources = ["/pictures/a", "/pictures/b", "shapes:9"]
    lake.write_configuration(resolve(lake, sources=sources, overrides={"automation.settle_seconds": 60})[1])
    return lake


class Watcher:
    def __init__(self, lake: Lake, declared: Declarations | None = None):
        self.lake, self.declared, self.cursor = lake, declared or Declarations(), None

    def look(self) -> list[dg.RunRequest] | str:
        """The runs asked for, or why there are none."""
        resources = {"lake": LakeResource(folder=str(self.lake.root)), "declared": self.declared}
        found = new_pictures(dg.build_sensor_context(cursor=self.cursor, resources=resources))
        if isinstance(found, dg.SkipReason):
            return found.skip_message
        self.cursor = found.cursor
        return found.run_requests or found.skip_reason.skip_message


def test_a_source_is_sealed_once_when_it_has_been_quiet_long_enough(watched, clock):
    watcher = Watcher(watched)
    clock.signatures = {"/pictures/a": "one"}
    assert watcher.look() == "waiting for /pictures/a to be quiet"
    clock.now += 59
    assert watcher.look() == "waiting for /pictures/a to be quiet"
    clock.now += 1
    (asked,) = watcher.look()
    assert asked.run_key == "/pictures/a:one" and asked.tags == {"mmret/because": "new in /pictures/a"}
    clock.now += 1000
    assert watcher.look() == "no watched source has changed"


def test_a_declared_source_is_left_to_its_own_file(watched, clock):
    watcher = Watcher(watched, Declarations(sources=[DeclaredSource(name="b", path="/pictures/b")]))
    clock.signatures = {"/pictures/a": "one", "/pictures/b": "two"}
    assert watcher.look() == "waiting for /pictures/a to be quiet"


def test_a_source_that_goes_on_changing_is_waited_for_from_its_last_change_on(watched, clock):
    watcher = Watcher(watched)
    for n in range(5):
        clock.signatures = {"/pictures/a": f"state {n}"}
        assert watcher.look() == "waiting for /pictures/a to be quiet"
        clock.now += 50
    clock.now += 10
    (asked,) = watcher.look()
    assert asked.run_key == "/pictures/a:state 4"
    clock.signatures = {"/pictures/a": "another"}
    assert watcher.look() == "waiting for /pictures/a to be quiet", "what was sealed before starts no new run at once"


def test_sources_that_are_quiet_at_once_are_one_run_and_one_that_is_not_there_is_none(watched, clock):
    watcher = Watcher(watched)
    clock.signatures = {"/pictures/a": "one", "/pictures/b": "two", "shapes:9": "never asked"}
    watcher.look()
    clock.now += 60
    (asked,) = watcher.look()
    assert asked.run_key == "/pictures/a:one|/pictures/b:two" and asked.tags["mmret/because"] == "new in /pictures/a, /pictures/b"
    assert set(json.loads(watcher.cursor)) == {"/pictures/a", "/pictures/b"}
    clock.signatures = {"/pictures/a": "one"}
    clock.now += 1000
    assert watcher.look() == "waiting for /pictures/b to be quiet", "unmounted: nothing to seal, however long it is away"
    clock.now += 1000
    assert watcher.look() == "waiting for /pictures/b to be quiet"


def test_a_lake_that_mmret_run_works_on_is_not_looked_at(watched, clock):
    clock.signatures = {"/pictures/a": "one"}
    with exclusive(watched):
        assert Watcher(watched).look() == f"`mmret run` is working on {watched.root}"


def test_built_in_corpora_are_not_watched():
    assert watch.watchable(("shapes:9", "/pictures", "x.tar")) == ["/pictures", "x.tar"]


@pytest.fixture
def lake(tmp_path) -> Lake:
    return current_lake(tmp_path / "lake")


def told(lake: Lake, cursor: str | None = None) -> dg.SensorResult | dg.SkipReason:
    resources = {"lake": LakeResource(folder=str(lake.root))}
    return stale_partitions(dg.build_sensor_context(cursor=cursor, resources=resources))


def test_the_ui_is_told_of_each_stale_partition_once_for_each_reason(lake):
    assert told(lake).skip_reason.skip_message == "0 partitions are stale, as noted"
    for table, partition in (("leaks", "all"), ("pairs", SHARDS[1])):
        lake.write(table, partition, TABLES[table].empty_table(), "y", **lake.facts(table, partition).notes)
    first = told(lake)
    assert {(e.asset_key.path[-1], e.partition) for e in first.asset_events} == {("leaks", None), ("pairs", SHARDS[1])}
    assert first.skip_reason is None
    again = told(lake, first.cursor)
    assert not again.asset_events and again.skip_reason.skip_message == "2 partitions are stale, as noted"
    rows = pa.Table.from_pylist([{"shard": SHARDS[2], "position": 0}], TABLES["corpus_manifest"])
    lake.write("corpus_manifest", SHARDS[2], rows, "x")
    (more,) = told(lake, again.cursor).asset_events
    assert (more.asset_key.path[-1], more.partition) == ("images", SHARDS[2])
    assert more.metadata["stale because"].value == f"corpus_manifest: {SHARDS[2]} changed"


def test_what_is_current_again_and_stale_again_is_told_again(lake):
    rows, inputs = TABLES["leaks"].empty_table(), lake.facts("leaks", "all").inputs
    lake.write("leaks", "all", rows, "y")
    first = told(lake)
    lake.write("leaks", "all", rows, inputs)
    healed = told(lake, first.cursor)
    lake.write("leaks", "all", rows, "y")
    assert len(first.asset_events) == len(told(lake, healed.cursor).asset_events) == 1


def test_nothing_is_told_of_a_lake_that_is_worked_on_or_empty(lake, tmp_path):
    with exclusive(lake):
        assert told(lake).skip_message == f"`mmret run` is working on {lake.root}"
    assert told(Lake(tmp_path / "new")).skip_message == "no shard is sealed yet"
