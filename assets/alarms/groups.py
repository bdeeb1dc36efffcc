"""Gathers failures so that a backfill of fifty failing shards is two messages, not fifty. Pure: state in, messages and state out.

Failures of one backfill are one group, others by stage and reason, numbers and names of partitions aside. The first of a group is
told at once, with all that came in the same tick; what comes in the ``window`` after that is gathered and told at its end.
"""

import re
from collections.abc import Iterable
from typing import Any

from assets.alarms.failures import Failure

MOST_MESSAGES = 5
"""Groups due in one tick beyond this many share one message."""
_MOST_NAMED, _MOST_REASONS = 20, 5

Group = dict[str, Any]
"""What is told of a group, as JSON: count, stages and reasons with counts, first partitions, first run, backfill, again."""


def key_of(failure: Failure) -> str:
    """Failures with the same key are told together."""
    if failure.backfill:
        return f"backfill {failure.backfill}"
    if failure.check:
        return f"check {failure.stage} {failure.check}"
    reason = failure.reason
    for name in filter(None, re.split(r" to |, ", failure.partition)):
        reason = reason.replace(name, "…")
    return f"{failure.stage} {re.sub(r'[0-9a-f]{8,}|[0-9]+', '#', reason)[:200]}"


def _count(counts: dict[str, int], name: str, most: int) -> None:
    name = name if name in counts or len(counts) < most else "others"
    counts[name] = counts.get(name, 0) + 1


def gather(held: dict[str, Group], failures: Iterable[Failure]) -> None:
    """Add ``failures`` to their groups in ``held``."""
    for failure in failures:
        empty: Group = {"count": 0, "stages": {}, "reasons": {}, "partitions": [], "unnamed": 0}
        group = held.setdefault(key_of(failure), empty | {"run": failure.run, "backfill": failure.backfill, "again": False})
        group["count"] += 1
        _count(group["stages"], failure.stage, _MOST_NAMED)
        _count(group["reasons"], failure.reason, _MOST_REASONS)
        if failure.partition and failure.partition not in group["partitions"]:
            if len(group["partitions"]) < _MOST_NAMED:
                group["partitions"].append(failure.partition)
            else:
                group["unnamed"] += 1


def due(held: dict[str, Group], quiet: dict[str, float], now: float, window: float) -> list[Group]:
    """Take out of ``held`` the groups to be told of now; ``quiet`` says until when, in seconds, a group is to be silent."""
    told = []
    for key in [key for key in held if quiet.get(key, 0) <= now]:
        told.append(held.pop(key) | {"again": key in quiet})
        quiet[key] = now + window
    for key in [key for key, until in quiet.items() if until <= now and key not in held]:
        del quiet[key]
    return told
