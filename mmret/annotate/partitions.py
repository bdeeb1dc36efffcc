"""What a partition of answers keeps from one run to the next: the rows that stay, and notes of what was asked and what it took.

Shared by the stages whose rows a model may write: descriptions, instructions and written captions. Costs reading the partition that
is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mmret.annotate.answers import Stats
from mmret.annotate.protocol import Experience
from mmret.annotate.retry import unanswered
from mmret.lake import Lake
from mmret.schemas import TABLES


class Earlier(NamedTuple):
    """Rows of the partition that is there which stay as they are, and its notes; notes are None unless this is a retry."""

    rows: pa.Table
    notes: Mapping[str, Any] | None


def earlier_rows(lake: Lake, table: str, shard: str, inputs: str) -> Earlier:
    """What stays of a partition of ``table`` that was made from the same ``inputs``: all but rows whose request got no answer."""
    facts = lake.facts(table, shard)
    if facts is None or facts.inputs != inputs:
        return Earlier(TABLES[table].empty_table(), None)
    rows = lake.read(table, shard)
    return Earlier(rows.filter(pc.invert(unanswered(rows))), facts.notes)


def experience(lake: Lake, table: str, model: str, answered_here: bool) -> Experience:
    """What ``model`` has answered for ``table`` so far; ``answered_here``: whether rows of this partition stay."""
    if answered_here:
        return "here"
    notes = (facts.notes for shard in lake.partitions(table) if (facts := lake.facts(table, shard)))
    return "elsewhere" if any(n.get("model") == model and n.get("ok") for n in notes) else "none"


def answer_notes(rows: pa.Table, stats: Stats, remarks: Sequence[str] | None) -> dict[str, Any]:
    """Counts, tokens, rates and cost; rows without a request of their own are not among the reasons. ``remarks``: the back-end's;
    None where no model answers.

    Tokens are those of all ``rows``; requests, rates, seconds and cost are of this run, so a second run that asked nothing has 0.
    """
    failed = rows.filter(pc.and_(pc.not_equal(rows["status"], "ok"), pc.is_valid(rows["request_key"])))
    notes: dict[str, Any] = {
        "model": rows["model"][0].as_py() if rows.num_rows else None,
        "ok": pc.sum(pc.equal(rows["status"], "ok")).as_py() or 0,
        "reasons": {r["values"]: r["counts"] for r in pc.value_counts(failed["reason"]).to_pylist()},
        "tokens_in": pc.sum(rows["tokens_in"]).as_py() or 0,
        "tokens_out": pc.sum(rows["tokens_out"]).as_py() or 0,
        "requests_sent": stats.sent,
        "answers_reused": stats.stored,
        "annotation_seconds": round(stats.seconds, 3),
        "requests_per_second": round(stats.requests / stats.seconds, 1) if stats.seconds else 0.0,
        "sent_per_second": round(stats.sent / stats.seconds, 2) if stats.seconds else 0.0,
    }
    if remarks is not None:
        if stats.words:
            notes["server_words"] = stats.words
        if remarks:
            notes["remarks"] = list(dict.fromkeys(remarks))
        notes |= {"cost": round(stats.cost, 4), "sent_tokens_in": stats.tokens_in, "sent_tokens_out": stats.tokens_out}
    return notes
