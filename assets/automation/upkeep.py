"""A job that merges small files, drops old versions and rebuilds the SQL catalogue. For quiet hours, or after large runs.

Others may read meanwhile. Lance files are merged under the lake's lease, and left alone while another run writes or somebody else
holds it: rows are addressed by position, and merging moves them.
"""

import time
from contextlib import ExitStack

import dagster as dg

from mmret.errors import UserError
from mmret.lake.lease import exclusive, is_leased
from resources.lake import LakeResource, ProfileResource


def other_runs_in_progress(context: dg.OpExecutionContext) -> bool:
    """Whether a run besides this one has begun and not ended."""
    unfinished = context.instance.get_run_ids(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]))
    return bool(set(unfinished) - {context.run_id})


@dg.op(pool="lake", description="Merge small files and drop versions that no reader, checkpoint or --as-of needs any more.")
def compact_lake(context: dg.OpExecutionContext, lake: LakeResource, profile: ProfileResource) -> None:
    from mmret.lake.compact import compact as compact_store
    from mmret.warehouse import refresh_catalogue

    store = lake.open()
    with ExitStack() as lease:
        waits_for = "another run is writing" if other_runs_in_progress(context) else None
        if waits_for is None:
            try:
                held = lease.enter_context(exclusive(store, "the job compact"))
            except UserError as error:
                waits_for = str(error)
            else:
                if held.unfinished:  # a killed `mmret run`: whoever holds the lease next clears up
                    held.recover()
        if waits_for:
            context.log.info(f"the Lance tables wait for the next time: {waits_for}")
        done = compact_store(store, profile.of(store).history, time.time_ns(), refresh_catalogue, lance=waits_for is None)
    context.add_output_metadata(done.counts())


@dg.job(description="Merge small files, drop old versions, make the SQL catalogue anew.")
def compact() -> None:
    compact_lake()


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Makes catalogue.duckdb anew once runs have written; launches nothing.",
)
def fresh_catalogue(lake: LakeResource) -> dg.SkipReason:
    """Keep the file that SQL clients open up to date with runs of this instance. A tick costs a `stat` a partition."""
    from mmret.warehouse import refresh_catalogue

    store = lake.open()
    if not store.partitions("corpus_manifest"):
        return dg.SkipReason(f"{store.address} holds no lake yet")
    if is_leased(store):
        return dg.SkipReason("`mmret run` makes it anew at its end")
    return dg.SkipReason("made anew" if refresh_catalogue(store) else "it is of the lake as it is")


nightly = dg.ScheduleDefinition(
    name="compact_nightly",
    job=compact,
    cron_schedule="30 3 * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Switch it on where runs go on for weeks.",
)
