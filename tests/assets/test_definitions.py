"""The code location: it validates, and the UI has for every asset a group, kinds, an owner, a description and a schema."""

import gc
import subprocess
import sys

import dagster as dg
import pytest

from assets.definitions import defs
from mmret.schemas import TABLES, WRITTEN_BY_PEOPLE, WRITTEN_WHEN_NEEDED, column_comment
from mmret.stages import TABLE
from tests.conftest import CHECKOUT

GRAPH = defs.resolve_asset_graph()


def test_definitions_validate_as_dagster_s_own_command_does():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_table_is_an_asset():
    assert {k.path[-1] for k in GRAPH.get_all_asset_keys()} == set(TABLES) - {*WRITTEN_BY_PEOPLE, *WRITTEN_WHEN_NEEDED}


@pytest.mark.parametrize("table", sorted(set(TABLES) - {*WRITTEN_BY_PEOPLE, *WRITTEN_WHEN_NEEDED}))
def test_the_ui_has_what_it_shows(table):
    node = GRAPH.get(dg.AssetKey(table))
    assert node.group_name != "default" and node.kinds and node.owners and len(node.description) > 20
    columns = node.metadata["dagster/column_schema"].columns
    assert [c.name for c in columns] == TABLES[table].names
    assert [c.description for c in columns] == [column_comment(table, c.name) for c in columns] and all(
        c.description for c in columns
    )


def test_lineage_runs_from_the_manifest_to_the_evaluations():
    upstream = {dg.AssetKey("evaluations")}
    while (more := upstream | {p for k in upstream for p in GRAPH.get(k).parent_keys}) != upstream:
        upstream = more
    assert {k.path[-1] for k in upstream} == {"evaluations", *(read.table for stage in TABLE for read in stage.reads)}


def test_definitions_load_although_the_instance_that_dagster_remembers_dies_in_the_middle_of_a_test(tmp_path_factory):
    """Two instances left in the order in which they were entered: what is restored is the storage of the first, which is gone."""
    first, second = (dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("home"))) for _ in range(2))
    for instance in (first, second):
        instance.__enter__()
    for instance in (first, second):
        instance.__exit__(None, None, None)
    del first, second, instance
    gc.collect()
    assert dg.Definitions(assets=[dg.asset(name="a")(lambda: None)]).get_repository_def()
