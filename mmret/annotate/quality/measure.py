"""Measures the quality of a shard's texts on a sample, with the lake's own vectors and encoder
(:mod:`mmret.annotate.quality.metrics`).

**Modality redundancy.** A triplet teaches composition only if its target cannot be found by one half of the query. For a sample of
triplets the target is searched among its mined hard negatives and ``gallery`` images drawn by hash, the query's own picture
removed: by the *image alone* with the query's image vector against image vectors (``clip_image``), by the *text alone* with one of
the instructions, drawn by hash and encoded as captions are, against caption vectors (``caption``). It counts as found where it is
ranked first, ahead of every other.

Cost: ``sample`` texts encoded and some thousands of vectors looked up by id, whatever the size of the lake: a second or two, and
the loading of the text encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mmret.annotate.quality import metrics as quality
from mmret.encode.protocol import Encoder, load_encoder
from mmret.encode.vectors import vector_table
from mmret.errors import UserError
from mmret.hashing import uniform
from mmret.lake import Lake
from mmret.settings import Profile, QualitySettings

_LOOKUP = 500  # ids per look-up
_SHARDS = 8
"""Shards that the gallery is drawn from, the measured one and others evenly spread."""


def measure_shard(
    lake: Lake, shard: str, triplets: pa.Table, profile: Profile, load: Callable[[], Encoder] | None = None
) -> dict[str, Any]:
    """:func:`measure` with the lake's own settings. ``load``: gives the encoder of captions, else it is loaded here.

    A model that is not to be had any more (its vectors are in the lake, its weights elsewhere) leaves the redundancy unmeasured.
    """
    try:
        encoder = load() if load else load_encoder(profile.encoders["caption"], "caption", lake.root)
    except UserError:
        encoder = None
    language = profile.annotate.language if profile.annotate.backend != "captions" else "English"
    return measure(lake, shard, triplets, profile.quality, language, encoder)


def measure(
    lake: Lake, shard: str, triplets: pa.Table, settings: QualitySettings, language: str, encoder: Encoder | None
) -> dict[str, Any]:
    """The quality of ``triplets``, a shard's rows of TRIPLETS, as plain JSON values; shares are 0 to 1, None where not measured.

    ``encoder``: of the signal ``caption``; None leaves the redundancy out. Reads descriptions, images and vectors of the lake.
    """
    rows = _sample(triplets, settings)
    texts = [text for row in rows for text in row["texts"]]
    words = [quality.tokens(text) for text in texts]
    captions = _captions(lake, rows)
    asked = [(row, text) for row in rows for text in row["texts"]]
    described = _words(lake.read("descriptions", shard, columns=["text", "status"]).filter(pc.field("status") == "ok"), "text")
    written = lake.read("instructions", shard, columns=["status", "reason", "request_key"])
    own = written.filter(pc.is_valid(written["request_key"]))
    return {
        "triplets": triplets.num_rows,
        "sample": len(rows),
        "texts": len(texts),
        **{f"distinct_{n}": quality.distinct(words, n) for n in (1, 2, 3)},
        "repeated": quality.repeated(texts),
        "leakage": quality.leakage(
            texts,
            [captions.get(r["query_id"], "") for r, _ in asked],
            [captions.get(r["target_id"], "") for r, _ in asked],
            language,
        ),
        "rejected_as_leaking": _share(own, "leaked_source"),
        "instruction_words": quality.lengths(_words(triplets.select(["texts"]), "texts"), quality.INSTRUCTION_BINS),
        "description_words": quality.lengths(described, quality.DESCRIPTION_BINS),
        "redundancy": _redundancy(lake, shard, rows, settings, encoder) if encoder is not None and rows else None,
    }


def _sample(triplets: pa.Table, settings: QualitySettings) -> list[dict[str, Any]]:
    ids = triplets["pair_id"].to_pylist()
    chosen = sorted(range(len(ids)), key=lambda i: uniform("quality", ids[i]))[: settings.sample]
    return triplets.take(pa.array(sorted(chosen), pa.int64())).to_pylist()


def _captions(lake: Lake, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    named = pa.array(sorted({row[side] for row in rows for side in ("query_id", "target_id")}), pa.string())
    images = lake.read("images", columns=["image_id", "caption"], filters=pc.field("image_id").isin(named))
    return {i: c or "" for i, c in zip(images["image_id"].to_pylist(), images["caption"].to_pylist(), strict=True)}


def _words(table: pa.Table, column: str) -> np.ndarray:
    """Words of each text of ``column`` (text or list of text), (texts,) int."""
    values = pl.from_arrow(table.select([column])).get_column(column)
    if values.dtype == pl.List(pl.String):
        values = values.explode()
    return values.drop_nulls().str.count_matches(r"\S+").to_numpy()


def _share(rows: pa.Table, reason: str) -> float | None:
    return (pc.sum(pc.equal(rows["reason"], reason)).as_py() or 0) / rows.num_rows if rows.num_rows else None


def _redundancy(
    lake: Lake, shard: str, rows: Sequence[Mapping[str, Any]], settings: QualitySettings, encoder: Encoder
) -> dict[str, float | int] | None:
    gallery = _gallery(lake, shard, settings.gallery)
    negatives = [[i for i in row["hard_negatives"] if i not in (row["query_id"], row["target_id"])] for row in rows]
    needed = {*gallery, *(row["query_id"] for row in rows), *(row["target_id"] for row in rows), *(i for n in negatives for i in n)}
    image, caption = (_vectors(lake, shard, signal, sorted(needed)) for signal in ("clip_image", "caption"))
    usable = [k for k, row in enumerate(rows) if all(row[s] in image and row[s] in caption for s in ("query_id", "target_id"))]
    if not usable:
        return None
    rows, negatives = [rows[k] for k in usable], [negatives[k] for k in usable]
    gallery = [i for i in gallery if i in image and i in caption]
    texts = [row["texts"][int(uniform("quality text", row["pair_id"]) * len(row["texts"]))] for row in rows]
    place = {image_id: at for at, image_id in enumerate(gallery)}
    excluded = np.zeros((len(rows), len(gallery)), bool)
    for k, row in enumerate(rows):
        excluded[k, [place[i] for i in (row["query_id"], row["target_id"]) if i in place]] = True

    def search(queries: np.ndarray, vectors: Mapping[str, np.ndarray]) -> np.ndarray:
        def stacked(ids: Sequence[str]) -> np.ndarray:
            return np.array([vectors[i] for i in ids if i in vectors], np.float32).reshape(-1, queries.shape[1])

        return quality.found_first(
            queries, stacked([row["target_id"] for row in rows]), stacked(gallery), excluded, [stacked(n) for n in negatives]
        )

    by_image = search(np.stack([image[row["query_id"]] for row in rows]), image)
    return quality.redundancy(search(encoder.encode_texts(texts), caption), by_image, len(gallery))


def _gallery(lake: Lake, shard: str, count: int) -> list[str]:
    """``count`` image ids at most, the lowest by hash of the measured shard and of up to seven others."""
    ready = [s for s in lake.partitions("clip_image") if s in set(lake.partitions("caption"))]
    step = max(1, len(ready) // (_SHARDS - 1))
    chosen = sorted({shard, *ready[::step][: _SHARDS - 1]})
    ids = [i for s in chosen for i in lake.read("images", s, columns=["image_id"])["image_id"].to_pylist()]
    return sorted(ids, key=lambda i: uniform("quality gallery", i))[:count]


def _vectors(lake: Lake, shard: str, signal: str, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Float32 vectors of ``ids`` by the model that encoded ``shard``; those that have none are left out."""
    table, model = vector_table(lake, shard, signal), lake.facts(signal, shard).notes["model"].replace("'", "''")
    found: dict[str, np.ndarray] = {}
    for start in range(0, len(ids), _LOOKUP):
        listed = ", ".join(f"'{i}'" for i in ids[start : start + _LOOKUP])
        rows = (
            table.search()
            .where(f"image_id IN ({listed}) AND model = '{model}'")
            .select(["image_id", "vector"])
            .limit(None)
            .to_arrow()
        )
        values = rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        found.update(zip(rows["image_id"].to_pylist(), values.reshape(rows.num_rows, -1), strict=True))
    return found
