"""What Dagster shows of a partition while it is computed: lines and observations are written as it goes, right, bounded in number,
none for short work, and whoever listens to a run's progress goes on listening."""

from collections.abc import Iterator

import dagster as dg
import pytest

from assets.display import progress as display
from assets.materialize import materialize, materialize_whole
from mmret.lake import Facts, Lake
from mmret.progress import Counts, advance, reporting
from mmret.progress_reports import MOST
from mmret.schemas import TABLES
from resources.lake import LakeResource, ProfileResource
from tests.assets.test_materialize import asset_of
from tests.freshness.empty_tables import SHARDS, current_lake

SHARD = SHARDS[1]
KINDS = dg.DagsterEventType


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(display, "clock", made)
    return made


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as found:
        found.add_dynamic_partitions("corpus_shards", SHARDS)
        yield found


class SlowWork:
    """Work of ``total`` rows at ``seconds`` of the clock each, which looks into the event log after each ``every`` rows."""

    def __init__(self, table: str, instance: dg.DagsterInstance, clock: Clock, total: int, seconds: float, every: int):
        self.table, self.instance, self.clock, self.every = table, instance, clock, every
        self.total, self.each = total, seconds
        self.seen: list[tuple[int, int]] = []  # lines and observations that the event log has, from time to time

    def __call__(self, lake: Lake, profile, partition: str, inputs: str) -> Facts:
        rejects: dict[str, int] = {}
        for done in range(1, self.total + 1):
            self.clock.now += self.each
            if done % 10 == 0:
                rejects["timeout"] = rejects.get("timeout", 0) + 1
            counts = Counts(rejects, tokens_in=100 * done, tokens_out=20 * done, cost=0.01 * done)
            advance(self.table, done, self.total, f"{done} asked", counts)
            if done % self.every == 0:
                self.seen.append((len(lines(self.instance)), len(observations(self.instance))))
        return lake.write(self.table, partition, TABLES[self.table].empty_table(), inputs, linked_shards=SHARDS)


def lines(instance: dg.DagsterInstance) -> list[str]:
    """Messages of the only run that tell of progress."""
    (run,) = instance.get_runs()
    return [e.user_message for e in instance.all_logs(run.run_id) if e.dagster_event is None and " of " in e.user_message]


def observations(instance: dg.DagsterInstance) -> list[dg.AssetObservation]:
    (run,) = instance.get_runs()
    logs = instance.all_logs(run.run_id, of_type=KINDS.ASSET_OBSERVATION)
    return [e.dagster_event.asset_observation_data.asset_observation for e in logs]


def compute(lake: Lake, instance: dg.DagsterInstance, table: str, work: SlowWork) -> None:
    loop, partition = (materialize_whole, "all") if table == "leaks" else (materialize, SHARD)
    lake.path(table, partition).unlink()
    resources = {"lake": LakeResource(folder=str(lake.root)), "profile": ProfileResource()}
    key = None if table == "leaks" else partition
    assert dg.materialize([asset_of(table, work, loop)], resources=resources, instance=instance, partition_key=key).success


def test_lines_and_observations_are_in_the_event_log_while_the_step_runs_and_their_figures_are_right(tmp_path, instance, clock):
    lake = current_lake(tmp_path / "lake")
    work = SlowWork("descriptions", instance, clock, total=240, seconds=1.0, every=60)
    compute(lake, instance, "descriptions", work)
    assert work.seen == [(2, 1), (4, 2), (6, 3), (8, 4)], "after 10, 40, 70 s and so on, and after 30, 90, 150 s and so on"
    first = lines(instance)[0]
    assert first.startswith(f"descriptions {SHARD} · descriptions: 10 of 240 (4 %), 1.0/s, about 3 min 50 s left")
    assert "rejects timeout 1" in first and "tokens 1,000 in 200 out" in first and "cost 0.1" in first
    for n, seconds in enumerate((30, 90, 150, 210)):
        observed = observations(instance)[n]
        shown = {name: value.value for name, value in observed.metadata.items()}
        assert observed.asset_key == dg.AssetKey("descriptions") and observed.partition == SHARD
        assert (shown["done"], shown["total"], shown["seconds"]) == (seconds, 240, seconds)
        assert shown["rows_per_second"] == pytest.approx(1) and shown["seconds_left"] == pytest.approx(240 - seconds)
        assert shown["rejects"] == seconds // 10 and shown["rejects_by_reason"] == {"timeout": seconds // 10}
        assert (shown["tokens_in"], shown["tokens_out"]) == (100 * seconds, 20 * seconds)
        assert shown["cost"] == pytest.approx(0.01 * seconds) and "expected_end" in shown


def test_a_table_without_partitions_is_observed_as_a_whole(tmp_path, instance, clock):
    lake = current_lake(tmp_path / "lake")
    compute(lake, instance, "leaks", SlowWork("leaks", instance, clock, total=4, seconds=20.0, every=4))
    assert [o.partition for o in observations(instance)] == [None]


def test_short_work_leaves_nothing_in_the_history(tmp_path, instance, clock):
    lake = current_lake(tmp_path / "lake")
    compute(lake, instance, "pairs", SlowWork("pairs", instance, clock, total=9, seconds=1.0, every=9))
    assert lines(instance) == [] == observations(instance)


def test_a_week_of_work_leaves_less_than_a_hundred_of_each_in_the_history(tmp_path, instance, clock):
    lake = current_lake(tmp_path / "lake")
    compute(lake, instance, "pairs", SlowWork("pairs", instance, clock, total=7 * 24 * 60, seconds=60.0, every=10**9))
    found = lines(instance), observations(instance)
    assert all(60 < len(each) < 100 < MOST for each in found)
    assert [o.metadata["done"].value for o in found[1]] == sorted({o.metadata["done"].value for o in found[1]})


def test_who_listens_to_the_run_goes_on_listening(tmp_path, instance, clock):
    lake = current_lake(tmp_path / "lake")
    told = []
    with reporting(lambda task, done, total, note="", counts=None: told.append((task, done))):
        compute(lake, instance, "pairs", SlowWork("pairs", instance, clock, total=30, seconds=1.0, every=30))
    assert told[-30:] == [("pairs", n) for n in range(1, 31)] and len(lines(instance)) == 1
