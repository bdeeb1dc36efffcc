"""A red shard is a red shard: what a check finds is recorded for the shard it is of, and holds back that shard alone.

On a lake of empty tables in which one shard gets a pair twice.
"""

import dagster as dg
import pyarrow as pa
import pytest

from assets import annotation, checks, mining
from assets.checks import by_partition
from assets.checks.by_partition import Finding, Scope, record
from assets.dagster_internals.check_records import failed_partitions
from assets.definitions import defs
from assets.partitions import corpus_shards
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.schemas import TABLES
from resources.lake import LakeResource
from tests.freshness.empty_tables import SHARDS, current_lake
from tests.mine.lakes import filled

GOOD, RED, LAST = SHARDS
UNIQUE = dg.AssetCheckKey(dg.AssetKey("pairs"), "pair_ids_are_unique")


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = current_lake(tmp_path / "lake")
    lake.write_configuration(resolve(lake, sources=["shapes:9"])[1])
    return lake


@pytest.fixture
def instance(lake):
    with dg.instance_for_test() as found:
        found.add_dynamic_partitions("corpus_shards", SHARDS)
        yield found


def put(lake: Lake, shard: str, rows: pa.Table) -> None:
    """Other rows in a partition without a trace in its fingerprint, as damage would."""
    facts = lake.facts("pairs", shard)
    lake.write("pairs", shard, rows, facts.inputs, **facts.notes)


def twice() -> pa.Table:
    return filled(
        TABLES["pairs"], {"pair_id": ["a", "a"], "query_id": ["q", "q"], "target_id": ["t", "t"], "hard_negatives": [[], []]}
    )


ASSETS, CHECKS = dg.load_assets_from_modules([mining, annotation]), checks.load()


def look(lake: Lake, instance: dg.DagsterInstance, assets=(), checks=(UNIQUE,), **how) -> dg.ExecuteInProcessResult:
    resources = defs.resources | {"lake": LakeResource(folder=str(lake.root))}
    own = [each for each in CHECKS if UNIQUE in each.check_keys]
    graph = dg.Definitions(assets=ASSETS, asset_checks=own, resources=resources).resolve_implicit_global_asset_job_def()
    job = graph.get_subset(asset_selection={dg.AssetKey(a) for a in assets}, asset_check_selection=set(checks))
    return job.execute_in_process(instance=instance, raise_on_error=False, **how)


def results(done: dg.ExecuteInProcessResult) -> list[tuple[str | None, bool]]:
    return [(each.partition, each.passed) for each in done.get_asset_check_evaluations() if each.asset_check_key == UNIQUE]


def shown(instance: dg.DagsterInstance) -> dict[str, str]:
    """What the UI paints: the state of each shard."""
    with dg._core.definitions.partitions.context.partition_loading_context(dynamic_partitions_store=instance):
        state = instance.event_log_storage.get_asset_check_state([(UNIQUE, corpus_shards)])[UNIQUE]
        return {key: status.value for status, subset in state.subsets.items() for key in subset.subset_value.get_partition_keys()}


def test_a_look_at_the_whole_lake_paints_the_damaged_shard_red_and_the_mended_one_green(lake, instance):
    put(lake, RED, twice())
    assert results(look(lake, instance)) == [(RED, False), (None, False)]
    assert shown(instance) == {RED: "FAILED"} and failed_partitions(instance, UNIQUE, SHARDS) == {RED}
    put(lake, RED, twice().slice(1))
    assert results(look(lake, instance)) == [(RED, True), (None, True)]
    assert shown(instance) == {RED: "SUCCEEDED"} and failed_partitions(instance, UNIQUE, SHARDS) == set()
    assert results(look(lake, instance)) == [(None, True)], "a sound shard is not recorded each time"


def test_a_damaged_shard_holds_back_itself_and_no_other(lake, instance):
    put(lake, RED, twice())
    sound = look(lake, instance, ["pairs", "descriptions"], partition_key=GOOD)
    assert sound.success and results(sound) == [(GOOD, True), (RED, False)], (
        "the red one comes last: Dagster shows the last as the state"
    )
    assert [e.step_key for e in sound.get_step_success_events()].count("descriptions") == 1
    damaged = look(lake, instance, ["pairs", "descriptions"], partition_key=RED)
    assert not damaged.success and results(damaged) == [(RED, False)]
    assert "descriptions" not in {e.step_key for e in damaged.get_step_success_events()}
    assert shown(instance) == {GOOD: "SUCCEEDED", RED: "FAILED"}


def test_a_run_over_several_shards_says_of_each_what_it_is(lake, instance):
    put(lake, RED, twice())
    tags = {"dagster/asset_partition_range_start": GOOD, "dagster/asset_partition_range_end": LAST}
    done = look(lake, instance, ["pairs"], tags=tags)
    assert not done.success and results(done) == [(GOOD, True), (LAST, True), (RED, False)]
    assert shown(instance) == {GOOD: "SUCCEEDED", LAST: "SUCCEEDED", RED: "FAILED"}
    look(lake, instance, ["pairs"], checks=(), partition_key=RED)
    assert shown(instance) == {GOOD: "SUCCEEDED", LAST: "SUCCEEDED"}, "what was made anew is not red until it is looked at"


def scope(own) -> Scope:
    return Scope(dg.DagsterInstance.ephemeral(), own, SHARDS)


SPEC = dg.AssetCheckSpec("c", asset="pairs", partitions_def=corpus_shards, blocking=True)


def test_rows_of_no_known_shard_fail_whatever_shards_a_run_has():
    found = Finding([["x"]], set(), dg.AssetCheckSeverity.ERROR, {})
    told = [each for each in record(scope([GOOD, RED]), SPEC, found) if isinstance(each, dg.AssetCheckEvaluation)]
    assert [(each.partition, each.passed, each.blocking) for each in told] == [(GOOD, False, True), (RED, False, True)]


def test_of_many_red_shards_some_are_recorded_and_all_are_counted(monkeypatch):
    monkeypatch.setattr(by_partition, "MOST_RECORDED", 2)
    found = Finding([["x"]], SHARDS, dg.AssetCheckSeverity.WARN, {})
    told = list(record(scope(None), SPEC, found))
    assert [getattr(each, "partition", "output") for each in told] == [*SHARDS[:2], "output", None]
    assert told[-1].metadata["failed partitions"].value == 3 and told[-1].blocking and not told[0].blocking
    assert "(/assets/pairs?view=partitions&partition=shard-00000)" in told[-1].metadata["which"].value
