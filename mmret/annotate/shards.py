"""Annotation as it runs on a lake: descriptions, then instructions, then triplets of one shard.

Answers already stored are reused whatever the partition file says, so only requests never answered cost anything.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmret.annotate.protocol import Annotator
from mmret.annotate.stages import describe, instruct
from mmret.annotate.store import AnswerStore
from mmret.assemble import assemble
from mmret.ingest.images import images_by_id
from mmret.lake import Facts, Lake
from mmret.settings import AnnotateSettings, EvaluateSettings


def _images_of(lake: Lake, pairs: pa.Table, *columns: str) -> pa.Table:
    named = pc.unique(pa.chunked_array([*pairs["query_id"].chunks, *pairs["target_id"].chunks], type=pa.string()))
    return lake.read("images", columns=["image_id", *columns], filters=pc.field("image_id").isin(named))


def _captions(lake: Lake, pairs: pa.Table) -> dict[str, str]:
    images = _images_of(lake, pairs, "caption")
    return dict(zip(images["image_id"].to_pylist(), images["caption"].to_pylist(), strict=True))


def _counts(rows: pa.Table) -> dict[str, Any]:
    failed = rows.filter(pc.not_equal(rows["status"], "ok"))
    reasons = {r["values"]: r["counts"] for r in pc.value_counts(failed["reason"]).to_pylist()}
    return {
        "ok": rows.num_rows - failed.num_rows,
        "reasons": reasons,
        "tokens_in": pc.sum(rows["tokens_in"]).as_py() or 0,
        "tokens_out": pc.sum(rows["tokens_out"]).as_py() or 0,
    }


def describe_shard(lake: Lake, shard: str, annotator: Annotator, settings: AnnotateSettings, inputs: str) -> Facts:
    """Write ``descriptions`` of a shard: every pair is a row, with a reason where it has no text."""
    pairs = lake.read("pairs", shard)
    annotator.load_images = partial(images_by_id, lake)
    rows = describe(pairs, _captions(lake, pairs), annotator, settings, AnswerStore(lake.root / "answers"))
    return lake.write("descriptions", shard, rows, inputs, **_counts(rows))


def instruct_shard(lake: Lake, shard: str, annotator: Annotator, settings: AnnotateSettings, inputs: str) -> Facts:
    """Write ``instructions`` of a shard: every pair is a row, with a reason where it has no texts."""
    pairs = lake.read("pairs", shard)
    annotator.load_images = partial(images_by_id, lake)  # a judge looks at them
    rows = instruct(
        lake.read("descriptions", shard),
        pairs,
        _captions(lake, pairs),
        annotator,
        settings,
        AnswerStore(lake.root / "answers"),
    )
    return lake.write("instructions", shard, rows, inputs, **_counts(rows))


def assemble_shard(lake: Lake, shard: str, settings: EvaluateSettings, inputs: str) -> Facts:
    """Write ``triplets`` of a shard."""
    pairs = lake.read("pairs", shard)
    rows, left_out = assemble(
        pairs,
        lake.read("descriptions", shard),
        lake.read("instructions", shard),
        _images_of(lake, pairs, "path", "licence"),
        settings,
    )
    train = pc.sum(pc.equal(rows["split"], "train")).as_py() or 0
    return lake.write("triplets", shard, rows, inputs, train=train, test=rows.num_rows - train, left_out=left_out)
