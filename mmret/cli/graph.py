"""The one door from the commands to the lineage graph: nothing else in ``mmret`` imports ``assets``, and with it Dagster.

Importing Dagster takes over a second, so it is imported inside the functions: only commands that start the graph pay for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mmret.cli.cluster_progress import ClusterProgress
from mmret.cli.run_progress import RunProgress
from mmret.freshness.last_run import forget_last_run, note_last_run, read_last_run, record_path
from mmret.lake import Lake
from mmret.lake.lease import Lease
from mmret.lake.lease import exclusive as lease_of
from mmret.progress import reporting
from mmret.ray_cluster import address_in, require
from mmret.settings import Profile

if TYPE_CHECKING:
    from mmret.freshness.outcome import Outcome


@contextmanager
def exclusive(lake: Lake, choices: dict[str, Any] | None = None, command: str = "mmret run") -> Iterator[Lease]:
    """Hold the lake's lease for the block, so that no two runs write it at once.

    ``choices``: settings to record with the lake first (:meth:`Lake.write_configuration`). Where the last run was cut short, the
    files that it left half written are removed before the block begins. Raises UserError while another process holds the lake.
    """
    with lease_of(lake, command) as lease:
        if choices is not None:
            lake.write_configuration(choices)
        if lease.unfinished:
            removed = lease.recover()
            print(f"the last run was cut short; taking its work up again ({removed} stray files removed)", file=sys.stderr)
        yield lease


def materialize(
    lease: Lease, profile: Profile, progress: RunProgress, until: str | None = None, forget_missing: bool = False
) -> Outcome:
    """Compute what is missing or stale, stage after stage, recorded in the Dagster instance of the lake that ``lease`` holds.

    ``until``: no further than this stage, and without the checks. ``forget_missing``: take out pictures that are gone from their
    sources. The checks are made where anything was computed, and where one failed the last time or the last run is not known to
    have made them. Returns what was computed, per stage. Raises UserError with the cause where a stage fails.
    """
    progress.until = until
    record = record_path(lease.lake)
    last = read_last_run(record)
    check = until is None and (last is None or bool(last.failed))
    forget_last_run(record)
    with progress, reporting(progress.advance):
        if isinstance(progress, ClusterProgress):
            return _cluster_runner(lease, profile, progress).run(until, forget_missing, check)
        from assets.runner.run import Runner

        outcome = Runner(lease, profile, progress.stage).run(until, forget_missing, check)
    if until is None:
        note_last_run(record, lease.lake, profile, [name for name, passed in outcome.checks.items() if not passed])
    return outcome


def progress_of(lake: Lake, profile: Profile, on: str | None) -> RunProgress:
    """The display of a run in this process, or ``on`` a cluster: ``ray``, whose address is RAY_ADDRESS, or ``ray:ADDRESS``.

    Raises UserError for another word, and where the libraries are not installed.
    """
    if on is None:
        return RunProgress(lake, profile)
    address = address_in(on)
    require("ray", "dagster_ray", "dagster_postgres")
    progress = ClusterProgress(lake, profile)
    progress.address = address
    return progress


def _cluster_runner(lease: Lease, profile: Profile, progress: ClusterProgress) -> Any:
    from assets.runner.cluster_run import ClusterRunner

    runner = ClusterRunner(lease, profile, progress.stage, progress, progress.address)
    progress.print(f"cluster {runner.ray.address} · up to {runner.ray.at_once} launches at once")
    return runner
