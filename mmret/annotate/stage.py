"""The stages ``descriptions`` and ``instructions`` on a lake: one shard's pairs become rows with texts.

Stored answers are used again whatever the partition's file says, so only requests never answered cost anything. A partition written
again from the same inputs is a retry: its rows stay as they are, save those whose request was never answered.
"""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from mmret.annotate.answers import Stats
from mmret.annotate.describe import describe
from mmret.annotate.instruct import instruct
from mmret.annotate.kinds import AnnotationTable, request_kind
from mmret.annotate.partitions import Earlier, answer_notes, earlier_rows, experience
from mmret.annotate.protocol import Annotator
from mmret.annotate.retry import retry_notes
from mmret.annotate.store import AnswerStore
from mmret.ingest.pictures.images import images_by_id
from mmret.ingest.pictures.pair_images import captions_of
from mmret.lake import Facts, Lake
from mmret.lake.inputs import linked_shards
from mmret.settings import AnnotateSettings

_OF_PAIRS = ["pair_id", "query_id", "target_id"]
_OF_DESCRIPTIONS = ["pair_id", "text", "status", "reason"]


def describe_shard(lake: Lake, shard: str, annotator: Annotator, settings: AnnotateSettings, inputs: str) -> tuple[Facts, int]:
    """Write ``descriptions`` of a shard: every pair is a row, with a reason where it has no text.

    Where the partition was made from the same ``inputs``, only its unanswered rows are worked on. Returns the facts of the
    partition and how many rows were worked on.

    >>> describe_shard(lake, "shard-00000", load_annotator(profile.annotate, "descriptions"), profile.annotate, fingerprint)
    """
    earlier, stats = earlier_rows(lake, "descriptions", shard, inputs), Stats()
    model = annotator.model_for(request_kind("descriptions", settings, annotator))
    annotator.experience = experience(lake, "descriptions", model, bool(earlier.rows.num_rows))
    pairs = _without(lake.read("pairs", shard, _OF_PAIRS), earlier.rows)
    annotator.load_images, annotator.storage = partial(images_by_id, lake), lake.storage
    rows = describe(pairs, _captions(lake, shard, pairs), annotator, settings, _answer_store(lake), stats)
    return _write(lake, "descriptions", shard, inputs, earlier, rows, stats, annotator), pairs.num_rows


def instruct_shard(lake: Lake, shard: str, annotator: Annotator, settings: AnnotateSettings, inputs: str) -> tuple[Facts, int]:
    """Write ``instructions`` of a shard: every pair is a row, with a reason where it has no texts.

    Otherwise as :func:`describe_shard`.
    """
    earlier, stats = earlier_rows(lake, "instructions", shard, inputs), Stats()
    model = annotator.model_for(request_kind("instructions", settings, annotator))
    annotator.experience = experience(lake, "instructions", model, bool(earlier.rows.num_rows))
    pairs = _without(lake.read("pairs", shard, _OF_PAIRS), earlier.rows)
    descriptions = _without(lake.read("descriptions", shard, _OF_DESCRIPTIONS), earlier.rows)
    annotator.load_images, annotator.storage = partial(images_by_id, lake), lake.storage  # a judge looks at them
    rows = instruct(descriptions, pairs, _captions(lake, shard, pairs), annotator, settings, _answer_store(lake), stats)
    return _write(lake, "instructions", shard, inputs, earlier, rows, stats, annotator), pairs.num_rows


def _captions(lake: Lake, shard: str, pairs: pa.Table) -> dict[str, str]:
    return captions_of(lake, pairs, linked_shards(lake, "pairs", shard))


def _without(pairs: pa.Table, rows: pa.Table) -> pa.Table:
    """``pairs`` without those that ``rows`` has."""
    if not rows.num_rows:
        return pairs
    return pairs.filter(pc.invert(pc.is_in(pairs["pair_id"], rows["pair_id"].combine_chunks())))


def _answer_store(lake: Lake) -> AnswerStore:
    return AnswerStore(lake.storage)


def _write(
    lake: Lake,
    table: AnnotationTable,
    shard: str,
    inputs: str,
    earlier: Earlier,
    rows: pa.Table,
    stats: Stats,
    annotator: Annotator,
) -> Facts:
    if earlier.rows.num_rows:
        rows = pa.concat_tables([earlier.rows, rows]).sort_by("pair_id")
    notes = answer_notes(rows, stats, annotator.remarks if annotator.uses_model else None)
    return lake.write(table, shard, rows, inputs, **notes, **retry_notes(rows, earlier.notes))


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
