"""What failed in a run, in words of the lake: stage, partition, reason. Reads the run's own log, some milliseconds."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg

from assets.runner.cause import causes_of

_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
_RESULT = dg.DagsterEventType.ASSET_CHECK_EVALUATION
_OF_INTEREST = {dg.DagsterEventType.STEP_FAILURE, _RESULT}
_CHECK_FAILED = "DagsterAssetCheckFailedError"


@dataclass(frozen=True)
class Failure:
    """``stage`` or, with ``check``, that check of it failed for ``partition``, which may be a range or empty for a whole table."""

    stage: str
    partition: str
    reason: str
    run: str
    backfill: str = ""
    check: str = ""


def partition_of(run: dg.DagsterRun) -> str:
    """``shard-00003``, ``shard-00004 to shard-00007``, or empty for a run without partitions."""
    if one := run.tags.get("dagster/partition"):
        return one
    first, last = (run.tags.get(tag, "") for tag in _RANGE)
    return first if first == last else f"{first} to {last}"


def failures_of(instance: dg.DagsterInstance, run: dg.DagsterRun, ended: dg.DagsterEvent | None = None) -> list[Failure]:
    """Failed checks and steps of ``run``; ``ended`` is its last event where it failed. Empty where nothing failed."""
    events = [entry.dagster_event for entry in instance.all_logs(run.run_id, of_type=_OF_INTEREST)]
    told = {"run": run.run_id, "backfill": run.tags.get("dagster/backfill", "")}
    found = [Failure(**told, **each) for each in _checks(run, events)]
    for cause in causes_of(events):
        if cause.kind != _CHECK_FAILED or not found:
            stage = cause.step.removesuffix("_checks")
            found.append(Failure(stage, cause.partition or partition_of(run), cause.reason, **told))
    if ended is not None and not found:
        stages = sorted(key.path[-1] for key in run.asset_selection or ())
        found.append(Failure(", ".join(stages) or run.job_name, partition_of(run), _ending(ended), **told))
    return found


def _ending(event: dg.DagsterEvent) -> str:
    """Why a run ended that had not failed in a step: killed, or never started."""
    error = getattr(event.event_specific_data, "error", None)
    return (error.message if error else event.message or "") or "it ended without a word"


def _checks(run: dg.DagsterRun, events: list[Any]) -> Iterator[dict[str, str]]:
    """Checks of severity ERROR that failed for the run's partitions, or for the whole lake where no partition is known."""
    results = [event.asset_check_evaluation_data for event in events if event.event_type == _RESULT]
    failed = [r for r in results if not r.passed and r.severity == dg.AssetCheckSeverity.ERROR]
    split = {r.asset_check_key for r in failed if r.partition}
    first, last = (run.tags.get(tag) for tag in _RANGE)
    one = run.tags.get("dagster/partition")
    for result in failed:
        partition = result.partition or ""
        if partition:
            foreign = partition != one if one else first is not None and not first <= partition <= last
        else:
            foreign = result.asset_check_key in split
        if not foreign:
            shown = result.metadata.get("violations")
            rows = f": {', '.join(map(str, shown.value[0]))}" if shown is not None and shown.value else ""
            reason = f"check {result.check_name} failed{rows}"
            yield {"stage": result.asset_key.path[-1], "partition": partition, "reason": reason, "check": result.check_name}
