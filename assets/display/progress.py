"""What Dagster shows of a partition while it is computed: lines in the run's log, observations on the asset's page.

Both come at a rate that a history bears (:mod:`mmret.progress_reports`); a partition of some seconds has none. Costs two events a
minute at first, under two hundred in a week.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from assets.display import live
from mmret.progress import advance, also_reporting
from mmret.progress_reports import Loop, Report, Schedule
from mmret.stages import UNPARTITIONED

FIRST_LINE, LINE_EVERY = 10.0, 30.0
FIRST_OBSERVATION, OBSERVATION_EVERY = 30.0, 60.0

clock: Callable[[], float] = time.monotonic
"""Seconds; tests set another."""


@contextmanager
def telling(context: dg.AssetExecutionContext, table: str, partition: str) -> Iterator[None]:
    """Inside the block, loops that compute ``partition`` of ``table`` tell Dagster how far they are, beside other listeners."""

    def log(report: Report) -> None:
        context.log.info(f"{table} {partition} · {report.line()}")

    def observe(report: Report) -> None:
        of = None if partition == UNPARTITIONED else partition
        context.log_event(dg.AssetObservation(table, partition=of, metadata=shown(report), description=report.line()))

    tell = [(Schedule(FIRST_LINE, LINE_EVERY), log), (Schedule(FIRST_OBSERVATION, OBSERVATION_EVERY), observe)]
    if lake := context.run.tags.get(live.TAG):
        tell.append((live.Steadily(), lambda report: live.publish(context.instance, lake, table, partition, report)))
    with also_reporting(Loop(tell, clock=lambda: clock())):
        advance(table, 0, None)  # so that the time left of a run knows when each stage began
        yield
    if lake:
        live.finish(context.instance, lake, table, partition)


def shown(report: Report) -> dict[str, Any]:
    """The metadata of an observation. Numbers are plain, so that the UI plots them; the expected end is shown in local time."""
    found: dict[str, Any] = {"task": report.task, "done": report.done, "seconds": round(report.seconds, 1)}
    if report.total:
        found |= {"total": report.total, "percent": round(100 * report.done / report.total, 1)}
    if report.per_second is not None:
        found["rows_per_second"] = round(report.per_second, 3)
    if report.left is not None:
        found["seconds_left"] = round(report.left, 1)
        found["expected_end"] = dg.MetadataValue.timestamp(time.time() + report.left)
    counts = report.counts
    found["rejects"] = sum(counts.rejects.values())
    if counts.rejects:
        found["rejects_by_reason"] = dg.MetadataValue.json(dict(counts.rejects))
    if counts.tokens_in or counts.tokens_out:
        found |= {"tokens_in": counts.tokens_in, "tokens_out": counts.tokens_out}
    if counts.cost:
        found["cost"] = round(counts.cost, 4)
    return found | ({"note": report.note} if report.note else {})
