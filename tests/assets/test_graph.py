"""What the graph as a whole decides: code versions, conditions, pools, retries, ranges, and the lineage of columns."""

import dagster as dg
import pytest

from assets.automation.pools import POOLS
from assets.dagster_internals.retries import LOST_NODE
from assets.definitions import defs
from assets.display.lineage import LINEAGE
from assets.display.metadata import histogram
from assets.materialize import TRANSIENT
from assets.partitions import corpus_shards, recipes
from mmret.schemas import TABLES
from mmret.stages import RUNS, STAGES, names_of

GRAPH = defs.resolve_asset_graph()


@pytest.mark.parametrize("table", [t for group in RUNS for t in group])
def test_a_stage_has_the_lake_s_code_version_a_condition_and_a_known_pool(table):
    node = GRAPH.get(dg.AssetKey(table))
    assert node.code_version == STAGES[table].version
    assert node.automation_condition is not None
    assert node.pools <= POOLS.keys() and node.pools
    if table in names_of("shard"):
        assert node.partitions_def == corpus_shards and node.backfill_policy.max_partitions_per_run == 4


def test_steps_that_use_a_model_or_a_server_are_tried_again():
    again = {"clip_image", "dino_image", "caption", "towers", "scores", "written_captions", "descriptions", "instructions"}
    policies = {name: GRAPH.assets_def_for_key(dg.AssetKey(name)).op.retry_policy for name in STAGES}
    assert {name for name, policy in policies.items() if policy == TRANSIENT} == again
    assert {name for name, policy in policies.items() if policy == LOST_NODE} == set(STAGES) - again, "only where a node is lost"
    for table in again:
        assert GRAPH.assets_def_for_key(dg.AssetKey(table)).op.retry_policy.max_retries == 2, table


@pytest.mark.parametrize("table", LINEAGE)
def test_column_lineage_names_columns_of_tables_that_the_asset_stands_on(table):
    upstream = {dg.AssetKey(table)}
    while (more := upstream | {p for k in upstream for p in GRAPH.get(k).parent_keys}) != upstream:
        upstream = more
    for column, sources in LINEAGE[table].items():
        assert column in TABLES[table].names, column
        for source, name in sources:
            assert name in TABLES[source].names and dg.AssetKey(source) in upstream, (column, source, name)


def test_there_is_a_job_for_each_stage_and_from_end_to_end():
    jobs = {job.name for job in defs.get_repository_def().get_all_jobs()}
    assert {"seal_corpus", "ingest", "train_towers", "encode", "mine", "annotate", "synthesise"} <= jobs
    assert {"train_and_evaluate", "verify"} <= jobs


def test_a_job_computes_the_stages_it_is_named_after():
    def computed(name: str) -> set[str]:
        return {key.path[-1] for key in defs.resolve_job_def(name).asset_layer.executable_asset_keys}

    vectors, mined = {"clip_image", "dino_image", "caption"}, {"candidates", "duplicates", "scores", "leaks", "neighbours", "pairs"}
    texts = {"descriptions", "instructions", "triplets", "tasks"}
    pictures = {"written_captions", "images", "rejects"}
    assert computed("seal_corpus") == {"corpus_manifest", "remarks"} and computed("ingest") == pictures
    assert (computed("encode"), computed("mine"), computed("annotate")) == (vectors, mined, texts)
    assert computed("synthesise") == pictures | vectors | mined | texts
    assert computed("stale_shards") == computed("synthesise") | {"towers"} and computed("train_towers") == {"towers"}
    assert computed("train_and_evaluate") == {"checkpoints", "evaluations"} and computed("verify") == set()
    assert defs.resolve_job_def("train_and_evaluate").partitions_def == recipes


def test_a_stage_waits_for_all_shards_of_what_it_reads_beyond_its_own_and_runs_in_the_pool_of_what_it_needs():
    def wide(table: str) -> set[str]:
        asset = GRAPH.assets_def_for_key(dg.AssetKey(table))
        return {key.path[-1] for key in asset.dependency_keys if asset.get_partition_mapping(key) is not None}

    every = {"clip_image", "dino_image", "caption"}
    assert wide("pairs") == every | {"images"} and wide("candidates") == every and wide("neighbours") == {"candidates"}
    assert wide("leaks") == {"images", "clip_image"} and wide("descriptions") == {"images"} == wide("towers")
    assert wide("checkpoints") == {"triplets"} and wide("evaluations") == {"triplets", "images"} and wide("clip_image") == set()
    pools = {name: GRAPH.assets_def_for_key(dg.AssetKey(name)).op.pool for name in STAGES}
    assert pools.pop("corpus_manifest") is None, "listing the sources waits for nobody"
    assert pools == {name: {"cpu": "lake", "gpu": "gpu", "vlm": "vlm"}[STAGES[name].needs] for name in pools}


def test_what_launches_or_looks_by_itself_does_so_as_often_as_its_cost_allows():
    repository = defs.get_repository_def()
    assert {s.name: s.minimum_interval_seconds for s in repository.sensor_defs} == {
        "new_pictures": 30,
        "missing_or_stale_shards": 30,
        "train_on_new_pairs": 60,
        "fresh_catalogue": 60,
        "known_partitions": 30,
        "alarms": 60,
        "stale_partitions": 120,
    }
    assert {(s.name, s.cron_schedule, s.job_name) for s in repository.schedule_defs} == {
        ("backfill_missing_and_stale", "*/15 * * * *", "stale_shards"),
        ("compact_nightly", "30 3 * * *", "compact"),
    }


def test_what_launches_by_itself_waits_to_be_switched_on():
    repository = defs.get_repository_def()
    on = {s.name for s in repository.sensor_defs if s.default_status == dg.DefaultSensorStatus.RUNNING}
    assert on.isdisjoint({"new_pictures", "missing_or_stale_shards", "train_on_new_pairs"}) and "stale_partitions" in on
    assert not [s.name for s in repository.schedule_defs if s.default_status == dg.DefaultScheduleStatus.RUNNING]


def test_a_histogram_counts_every_score_once_and_no_nan():
    import pyarrow as pa

    drawn = histogram(pa.table({"a": [0.1, 0.5, 0.9, float("nan"), None], "b": [0.5] * 5}))
    counts = [
        [int(cell.rsplit("` ", 1)[1].replace(",", "")) for cell in line.strip("| ").split(" | ")[1:]]
        for line in drawn.splitlines()[2:]
    ]
    assert [sum(column) for column in zip(*counts, strict=True)] == [3, 5]
    assert histogram(pa.table({"a": pa.array([], pa.float32())})) == "no scores"
