"""Who launches what: schedule, sensors and automation conditions ask for what is missing or stale by the lake's record, no more."""

import json
import os

import dagster as dg
import pyarrow as pa
import pytest

from assets.automation.conditions import _survey_of_tick
from assets.automation.schedules import backfill_missing_and_stale, ranges, request
from assets.automation.sensors import new_pictures, stale_partitions
from assets.definitions import defs
from assets.partitions import corpus_shards
from mmret.freshness.survey import Work, due, survey
from mmret.ingest.watch import signature
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.lake.lease import exclusive
from mmret.stages import names_of
from resources.declared import Declarations
from resources.lake import LakeResource
from tests.assets.pictures import drop

GRAPH = [
    "written_captions",
    "images",
    "towers",
    "clip_image",
    "dino_image",
    "caption",
    "candidates",
    "duplicates",
    "scores",
    "leaks",
    "neighbours",
    "pairs",
    "descriptions",
    "instructions",
    "triplets",
    "tasks",
    "checkpoints",
    "evaluations",
]
GRAPH_OF = defs.resolve_asset_graph()


def change(lake: Lake, **settings) -> None:
    lake.write_configuration(resolve(lake, overrides={k.replace("__", "."): v for k, v in settings.items()})[1])


def tick(instance: dg.DagsterInstance, lake: Lake) -> list[tuple[list[str], str, str]]:
    """(stages, first shard, last shard) of each run the schedule asks for."""
    context = dg.build_schedule_context(
        instance=instance, resources={"lake": LakeResource(folder=str(lake.root))}, repository_def=defs.get_repository_def()
    )
    asked = backfill_missing_and_stale(context)
    if isinstance(asked, dg.SkipReason):
        return []
    return [
        (
            sorted(k.path[-1] for k in r.asset_selection),
            r.tags.get("dagster/asset_partition_range_start", "all"),
            r.tags.get("dagster/asset_partition_range_end", "all"),
        )
        for r in asked
    ]


def requested(instance: dg.DagsterInstance) -> dict[str, set]:
    """What the automation conditions ask for, stage by stage, on the tick after the one that only looks."""
    _survey_of_tick.cache_clear()
    assets = [a for a in defs.assets if isinstance(a, dg.AssetsDefinition)]
    result = dg.evaluate_automation_conditions(dg.Definitions(assets=assets, resources=defs.resources), instance)
    return {t: keys for t in GRAPH if (keys := result.get_requested_partitions(dg.AssetKey(t)))}


def test_schedule_asks_for_nothing_where_all_is_current(lake, instance):
    assert tick(instance, lake) == []


def test_schedule_asks_for_just_the_missing_partition_and_says_why(lake, instance):
    lake.path("triplets", "shard-00001").unlink()
    assert tick(instance, lake) == [(["tasks", "triplets"], "shard-00001", "shard-00001")]
    lake.path("clip_image", "shard-00001").unlink()
    assert tick(instance, lake) == [(["candidates", "clip_image"], "shard-00001", "shard-00001")], "what waits for it comes later"


def test_schedule_puts_neighbouring_stale_shards_into_one_run(lake, instance):
    change(lake, mine__targets_per_query=2)
    assert tick(instance, lake) == [(["descriptions", "instructions", "pairs", "tasks", "triplets"], "shard-00000", "shard-00001")]


def test_schedule_leaves_alone_a_lake_that_mmret_run_works_on(lake, instance):
    lake.path("triplets", "shard-00001").unlink()
    with exclusive(lake):
        assert tick(instance, lake) == []


def test_ranges_are_contiguous_and_of_one_kind():
    order = [f"s{i}" for i in range(6)]
    work = [Work(("a",), s, ()) for s in ("s0", "s1", "s3", "s4")] + [Work(("a", "b"), "s5", ()), Work(("t",), "all", ())]
    assert [(r[0].tables, r[0].partition, r[-1].partition) for r in ranges(work, order)] == [
        (("a",), "s0", "s1"),
        (("a",), "s3", "s4"),
        (("a", "b"), "s5", "s5"),
        (("t",), "all", "all"),
    ]


def test_conditions_register_what_mmret_run_computed_and_train_nothing(lake, instance):
    nothing_to_do = {"written_captions", "scores"}  # every picture has a caption, and no scorer is configured
    assert set(requested(instance)) == set(GRAPH) - nothing_to_do - {"checkpoints", "evaluations"}


def test_conditions_ask_for_what_a_setting_made_stale(lake, instance):
    record_as_done(instance, lake)
    assert requested(instance) == {}
    change(lake, mine__targets_per_query=2)
    shards = set(lake.shards())
    assert requested(instance) == {t: shards for t in ("pairs", "descriptions", "instructions", "triplets", "tasks")}


def test_conditions_wait_for_new_pairs_before_they_train(lake, instance):
    record_as_done(instance, lake)
    change(lake, evaluate__held_out=0.1, automation__new_pairs=10)
    lake.path("checkpoints", "demo").unlink()
    rows = sum(lake.facts("triplets", s).rows for s in lake.shards())
    assert "checkpoints" not in requested(instance), "the triplets are not settled"
    change(lake, evaluate__held_out=0.03)
    assert requested(instance)["checkpoints"] == {"demo"}
    change(lake, automation__new_pairs=rows + 1)
    assert "checkpoints" not in requested(instance)


