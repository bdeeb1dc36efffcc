"""Measures the quality of a shard's texts on a sample, with the lake's vectors and its encoder of captions: variety, length and
leakage (:mod:`mmret.annotate.quality.metrics`), and modality redundancy (:mod:`mmret.annotate.quality.redundancy`).

Cost: a second or two for the sample, whatever the size of the lake, and the loading of the text encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mmret.annotate.quality import metrics
from mmret.annotate.quality.redundancy import measure_redundancy
from mmret.encode.protocol import Encoder, load_encoder
from mmret.errors import UserError
from mmret.hashing import uniform
from mmret.ingest.pictures.pair_images import captions_of
from mmret.lake import Lake
from mmret.lake.inputs import linked_shards
from mmret.settings import Profile, QualitySettings, Signal


def measure_shard(
    lake: Lake, shard: str, triplets: pa.Table, profile: Profile, load: Callable[[], Encoder] | None = None
) -> dict[str, Any]:
    """:func:`measure` with the settings of ``profile``. ``load`` returns the encoder of :func:`reading_signal`; None: it is
    loaded here.

    Where its weights cannot be loaded, although its vectors are in the lake, the redundancy is left out.

    >>> measure_shard(lake, "shard-00000", lake.read("triplets", "shard-00000"), profile)["distinct_2"]
    """
    signal = reading_signal(profile)
    try:
        encoder = load() if load else load_encoder(profile.encoders[signal], signal, lake.storage)
    except UserError:
        encoder = None
    language = profile.annotate.language if profile.annotate.instructor != "captions" else "English"
    return measure(lake, shard, triplets, profile.quality, language, encoder, signal)


def reading_signal(profile: Profile) -> Signal:
    """The signal whose encoder reads instructions: ``caption``, or ``clip_image`` where captions are compared by their words."""
    return "clip_image" if profile.encoders["caption"].compares_words else "caption"


def measure(
    lake: Lake,
    shard: str,
    triplets: pa.Table,
    settings: QualitySettings,
    language: str,
    encoder: Encoder | None,
    signal: Signal = "caption",
) -> dict[str, Any]:
    """The quality of ``triplets``, a shard's rows of TRIPLETS, as plain JSON values; shares are 0 to 1, None where not measured.

    ``language`` of the texts, in English. ``encoder``: of ``signal``, reads texts; None leaves the redundancy out. Reads
    descriptions and instructions of the shard, captions of the pictures, and vectors.
    """
    sample = _sample(triplets, settings.sample)
    rows = sample.to_pylist()
    captions = captions_of(lake, sample, linked_shards(lake, "pairs", shard))
    texts = [text for row in rows for text in row["texts"]]
    sources, targets = ([captions.get(row[side], "") for row in rows for _ in row["texts"]] for side in ("query_id", "target_id"))
    words = [metrics.tokens(text) for text in texts]
    descriptions = lake.read("descriptions", shard, columns=["text"], filters=pc.field("status") == "ok")
    requests = lake.read("instructions", shard, columns=["reason", "request_key"], filters=pc.field("request_key").is_valid())
    return {
        "triplets": triplets.num_rows,
        "sample": len(rows),
        "texts": len(texts),
        **{f"distinct_{n}": metrics.distinct_n(words, n) for n in (1, 2, 3)},
        "repeated": metrics.repeat_share(texts),
        "leakage": metrics.leakage(texts, sources, targets, language),
        "rejected_as_leaking": _share(requests, "leaked_source"),
        "instruction_words": metrics.length_histogram(_word_counts(triplets["texts"]), metrics.INSTRUCTION_BINS),
        "description_words": metrics.length_histogram(_word_counts(descriptions["text"]), metrics.DESCRIPTION_BINS),
        "redundancy": measure_redundancy(lake, shard, rows, settings.gallery, encoder, signal)
        if encoder is not None and rows
        else None,
    }


def _sample(triplets: pa.Table, count: int) -> pa.Table:
    """``count`` rows at most, chosen by hash of their pair ids, in their order."""
    ids = triplets["pair_id"].to_pylist()
    chosen = sorted(range(len(ids)), key=lambda i: uniform("quality", ids[i]))[:count]
    return triplets.take(pa.array(sorted(chosen), pa.int64()))


def _word_counts(texts: pa.ChunkedArray) -> np.ndarray:
    """Words of each text of a column of text or lists of text: (texts,) int."""
    values = pl.from_arrow(texts)
    if values.dtype == pl.List(pl.String):
        values = values.explode()
    return values.drop_nulls().str.count_matches(r"\S+").to_numpy()


def _share(rows: pa.Table, reason: str) -> float | None:
    """Share of ``rows`` that have ``reason``, 0 to 1; None where there are no rows."""
    return (pc.sum(pc.equal(rows["reason"], reason)).as_py() or 0) / rows.num_rows if rows.num_rows else None
