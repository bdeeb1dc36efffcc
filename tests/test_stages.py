"""The stage table against what is: the graph in Dagster is the table's, and a stage reads no table that it does not declare.

The second is what keeps lineage honest: a table that is read and not declared can change without what was made from it.
"""

from __future__ import annotations

import json
import subprocess
import sys

import dagster as dg
import pytest

from assets.automation.conditions import CONDITIONS
from assets.definitions import defs
from assets.graph import POOL_OF
from assets.partitions import PARTITIONS
from mmret.freshness.fingerprints import upstream_of
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.schemas import READ_BY_COLUMN, TABLES, WRITTEN_BY_PEOPLE, WRITTEN_WHEN_NEEDED
from mmret.settings import Profile, load_profile
from mmret.stages import RUNS, STAGES, TABLE, stage_of
from tests.conftest import CHECKOUT

GRAPH = defs.resolve_asset_graph()


def test_every_table_of_the_lake_is_written_by_exactly_one_stage_or_by_people():
    written = [table for stage in TABLE for table in stage.tables]
    assert sorted([*written, *WRITTEN_BY_PEOPLE, *WRITTEN_WHEN_NEEDED]) == sorted(TABLES)


@pytest.mark.parametrize("name", list(STAGES))
def test_columns_are_declared_only_of_tables_whose_files_record_them_and_only_such_as_there_are(name: str):
    profile = load_profile("demo")
    for read in STAGES[name].reads:
        if columns := read.columns_of(profile, "demo"):
            assert read.table in READ_BY_COLUMN and set(columns) <= set(TABLES[read.table].names), (name, read.table)


def test_a_stage_stands_behind_all_that_it_reads():
    order = list(STAGES)
    for name, stage in STAGES.items():
        for read in stage.reads:
            assert order.index(read.table) < order.index(name), (name, read.table)


def test_stages_of_one_run_stand_together_and_have_the_same_partitions():
    """Or a row in the wrong place would split a run in two, or ask for a partition that a stage of the run has not."""
    names = [{STAGES[name].run for name in run} for run in RUNS]
    assert all(len(name) == 1 for name in names) and len(RUNS) == len(set().union(*names))
    for run in RUNS:
        assert len({STAGES[name].partitions for name in run}) == 1, run


@pytest.mark.parametrize("table", [table for stage in TABLE for table in stage.tables])
def test_the_asset_is_the_table_s(table: str):
    stage, node = stage_of(table), GRAPH.get(dg.AssetKey(table))
    assert {key.path[-1] for key in node.parent_keys} == {read.table for read in stage.reads}
    assert node.partitions_def == PARTITIONS[stage.partitions]
    assert node.group_name == stage.group and node.code_version == stage.version
    assert node.pools == (set() if stage.trigger == "first" else {POOL_OF[stage.needs]})
    assert node.automation_condition == CONDITIONS[stage.trigger]


@pytest.mark.parametrize("name", list(STAGES))
def test_a_stage_that_reads_other_shards_than_its_own_waits_for_all_of_them(name: str):
    stage, node = STAGES[name], GRAPH.get(dg.AssetKey(name))
    for read in stage.reads:
        if STAGES[read.table].partitions != "shard":
            continue
        fan_in = isinstance(node.partition_mappings.get(dg.AssetKey(read.table)), dg.AllPartitionMapping)
        assert fan_in == (read.scope != "same" or stage.partitions != "shard"), (name, read)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, Profile, dict[tuple[str, str], set], dict]:
    """A small lake of three shards after a whole run, what each stage's partitions read of it, and of each table which columns."""
    folder = tmp_path_factory.mktemp("recorded") / "lake"
    line = [sys.executable, "-W", "ignore", "-m", "tests.recorded_reads", str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=CHECKOUT, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    recorded = json.loads(done.stdout.splitlines()[-1])
    found = {(stage, partition): {tuple(r) for r in reads} for stage, partition, reads, _ in recorded}
    columns = {(stage, partition): {tuple(c) for c in columns} for stage, partition, _, columns in recorded}
    lake = Lake(folder)
    return lake, resolve(lake)[0], found, columns


def _declared(lake: Lake, profile: Profile, stage: str, partition: str) -> set[tuple[str, str]]:
    pinned = {read.table for read in STAGES[stage].reads if read.pinned}
    looked_for = {(read.table, partition) for read in STAGES[stage].reads if read.if_any}
    return looked_for | {*upstream_of(lake, profile, stage, partition), *((t, p) for t in pinned for p in lake.partitions(t))}


@pytest.mark.parametrize("stage", [name for name, stage in STAGES.items() if stage.trigger != "first"])
def test_the_tables_a_stage_really_reads_are_declared(stage: str, recorded):
    lake, profile, found, _ = recorded
    partitions = {partition: reads for (name, partition), reads in found.items() if name == stage}
    assert partitions, "the stage did not run: the test would pass for nothing"
    for partition, reads in partitions.items():
        declared = _declared(lake, profile, stage, partition)
        tables = {table for table, _ in declared} | set(STAGES[stage].lookups)
        undeclared = {
            (table, part)
            for table, part in reads
            if table not in STAGES[stage].lookups and ((table, part) not in declared if part else table not in tables)
        }
        assert not undeclared, f"{stage} of {partition} reads {sorted(undeclared, key=str)} without declaring it in mmret/stages.py"


NAMED_IN_ERRORS = {("images", "path")}
"""Columns that only name a picture in a message."""


@pytest.mark.parametrize("stage", [name for name, stage in STAGES.items() if any(read.columns for read in stage.reads)])
def test_the_columns_a_stage_really_reads_are_declared(stage: str, recorded):
    _, profile, _, columns = recorded
    for (name, partition), read in columns.items():
        for declared in STAGES[stage].reads if name == stage else ():
            if allowed := declared.columns_of(profile, partition):
                undeclared = {c for c in read - NAMED_IN_ERRORS if c[0] == declared.table and c[1] not in allowed}
                assert not undeclared, f"{stage} of {partition} reads {sorted(undeclared)} without declaring it in mmret/stages.py"


def test_the_recorder_notices_an_undeclared_read(recorded):
    """Or else the test above could not fail."""
    lake, profile, found, _ = recorded
    assert ("images", None) in found["clip_image", lake.shards()[0]]
    assert ("corpus_manifest", lake.shards()[0]) in found["images", lake.shards()[0]]
    assert "corpus_manifest" in {read.table for read in STAGES["images"].reads}