def test_a_partition_that_is_being_computed_or_has_failed_is_not_asked_for_again(lake, instance):
    """A failure waits for a person, with what was asked for behind it: asked for at every tick, it would be paid for every
    thirty seconds."""
    record_as_done(instance, lake)
    lake.path("triplets", "shard-00001").unlink()
    lake.path("evaluations", "demo").unlink()
    assert requested(instance) == dict.fromkeys(("triplets", "tasks"), {"shard-00001"}) | {"evaluations": {"demo"}}
    seen = []
    for table, behind, partition in (("triplets", ["tasks"], "shard-00001"), ("evaluations", [], "demo")):
        partitions = GRAPH_OF.get(dg.AssetKey(table)).partitions_def

        @dg.asset(name=table, partitions_def=partitions)
        def failing(context) -> None:
            seen.append(requested(instance))
            raise RuntimeError("as a server does that is down")

        skipped = [dg.asset(name=name, partitions_def=partitions, deps=[table])(lambda: None) for name in behind]
        assert not dg.materialize([failing, *skipped], partition_key=partition, instance=instance, raise_on_error=False).success
    assert seen == [{"evaluations": {"demo"}}, {}] and requested(instance) == {}


def test_requests_that_rest_after_a_failure_hold_up_neither_training_nor_evaluation(lake, instance):
    record_as_done(instance, lake)
    rows, facts = lake.read("descriptions", "shard-00001"), lake.facts("descriptions", "shard-00001")
    lake.write("descriptions", "shard-00001", rows, facts.inputs, **(facts.notes | {"unanswered": 3}))
    lake.path("checkpoints", "demo").unlink()
    change(lake, automation__new_pairs=10)
    resting = next(s for s in survey(lake, resolve(lake)[0]) if (s.table, s.partition) == ("descriptions", "shard-00001"))
    assert resting.state == "stale" and resting.retry_later
    assert requested(instance) == {"checkpoints": {"demo"}}


def test_only_recipes_of_the_setting_train_are_trained_by_themselves_and_from_the_threshold_on(lake, instance):
    record_as_done(instance, lake)
    lake.path("checkpoints", "demo").unlink()
    rows = sum(lake.facts("triplets", s).rows for s in lake.shards())
    change(lake, automation__new_pairs=rows)
    assert requested(instance) == {"checkpoints": {"demo"}}
    change(lake, train=[])
    assert requested(instance) == {}


def test_an_evaluation_follows_another_checkpoint_and_no_other_change(lake, instance):
    record_as_done(instance, lake)
    change(lake, evaluate__edits=20, automation__new_pairs=10**6)
    assert requested(instance) == {}, "measured again only where there is something new to measure"
    rows, facts = lake.read("checkpoints", "demo"), lake.facts("checkpoints", "demo")
    lake.write("checkpoints", "demo", pa.concat_tables([rows, rows]), facts.inputs, **facts.notes)
    assert requested(instance) == {"evaluations": {"demo"}}
    lake.path("evaluations", "demo").unlink()
    assert requested(instance) == {"evaluations": {"demo"}}
    lake.path("checkpoints", "demo").unlink()
    assert requested(instance) == {}


def test_conditions_ask_for_nothing_while_mmret_run_is_at_work(lake, instance):
    record_as_done(instance, lake)
    lake.path("triplets", "shard-00001").unlink()
    with exclusive(lake):
        assert requested(instance) == {}
    assert requested(instance) == dict.fromkeys(("triplets", "tasks"), {"shard-00001"})


def run_of(instance: dg.DagsterInstance, table: str, status: dg.DagsterRunStatus) -> str:
    job = defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection={dg.AssetKey(table)})
    run = instance.create_run_for_job(job, asset_selection=frozenset({dg.AssetKey(table)}))
    kind = {
        dg.DagsterRunStatus.STARTING: dg.DagsterEventType.PIPELINE_STARTING,
        dg.DagsterRunStatus.STARTED: dg.DagsterEventType.PIPELINE_START,
        dg.DagsterRunStatus.FAILURE: dg.DagsterEventType.PIPELINE_FAILURE,
    }[status]
    instance.report_dagster_event(dg.DagsterEvent(kind.value, job.name), run.run_id)
    return run.run_id


def test_schedule_asks_for_no_whole_table_that_a_run_is_about_to_write(lake, instance, monkeypatch):
    lake.path("leaks", "all").unlink()
    asked, get_runs = [], dg.DagsterInstance.get_runs
    monkeypatch.setattr(dg.DagsterInstance, "get_runs", lambda self, some: asked.append(set(some.statuses)) or get_runs(self, some))
    assert tick(instance, lake) == [(["leaks"], "all", "all")]
    begun = dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED
    assert asked[-1] == {dg.DagsterRunStatus.QUEUED, *begun}
    for status in begun:
        run_id = run_of(instance, "leaks", status)
        assert tick(instance, lake) == [], status
        instance.delete_run(run_id)
    run_of(instance, "leaks", dg.DagsterRunStatus.FAILURE)
    run_of(instance, "triplets", dg.DagsterRunStatus.STARTED)
    assert tick(instance, lake) == [(["leaks"], "all", "all")]


