"""Decides which failed requests a later run sends again, and when to stop: no pair may be lost because a server was down, and no
request may be sent for ever.

A row is *unanswered* if its request failed on the way and may succeed another time. A partition with such rows counts as
unfinished, so the next run computes it again and sends these requests alone. Runs that answer none of them are counted; after
``annotate.retries`` of them in a row the partition is left as it is. A run in which no server could be reached at all shows
nothing about the requests, and is not counted. Costs one pass over the rows' reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

REFUSING_STATUSES = frozenset({301, 302, 303, 307, 308, 401, 402, 403, 404, 405, 407, 410, 501})
"""HTTP statuses of a server that would refuse every request: wrong key, unknown path, an address that is elsewhere."""
TRANSIENT_STATUSES = frozenset({408, 409, 425, 429, *range(500, 600)}) - REFUSING_STATUSES
"""HTTP statuses that depend on the server's state, not on the request."""
UNREACHABLE = "unreachable"
"""Reason of a request for which no server could be connected to."""
TRANSIENT_REASONS = {UNREACHABLE, "tls", "no_answer", "timeout", "connection", "bad_response", "too_large"}
TRANSIENT_REASONS |= {f"http_{status}" for status in TRANSIENT_STATUSES | REFUSING_STATUSES}


def unanswered(rows: pa.Table) -> pa.ChunkedArray:
    """Whether the request of each row, or its judge's, got no answer: (rows,) bool, for rows of DESCRIPTIONS or INSTRUCTIONS.

    False where a row only repeats the reason of its description: that request is sent once the description is there.
    """
    reason = pc.replace_substring_regex(pc.fill_null(rows["reason"], ""), "^judge_", "")
    failed = pc.and_(pc.equal(rows["status"], "failed"), pc.is_valid(rows["request_key"]))
    return pc.and_(failed, pc.is_in(reason, pa.array(sorted(TRANSIENT_REASONS))))


def retry_notes(rows: pa.Table, before: Mapping[str, Any] | None) -> dict[str, int]:
    """Notes ``unanswered`` and ``retries`` of a partition with ``rows``; ``before``: its earlier notes, where this is a retry."""
    left = rows.filter(unanswered(rows))
    retries = 0
    if before is not None and left.num_rows and left.num_rows >= before.get("unanswered", 0):
        no_server = pc.all(pc.match_substring_regex(left["reason"], f"^(judge_)?{UNREACHABLE}$")).as_py()
        retries = before.get("retries", 0) + (not no_server)
    return {"unanswered": left.num_rows, "retries": retries}


def needs_retry(notes: Mapping[str, Any], retries: int) -> bool:
    """Whether a partition with these notes is to be computed again because of unanswered requests; at most ``retries`` times."""
    return notes.get("unanswered", 0) > 0 and notes.get("retries", 0) < retries
