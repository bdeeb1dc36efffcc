"""The stages ``descriptions`` and ``instructions`` on a lake: one shard's pairs become rows with texts.

Stored answers are used again whatever the partition's file says, so only requests never answered cost anything. A partition written
again from the same inputs is a retry: its rows stay as they are, save those whose request was never answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mmret.annotate.answers import Stats
from mmret.annotate.describe import describe
from mmret.annotate.instruct import instruct
from mmret.annotate.kinds import AnnotationTable, request_kind
from mmret.annotate.protocol import Annotator, Experience
from mmret.annotate.retry import retry_notes, unanswered
from mmret.annotate.store import AnswerStore
from mmret.ingest.pictures.images import images_by_id
from mmret.ingest.pictures.pair_images import captions_of
from mmret.lake import Facts, Lake
from mmret.lake.inputs import linked_shards
from mmret.schemas import TABLES
from mmret.settings import AnnotateSettings


def describe_shard(lake: Lake, shard: str, annotator: Annotator, settings: AnnotateSettings, inputs: str) -> tuple[Facts, int]:
    """Write ``descriptions`` of a shard: every pair is a row, with a reason where it has no text.

    Where the partition was made from the same ``inputs``, only its unanswered rows are worked on. Returns the facts of the
    partition and how many rows were worked on.

    >>> describe_shard(lake, "shard-00000", load_annotator(profile.annotate, "descriptions"), profile.annotate, fingerprint)
    """
    earlier, stats = _answered_rows(lake, "descriptions", shard, inputs), Stats()
    annotator.experience = _experience(
        lake, "descriptions", annotator.model_for(request_kind("descriptions", settings, annotator)), earlier
    )
    pairs = _without(lake.read("pairs", shard), earlier.rows)
    annotator.load_images = partial(images_by_id, lake)
    rows = describe(pairs, _captions(lake, shard, pairs), annotator, settings, _answer_store(lake), stats)
    return _write(lake, "descriptions", shard, inputs, earlier, rows, stats, annotator), pairs.num_rows


def instruct_shard(lake: Lake, shard: str, annotator: Annotator, settings: AnnotateSettings, inputs: str) -> tuple[Facts, int]:
    """Write ``instructions`` of a shard: every pair is a row, with a reason where it has no texts.

    Otherwise as :func:`describe_shard`.
    """
    earlier, stats = _answered_rows(lake, "instructions", shard, inputs), Stats()
    annotator.experience = _experience(
        lake, "instructions", annotator.model_for(request_kind("instructions", settings, annotator)), earlier
    )
    pairs = _without(lake.read("pairs", shard), earlier.rows)
    descriptions = _without(lake.read("descriptions", shard), earlier.rows)
    annotator.load_images = partial(images_by_id, lake)  # a judge looks at them
    rows = instruct(descriptions, pairs, _captions(lake, shard, pairs), annotator, settings, _answer_store(lake), stats)
    return _write(lake, "instructions", shard, inputs, earlier, rows, stats, annotator), pairs.num_rows


def _captions(lake: Lake, shard: str, pairs: pa.Table) -> dict[str, str]:
    return captions_of(lake, pairs, linked_shards(lake, "pairs", shard))


class _Earlier(NamedTuple):
    """Rows of the partition that is there which stay as they are, and its notes; notes are None unless this is a retry."""

    rows: pa.Table
    notes: Mapping[str, Any] | None


def _answered_rows(lake: Lake, table: AnnotationTable, shard: str, inputs: str) -> _Earlier:
    facts = lake.facts(table, shard)
    if facts is None or facts.inputs != inputs:
        return _Earlier(TABLES[table].empty_table(), None)
    rows = lake.read(table, shard)
    return _Earlier(rows.filter(pc.invert(unanswered(rows))), facts.notes)


def _without(pairs: pa.Table, rows: pa.Table) -> pa.Table:
    """``pairs`` without those that ``rows`` has."""
    if not rows.num_rows:
        return pairs
    return pairs.filter(pc.invert(pc.is_in(pairs["pair_id"], rows["pair_id"].combine_chunks())))


def _experience(lake: Lake, table: AnnotationTable, model: str, earlier: _Earlier) -> Experience:
    """What ``model`` has answered for ``table`` so far."""
    if earlier.rows.num_rows:
        return "here"
    notes = (facts.notes for shard in lake.partitions(table) if (facts := lake.facts(table, shard)))
    return "elsewhere" if any(n.get("model") == model and n.get("ok") for n in notes) else "none"


def _answer_store(lake: Lake) -> AnswerStore:
    return AnswerStore(lake.root / "answers")


def _write(
    lake: Lake,
    table: AnnotationTable,
    shard: str,
    inputs: str,
    earlier: _Earlier,
    rows: pa.Table,
    stats: Stats,
    annotator: Annotator,
) -> Facts:
    rows = pa.concat_tables([earlier.rows, rows]).sort_by("pair_id")
    return lake.write(table, shard, rows, inputs, **_notes(rows, stats, annotator), **retry_notes(rows, earlier.notes))


def _notes(rows: pa.Table, stats: Stats, annotator: Annotator) -> dict[str, Any]:
    """The partition's notes: counts, tokens, rates and cost. A pair whose description failed is counted with the descriptions only.

    Tokens are those of all rows; requests, rates, seconds and cost are of this run, so a second run that asked nothing has 0.
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
    if annotator.uses_model:
        if stats.words:
            notes["server_words"] = stats.words
        if annotator.remarks:
            notes["remarks"] = list(dict.fromkeys(annotator.remarks))
        notes |= {"cost": round(stats.cost, 4), "sent_tokens_in": stats.tokens_in, "sent_tokens_out": stats.tokens_out}
    return notes


def seconds_left(lake: Lake, table: AnnotationTable, shard: str) -> float | None:
    """Seconds that the mined shards without a partition of ``table`` will take, at the mean pace of the partitions that the
    model of ``shard`` has written. None where that is not known: ``shard`` was written by an earlier version, or in no time.
    """
    model = lake.facts(table, shard).notes.get("model")
    facts = [f for each in lake.partitions(table) if (f := lake.facts(table, each))]
    paced = [
        f for f in facts if model and f.notes.get("model") == model and f.notes["annotation_seconds"] and not f.notes["retries"]
    ]
    rows, seconds = sum(f.rows for f in paced), sum(f.notes["annotation_seconds"] for f in paced)
    missing = set(lake.partitions("pairs")) - set(lake.partitions(table))
    pairs = sum(f.rows for each in missing if (f := lake.facts("pairs", each)))
    return round(pairs * seconds / rows, 1) if rows else None
