"""The sensor behind the alarms: looks at runs that ended since its last tick, and says what failed in them, once.

A tick costs two small queries, and one for each run that ended. Failures are always logged; settings ``alarms.*`` of the lake send
them by mail or to a webhook too. Dagster's own run-failure sensor is called for each run by itself and keeps no memory, so that
nothing could be gathered; nor would it see a check that failed in a run that went on.

Left out: runs of `mmret run`, which tells of its failures where it was started, and a run that Dagster is about to start again.
"""

import json
import time
from dataclasses import asdict
from typing import Any

import dagster as dg

from assets.alarms.deliver import Budget, NotNow, Refused, receivers, send
from assets.alarms.failures import Failure, failures_of
from assets.alarms.groups import MOST_MESSAGES, due, gather
from assets.alarms.message import Message, compose, compose_many
from mmret.errors import UserError
from mmret.lake.configuration import resolve
from mmret.settings import AlarmSettings
from resources.lake import LakeResource

_ENDS = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS)
_RUNS_PER_TICK = 200
_SECONDS_PER_TICK = 20.0  # Dagster gives up on a tick after 60
_TRIES = 6  # after 1, 2, 4, 8 and 16 minutes
_MOST_UNSENT = 20


def _newest(instance: dg.DagsterInstance) -> dict[str, int]:
    """Where a sensor begins that was just switched on: what failed before raises no alarm."""
    found = {}
    for kind in _ENDS:
        records = instance.fetch_run_status_changes(kind, limit=1).records
        found[kind.value] = records[0].storage_id if records else -1
    return found


def _ended(context: dg.SensorEvaluationContext, after: dict[str, int]) -> list[tuple[dg.DagsterRun, dg.DagsterEvent]]:
    """Runs of this code location that ended since, with their last event; ``after`` is moved on."""
    records = []
    for kind in _ENDS:
        wanted = dg.RunStatusChangeRecordsFilter(event_type=kind, after_storage_id=after.get(kind.value, -1))
        found = context.instance.fetch_run_status_changes(wanted, ascending=True, limit=_RUNS_PER_TICK).records
        if found:
            after[kind.value] = found[-1].storage_id
        records += found
    ids = [record.event_log_entry.run_id for record in records]
    runs = {run.run_id: run for run in context.instance.get_runs(dg.RunsFilter(run_ids=ids))} if ids else {}
    here = context.code_location_origin and context.code_location_origin.location_name
    return [
        (runs[entry.run_id], entry.dagster_event)
        for entry in (record.event_log_entry for record in records)
        if entry.run_id in runs and _location(runs[entry.run_id]) in (None, here)
    ]


def _location(run: dg.DagsterRun) -> str | None:
    origin = run.remote_job_origin
    return origin.repository_origin.code_location_origin.location_name if origin else None


def _failures(context: dg.SensorEvaluationContext, after: dict[str, int], settings: AlarmSettings) -> list[Failure]:
    found = []
    for run, ended in _ended(context, after):
        failed = ended.event_type_value == dg.DagsterEventType.RUN_FAILURE.value
        if "mmret/lease" in run.tags and not settings.of_terminal:
            continue
        if failed and run.tags.get("dagster/will_retry") == "true":
            context.log.info(f"run {run.run_id} failed and is started once more")
            continue
        found += failures_of(context.instance, run, ended if failed else None)
    return found


def _deliver(context: dg.SensorEvaluationContext, unsent: list[dict[str, Any]], settings: AlarmSettings, now: float) -> list[dict]:
    """Send what waits; returns what has to be tried again, each as ``{way, message, tries, next}``."""
    left, budget = [], Budget(_SECONDS_PER_TICK)
    for each in unsent:
        if each["next"] > now or not budget.left():
            left.append(each)
            continue
        message = Message(**each["message"])
        try:
            send(each["way"], message, settings)
        except (NotNow, Refused) as error:
            tries = each["tries"] + 1
            if isinstance(error, Refused) or tries >= _TRIES:
                context.log.error(f"not sent, and not tried again: {message.subject}: {error}")
            else:
                left.append(each | {"tries": tries, "next": now + 60 * 2 ** (tries - 1)})
                context.log.warning(f"not sent yet: {message.subject}: {error}; tried again in {2 ** (tries - 1)} min")
        else:
            context.log.info(f"sent by {each['way']}: {message.subject}")
    if len(left) > _MOST_UNSENT:
        context.log.error(f"{len(left) - _MOST_UNSENT} older alarms are dropped that could not be sent")
    return left[-_MOST_UNSENT:]


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells of failed runs and checks, in the log and as the settings alarms.* say; launches nothing.",
)
def alarms(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult:
    """Say which stage failed for which shard, why, and what to run; once per failure or backfill and window."""
    if not context.cursor:
        state = {"after": _newest(context.instance), "held": {}, "quiet": {}, "unsent": []}
        return dg.SensorResult(cursor=json.dumps(state), skip_reason=dg.SkipReason("from now on failed runs are told of"))
    state, store, now = json.loads(context.cursor), lake.open(), time.time()
    try:
        settings = resolve(store)[0].alarms
    except UserError as error:  # a lake whose settings no longer load: its runs fail of that, and it must be told of
        context.log.error(f"alarms are only logged until the settings are mended: {error}")
        settings = AlarmSettings()
    failures = _failures(context, state["after"], settings)
    gather(state["held"], failures)
    groups = due(state["held"], state["quiet"], now, 60 * settings.window_minutes)
    where = store.address
    if len(groups) > MOST_MESSAGES:
        messages = [compose_many(groups, where, settings.ui)]
    else:
        messages = [compose(group, where, settings.ui) for group in groups]
    for message in messages:
        context.log.warning(message.text)
        state["unsent"] += [{"way": w, "message": asdict(message), "tries": 0, "next": now} for w in receivers(settings)]
    ways = receivers(settings)
    state["unsent"] = _deliver(context, [each for each in state["unsent"] if each["way"] in ways], settings, now)
    said = [message.subject.removeprefix("mmret: ") for message in messages]
    waiting = [f"{len(state['unsent'])} to be sent again"] if state["unsent"] else []
    held = sum(group["count"] for group in state["held"].values())
    waiting += [f"{held} gathered until the window ends"] if held else []
    reason = "; ".join([*said, *waiting]) or "no run has failed"
    return dg.SensorResult(cursor=json.dumps(state), skip_reason=dg.SkipReason(reason))
