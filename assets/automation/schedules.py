"""A scheduled partition backfill: each tick launches what is missing or stale and can run now, as ranges of shards.

What waits for the results of one tick is launched by the next, a quarter of an hour later by default. The sensor
``missing_or_stale_shards`` does the same without that wait; the schedule is for quiet hours and small machines.
"""

from collections.abc import Iterable, Iterator

import dagster as dg

from assets.automation.jobs import stale_shards
from assets.automation.upkeep import nightly
from assets.partitions import corpus_shards
from mmret.freshness.survey import Work, due, survey
from mmret.lake.configuration import resolve
from mmret.lake.lease import is_leased
from mmret.stages import UNPARTITIONED, assets_of
from resources.lake import LakeResource

_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def ranges(work: Iterable[Work], order: list[str]) -> Iterator[list[Work]]:
    """Yield the work of neighbouring shards that have the same stages to compute; each such list becomes one run."""
    at = {shard: i for i, shard in enumerate(order)}
    run: list[Work] = []
    for each in sorted(work, key=lambda w: (w.tables, at.get(w.partition, -1))):
        if run and (each.tables != run[-1].tables or at.get(each.partition, -1) != at.get(run[-1].partition, -2) + 1):
            yield run
            run = []
        run.append(each)
    if run:
        yield run


def request(run: list[Work]) -> dg.RunRequest:
    """One run over a range of shards, tagged with the reason."""
    tables, first, last = run[0].tables, run[0].partition, run[-1].partition
    keys = [dg.AssetKey(t) for t in assets_of(tables)]
    why = "; ".join(dict.fromkeys(reason for work in run for reason in work.reasons))
    tags = {"mmret/because": why[:250], "dagster/priority": "-1"}
    if first != UNPARTITIONED:
        tags |= {_RANGE_START: first, _RANGE_END: last}
    return dg.RunRequest(run_key=f"{tables[0]}:{first}..{last}", asset_selection=keys, tags=tags)


def in_progress(instance: dg.DagsterInstance, tables: Iterable[str], shards: list[str]) -> set[tuple[str, str]]:
    """(table, shard) that a queued or running run is about to write."""
    found = set()
    for table in tables:
        status = instance.get_status_by_partition(dg.AssetKey(table), shards, corpus_shards) or {}
        found |= {(table, shard) for shard, state in status.items() if state is not None and state.value == "IN_PROGRESS"}
    return found


@dg.schedule(
    cron_schedule="*/15 * * * *",
    job=stale_shards,
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Launches what is missing or stale up to triplets and tasks, no more. The tag mmret/because of each run says why.",
)
def backfill_missing_and_stale(context: dg.ScheduleEvaluationContext, lake: LakeResource) -> list[dg.RunRequest] | dg.SkipReason:
    """Launch what is missing or stale up to triplets and tasks, and nothing else; the tag `mmret/because` of each run says why."""
    store = lake.open()
    if is_leased(store):
        return dg.SkipReason(f"`mmret run` is working on {store.address}")
    shards = context.instance.get_dynamic_partitions(corpus_shards.name)
    work = [w for w in due(survey(store, resolve(store)[0])) if w.partition in shards or w.partition == UNPARTITIONED]
    running = in_progress(context.instance, {t for w in work for t in w.tables if w.partition != UNPARTITIONED}, shards)
    work = [w for w in work if not any((t, w.partition) in running for t in w.tables)]
    if unfinished := context.instance.get_runs(
        dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])
    ):
        whole = {k.path[-1] for run in unfinished for k in run.asset_selection or ()}
        work = [w for w in work if w.partition != UNPARTITIONED or not whole & set(w.tables)]
    return [request(run) for run in ranges(work, shards)] or dg.SkipReason("nothing is missing or stale")


SCHEDULES = [backfill_missing_and_stale, nightly]
