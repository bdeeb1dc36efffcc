"""How far a step on another machine is, for the `mmret run` that waits for it: one small value a step, overwritten as it goes on.

It lies among the cursors of the Dagster instance, which is what all machines share, and leaves no history. Costs a statement every
two seconds a step, and nothing to runs that nobody watches so.
"""

import json
import logging
from collections.abc import Iterable

import dagster as dg

from mmret.progress import Counts
from mmret.progress_reports import Report

TAG = "mmret/live"
"""Tag of runs that are watched; its value names the lake."""
_EVERY_S = 2.0


class Steadily:
    """When a report is due: every two seconds, from the first on."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self, seconds: float) -> bool:
        if seconds < self._next:
            return False
        self._next = seconds + _EVERY_S
        return True


def _key(lake: str, table: str, partition: str) -> str:
    return f"{TAG}/{lake}/{table}/{partition}"


def publish(instance: dg.DagsterInstance, lake: str, table: str, partition: str, report: Report) -> None:
    """Say how far ``table`` of ``partition`` is. A database that cannot be reached just now stops no step."""
    said = json.dumps([report.done, report.total, report.note])
    try:
        instance.run_storage.set_cursor_values({_key(lake, table, partition): said})
    except Exception as error:
        logging.getLogger(__name__).debug("progress was not published: %s", error)


def finish(instance: dg.DagsterInstance, lake: str, table: str, partition: str) -> None:
    """Say that ``table`` of ``partition`` is made."""
    publish(instance, lake, table, partition, Report(table, 1, 1, 0.0, None, None, "", Counts()))


def forget(instance: dg.DagsterInstance, lake: str, tables: Iterable[str], partition: str) -> None:
    """Before a launch: what an earlier one said of the same partition is no news."""
    instance.run_storage.set_cursor_values({_key(lake, table, partition): "" for table in tables})


def published(
    instance: dg.DagsterInstance, lake: str, of: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], tuple[int, int | None, str]]:
    """(done, total, note) of each (table, partition) of which something was said."""
    keys = {_key(lake, table, partition): (table, partition) for table, partition in of}
    found = instance.run_storage.get_cursor_values(set(keys)) if keys else {}
    return {keys[key]: tuple(json.loads(value)) for key, value in found.items() if value}
