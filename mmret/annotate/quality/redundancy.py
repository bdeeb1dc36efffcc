"""Modality redundancy of a shard's triplets: whether half of a query, its picture or its text alone, already finds the target.

A triplet teaches composition only if neither does. For a sample of triplets the target is searched among its mined hard negatives
and a gallery of images chosen by hash, the query's picture left out: by the *image alone* with the query's image vector against
image vectors (``clip_image``), by the *text alone* with one of the instructions, chosen by hash and encoded as captions are,
against caption vectors (``caption``). Where captions are compared by their words, an encoder that cannot read an instruction, the
text tower of ``clip_image`` encodes both. It counts as found where it is ranked first.

Cost: the sample's texts, in the last case some thousand captions too, encoded and some thousands of vectors looked up by id,
whatever the size of the lake: a second or two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.annotate.quality import metrics
from mmret.encode.protocol import Encoder
from mmret.encode.vectors import model_filter, vector_table
from mmret.errors import UserError
from mmret.hashing import uniform
from mmret.lake import Lake
from mmret.lake.inputs import linked_shards
from mmret.settings import Signal

_IDS_PER_LOOKUP = 500
_GALLERY_SHARDS = 8
"""Shards that the gallery is taken from, the measured one and others evenly spread."""


def measure_redundancy(
    lake: Lake, shard: str, rows: Sequence[Mapping[str, Any]], gallery_size: int, encoder: Encoder, signal: Signal = "caption"
) -> dict[str, float | int] | None:
    """Shares of ``rows`` of TRIPLETS (a sample of ``shard``) found by text, image, either and neither; None without vectors of this
    ``encoder`` and where it reads no texts.

    ``gallery_size``: images among which the target is searched, besides the negatives. ``encoder``: of ``signal``.
    """
    gallery = _gallery(lake, shard, gallery_size)
    sides = ("query_id", "target_id")
    ids = {*gallery, *(row[side] for row in rows for side in sides), *(i for row in rows for i in row["hard_negatives"])}
    if encoder.model != lake.facts(signal, shard).notes["model"]:
        return None  # its vectors are another model's, to be encoded again
    image = _vectors(lake, shard, "clip_image", sorted(ids))
    try:
        caption = (
            _vectors(lake, shard, "caption", sorted(ids)) if signal == "caption" else _captions(lake, shard, sorted(ids), encoder)
        )
    except UserError:  # no text tower
        return None
    rows = [row for row in rows if all(row[side] in image and row[side] in caption for side in sides)]
    if not rows:
        return None
    gallery = [i for i in gallery if i in image and i in caption]
    by_image = _search(np.stack([image[row["query_id"]] for row in rows]), rows, gallery, image)
    texts = [row["texts"][int(uniform("quality text", row["pair_id"]) * len(row["texts"]))] for row in rows]
    by_text = _search(encoder.encode_texts(texts), rows, gallery, caption)
    return metrics.redundancy(by_text, by_image, len(gallery))


def _search(
    queries: np.ndarray, rows: Sequence[Mapping[str, Any]], gallery: Sequence[str], vectors: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Whether each row's target is ranked first for its query: (n,) bool. ``queries``: (n, d); ``vectors``: (d,) by image id."""

    def stack(ids: Sequence[str]) -> np.ndarray:
        return np.array([vectors[i] for i in ids if i in vectors], np.float32).reshape(-1, queries.shape[1])

    place = {image_id: at for at, image_id in enumerate(gallery)}
    excluded = np.zeros((len(rows), len(gallery)), bool)
    negatives = []
    for k, row in enumerate(rows):
        pair = (row["query_id"], row["target_id"])
        excluded[k, [place[i] for i in pair if i in place]] = True
        negatives.append(stack([i for i in row["hard_negatives"] if i not in pair]))
    return metrics.hits_at_1(queries, stack([row["target_id"] for row in rows]), stack(gallery), excluded, negatives)


def _captions(lake: Lake, shard: str, ids: Sequence[str], encoder: Encoder) -> dict[str, np.ndarray]:
    """Float32 vectors of the captions of ``ids`` by ``encoder``; left out are images without a caption and those of shards that no
    pair of ``shard`` points to.

    Raises UserError where it has no text tower.
    """
    named = pc.field("image_id").isin(pa.array(ids, pa.string()))
    rows = lake.read("images", linked_shards(lake, "pairs", shard), ["image_id", "caption"], named)
    found = {i: caption for i, caption in zip(*(rows[c].to_pylist() for c in ("image_id", "caption")), strict=True) if caption}
    return dict(zip(found, encoder.encode_texts([*found.values()]), strict=True))


def _gallery(lake: Lake, shard: str, count: int) -> list[str]:
    """``count`` image ids at most, the lowest by hash of the measured shard and of up to seven others that its pairs point to."""
    ready = linked_shards(lake, "pairs", shard)
    step = max(1, len(ready) // (_GALLERY_SHARDS - 1))
    chosen = sorted({shard, *ready[::step][: _GALLERY_SHARDS - 1]})
    ids = [i for s in chosen for i in lake.read("images", s, columns=["image_id"])["image_id"].to_pylist()]
    return sorted(ids, key=lambda i: uniform("quality gallery", i))[:count]


def _vectors(lake: Lake, shard: str, signal: str, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Float32 vectors of ``ids`` by the model that encoded ``shard``; those that have none are left out."""
    table, model = vector_table(lake, shard, signal), lake.facts(signal, shard).notes["model"]
    found: dict[str, np.ndarray] = {}
    for start in range(0, len(ids), _IDS_PER_LOOKUP):
        listed = ", ".join(f"'{i}'" for i in ids[start : start + _IDS_PER_LOOKUP])
        rows = (
            table.search()
            .where(f"image_id IN ({listed}) AND {model_filter(model)}")
            .select(["image_id", "vector"])
            .limit(None)
            .to_arrow()
        )
        values = rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        found.update(zip(rows["image_id"].to_pylist(), values.reshape(rows.num_rows, -1), strict=True))
    return found
