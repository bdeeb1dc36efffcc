"""Asks for sealing once a watched source has changed and is quiet again. A tick costs one ``lstat`` a file; nothing is read."""

import json
import time
from collections.abc import Iterable

import dagster as dg

from mmret.ingest.watch import signature, watchable


def look(sources: Iterable[str], cursor: str | None, settle_seconds: float) -> dg.SensorResult:
    """A run request once a source is as it was for ``settle_seconds`` and not as it was sealed; ``cursor``: the last look's."""
    before_all = json.loads(cursor or "{}")
    now, seen, ready = time.time(), {}, []
    for source in watchable(sources):
        found = signature(source)
        before = before_all.get(source, {})
        since = before.get("since", now) if before.get("seen") == found else now
        sealed = before.get("sealed")
        if found != sealed and found is not None and now - since >= settle_seconds:
            ready.append(source)
            sealed = found
        seen[source] = {"seen": found, "since": since, "sealed": sealed}
    if not ready:
        waiting = [s for s, v in seen.items() if v["seen"] != v["sealed"]]
        return dg.SensorResult(
            cursor=json.dumps(seen),
            skip_reason=dg.SkipReason(
                f"waiting for {', '.join(waiting)} to be quiet" if waiting else "no watched source has changed"
            ),
        )
    key = "|".join(f"{s}:{seen[s]['sealed']}" for s in ready)
    return dg.SensorResult(
        [dg.RunRequest(run_key=key, tags={"mmret/because": f"new in {', '.join(ready)}"[:250]})], cursor=json.dumps(seen)
    )
