"""Annotation as it runs on a lake: descriptions, then instructions, then triplets of one shard.

Answers already stored are reused whatever the partition file says, so only requests never answered cost anything. A partition
written again from the same inputs is a retry: its rows are kept, save those whose request was never answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmret.annotate.ask import Tally
from mmret.annotate.protocol import Annotator
from mmret.annotate.retry import retry_notes, unanswered
from mmret.annotate.steps import describe, instruct
from mmret.annotate.store import AnswerStore
from mmret.assemble.triplets import assemble
from mmret.ingest.images import images_by_id
from mmret.lake import Facts, Lake
from mmret.schemas import TABLES
from mmret.settings import AnnotateSettings, EvaluateSettings


def _images_of(lake: Lake, pairs: pa.Table, *columns: str) -> pa.Table:
    named = pc.unique(pa.chunked_array([*pairs["query_id"].chunks, *pairs["target_id"].chunks], type=pa.string()))
    return lake.read("images", columns=["image_id", *columns], filters=pc.field("image_id").isin(named))


def _captions(lake: Lake, pairs: pa.Table) -> dict[str, str]:
    images = _images_of(lake, pairs, "caption")
    return dict(zip(images["image_id"].to_pylist(), images["caption"].to_pylist(), strict=True))


def _notes(rows: pa.Table, tally: Tally, settings: AnnotateSettings, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a person plans with. A pair whose description failed is counted there, not again with the instructions.

    Tokens are those of all rows; requests, rates, seconds and cost are of this run, so a second run that asked nothing says 0.
    """
    own = rows.filter(pc.and_(pc.not_equal(rows["status"], "ok"), pc.is_valid(rows["request_key"])))
    notes: dict[str, Any] = {
        "model": rows["model"][0].as_py() if rows.num_rows else None,
        "ok": pc.sum(pc.equal(rows["status"], "ok")).as_py() or 0,
        "reasons": {r["values"]: r["counts"] for r in pc.value_counts(own["reason"]).to_pylist()},
        "tokens_in": pc.sum(rows["tokens_in"]).as_py() or 0,
        "tokens_out": pc.sum(rows["tokens_out"]).as_py() or 0,
        "requests_sent": tally.sent,
        "answers_reused": tally.stored,
        "annotation_seconds": round(tally.seconds, 3),
        "requests_per_second": round(tally.requests / tally.seconds, 1) if tally.seconds else 0.0,
        "sent_per_second": round(tally.sent / tally.seconds, 2) if tally.seconds else 0.0,
    }
    if settings.backend != "captions":
        notes |= {"cost": round(tally.cost, 4), "sent_tokens_in": tally.tokens_in, "sent_tokens_out": tally.tokens_out}
    return notes | retry_notes(rows, before)


def _answered(lake: Lake, table: str, shard: str, inputs: str) -> tuple[pa.Table, Mapping[str, Any] | None]:
    """Rows of the partition that stay as they are, and its notes, where it was made from the same inputs: this is a retry."""
    facts = lake.facts(table, shard)
    if facts is None or facts.inputs != inputs:
        return TABLES[table].empty_table(), None
    rows = lake.read(table, shard)
    return rows.filter(pc.invert(unanswered(rows))), facts.notes


def _without(pairs: pa.Table, rows: pa.Table) -> pa.Table:
    if not rows.num_rows:
        return pairs
    return pairs.filter(pc.invert(pc.is_in(pairs["pair_id"], rows["pair_id"].combine_chunks())))


def describe_shard(lake: Lake, shard: str, annotator: Annotator, settings: AnnotateSettings, inputs: str) -> tuple[Facts, int]:
    """Write ``descriptions`` of a shard: every pair is a row, with a reason where it has no text.

    Where the partition was made from the same ``inputs``, only its unanswered rows are worked on. Returns how many were.
    """
    kept, before = _answered(lake, "descriptions", shard, inputs)
    pairs, tally = _without(lake.read("pairs", shard), kept), Tally()
    annotator.load_images = partial(images_by_id, lake)
    rows = describe(pairs, _captions(lake, pairs), annotator, settings, AnswerStore(lake.root / "answers"), tally)
    rows = pa.concat_tables([kept, rows]).sort_by("pair_id")
    return lake.write("descriptions", shard, rows, inputs, **_notes(rows, tally, settings, before)), pairs.num_rows


def instruct_shard(lake: Lake, shard: str, annotator: Annotator, settings: AnnotateSettings, inputs: str) -> tuple[Facts, int]:
    """Write ``instructions`` of a shard: every pair is a row, with a reason where it has no texts. Retries as above."""
    kept, before = _answered(lake, "instructions", shard, inputs)
    pairs, tally = _without(lake.read("pairs", shard), kept), Tally()
    described = _without(lake.read("descriptions", shard), kept)
    annotator.load_images = partial(images_by_id, lake)  # a judge looks at them
    store = AnswerStore(lake.root / "answers")
    rows = instruct(described, pairs, _captions(lake, pairs), annotator, settings, store, tally)
    rows = pa.concat_tables([kept, rows]).sort_by("pair_id")
    return lake.write("instructions", shard, rows, inputs, **_notes(rows, tally, settings, before)), pairs.num_rows


def seconds_left(lake: Lake, table: str, like: str) -> float | None:
    """Time that the mined shards without a partition of ``table`` will take, at the mean pace of those written by the model that
    wrote shard ``like``. None where that cannot be told: it was written by an earlier version, or in no time."""
    done = [facts.notes | {"rows": facts.rows} for shard in lake.partitions(table) if (facts := lake.facts(table, shard))]
    model = lake.facts(table, like).notes.get("model")
    worked = [n for n in done if model and n.get("model") == model and n["annotation_seconds"] and not n["retries"]]
    rows, seconds = sum(n["rows"] for n in worked), sum(n["annotation_seconds"] for n in worked)
    waiting = set(lake.partitions("pairs")) - set(lake.partitions(table))
    left = sum(facts.rows for shard in waiting if (facts := lake.facts("pairs", shard)))
    return round(left * seconds / rows, 1) if rows else None


def assemble_shard(
    lake: Lake, shard: str, settings: EvaluateSettings, inputs: str, measure: Callable[[pa.Table], dict[str, Any]] | None = None
) -> Facts:
    """Write ``triplets`` of a shard; what ``measure`` says of them is noted as their ``quality``."""
    pairs = lake.read("pairs", shard)
    rows, left_out = assemble(
        pairs,
        lake.read("descriptions", shard),
        lake.read("instructions", shard),
        _images_of(lake, pairs, "path", "licence"),
        settings,
    )
    train = pc.sum(pc.equal(rows["split"], "train")).as_py() or 0
    noted = {"quality": measure(rows)} if measure is not None and rows.num_rows else {}
    return lake.write("triplets", shard, rows, inputs, train=train, test=rows.num_rows - train, left_out=left_out, **noted)