def test_schedule_asks_for_no_shard_that_a_run_is_writing_or_that_dagster_does_not_know(lake, instance):
    for shard in lake.shards():
        lake.path("triplets", shard).unlink()
    seen = []

    @dg.asset(name="triplets", partitions_def=corpus_shards)
    def working(context) -> None:
        seen.append(tick(instance, lake))

    dg.materialize([working], partition_key="shard-00001", instance=instance)
    assert seen == [[(["tasks", "triplets"], "shard-00000", "shard-00000")]]
    instance.delete_dynamic_partition("corpus_shards", "shard-00000")
    assert tick(instance, lake) == [(["tasks", "triplets"], "shard-00001", "shard-00001")]


def test_a_run_of_the_schedule_is_named_by_its_work_says_every_reason_once_and_comes_after_people_s():
    work = [Work(("pairs", "triplets"), s, ("new band", why)) for s, why in (("s0", "more"), ("s1", "less"))]
    asked = request(work)
    assert asked.run_key == "pairs:s0..s1" and asked.tags["mmret/because"] == "new band; more; less"
    assert asked.tags["dagster/priority"] == "-1"
    assert [asked.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end")] == ["s0", "s1"]
    whole = request([Work(("leaks",), "all", ("x" * 400,))])
    assert whole.tags["mmret/because"] == "x" * 250 and "dagster/asset_partition_range_start" not in whole.tags
    rejects_too = request([Work(("images",), "s0", ())])
    assert {k.path[-1] for k in rejects_too.asset_selection} == {"images", "rejects"}


def record_as_done(instance: dg.DagsterInstance, lake: Lake) -> None:
    for table in (*GRAPH, "rejects"):
        for part in lake.partitions(table):
            instance.report_runless_asset_event(
                dg.AssetMaterialization(table, partition=None if table in ("towers", "duplicates", "leaks") else part)
            )


def watch(instance, lake, cursor=None):
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"lake": LakeResource(folder=str(lake.root)), "declared": Declarations()}
    )
    return new_pictures(context)


def test_new_pictures_are_sealed_once_their_folder_is_quiet(lake, instance, tmp_path):
    folder = tmp_path / "landing"
    drop(folder, 0, 4)
    lake.write_configuration(resolve(lake, sources=[str(folder)], overrides={"automation.settle_seconds": 0})[1])
    first = watch(instance, lake)
    assert len(first.run_requests) == 1 and str(folder) in first.run_requests[0].tags["mmret/because"]
    again = watch(instance, lake, first.cursor)
    assert not again.run_requests and "no watched source has changed" in again.skip_reason.skip_message
    lake.write_configuration(resolve(lake, overrides={"automation.settle_seconds": 3600})[1])
    drop(folder, 4, 6)
    unsettled = watch(instance, lake, again.cursor)
    assert not unsettled.run_requests and "to be quiet" in unsettled.skip_reason.skip_message
    cursor = json.loads(unsettled.cursor)
    cursor[str(folder)]["since"] -= 4000
    assert len(watch(instance, lake, json.dumps(cursor)).run_requests) == 1


def test_the_ui_is_told_once_which_partitions_are_stale_and_why(lake, instance):
    def look(cursor=None):
        return stale_partitions(
            dg.build_sensor_context(instance=instance, cursor=cursor, resources={"lake": LakeResource(folder=str(lake.root))})
        )

    assert not look().asset_events
    change(lake, mine__targets_per_query=2)
    told = look()
    assert {(e.asset_key.path[-1], e.partition) for e in told.asset_events} == {("pairs", s) for s in lake.shards()}
    assert all(e.metadata["stale because"].value == "mine.targets_per_query: 3 → 2" for e in told.asset_events)
    assert not look(told.cursor).asset_events


@pytest.mark.parametrize("change_", ["added", "removed", "rewritten", "in a folder"])
def test_a_changed_folder_has_another_signature(tmp_path, change_):
    drop(tmp_path, 0, 3)
    before = signature(str(tmp_path))
    assert before == signature(str(tmp_path))
    some = next(tmp_path.glob("*.png"))
    {
        "added": lambda: drop(tmp_path, 3, 4),
        "removed": some.unlink,
        "rewritten": lambda: os.utime(some, (4e9, 4e9)),
        "in a folder": lambda: drop(tmp_path / "inner", 3, 4),
    }[change_]()
    assert signature(str(tmp_path)) != before
    assert signature(str(tmp_path / "nothing here")) is None


def test_a_new_shard_is_followed_through_every_stage_by_what_is_due(lake):
    """Deleting a shard's tables one stage at a time gives the order in which they come back."""
    for table in names_of("shard"):
        lake.path(table, "shard-00001").unlink(missing_ok=table in ("written_captions", "scores"))  # nothing to do in this lake
    work = due(survey(lake, resolve(lake)[0]))
    assert [(w.tables, w.partition) for w in work] == [(("images",), "shard-00001")]
