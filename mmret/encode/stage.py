"""The stages `clip_image`, `dino_image` and `caption`: compute the vectors of a shard and store them as float16 in Lance.

Only images without a vector of this model, and captions without one of this text, are encoded. Vectors are stored about every
2,048 rows or 30 s, so a crash loses at most that. Every row says which model computed it and readers ask for one model, so vectors
of two models never mix. They are read back by :mod:`mmret.encode.vectors`. Cost: one forward pass a picture or caption.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret import progress
from mmret.curation.opted_out import opted_out_ids
from mmret.encode.captions import caption_ids, same_captions
from mmret.encode.protocol import Encoder, load_encoder
from mmret.encode.stream import image_vectors, text_vectors
from mmret.encode.vectors import remove_vectors, shard_filter, table_name
from mmret.ingest.pictures.images import read_images
from mmret.lake import Lake
from mmret.schemas import TABLES, vectors
from mmret.settings import EncoderSettings
from mmret.unit_vectors import require_unit

FLUSH_ROWS, FLUSH_SECONDS = 2048, 30.0


def encode_shard(
    lake: Lake, shard: str, signal: str, settings: EncoderSettings, inputs: str, encoder: Encoder | None = None
) -> dict[str, int | str]:
    """Compute the vectors of ``signal`` that a shard lacks and write its Parquet file, which lists the images in their order.

    Returns counts ``rows``, ``computed`` (the rest was stored already) and ``truncated`` (captions cut), and ``model``.
    ``encoder``: None loads the one of ``settings``. Raises UserError for a vector that is zero or not finite, naming the image.

    >>> encode_shard(lake, "shard-00000", "caption", profile.encoders["caption"], fingerprint)["computed"]
    """
    encoder = encoder or load_encoder(settings, signal, lake.storage)
    images = lake.read("images", shard, ["image_id", "path", *(["caption"] if signal == "caption" else [])])
    ids = images["image_id"].to_pylist()
    schema = vectors(encoder.width, TABLES[signal])
    table = lake.lance(table_name(lake, signal, encoder.width), schema)
    stored = _stored(table, shard, encoder.model, TABLES[signal])
    have = stored if signal != "caption" else same_captions(lake, shard, encoder.model, stored, images)
    missing = [image_id for image_id in ids if image_id not in have]
    if missing:
        have |= _compute(lake, shard, signal, encoder, table, images, missing, replacing=not stored.keys().isdisjoint(missing))
    remove_vectors(table, opted_out_ids(lake, shard).to_pylist())
    rows = pa.Table.from_pylist([have[image_id] for image_id in ids], TABLES[signal])
    cut = sum(have[image_id]["truncated"] for image_id in ids)
    lake.write(signal, shard, rows, inputs, model=encoder.model, width=encoder.width, truncated=cut)
    return {"rows": len(ids), "computed": len(missing), "truncated": cut, "model": encoder.model}


def _stored(table: object, shard: str, model: str, index: pa.Schema) -> dict[str, dict]:
    rows = table.search().where(shard_filter(shard, model)).select(index.names).limit(None).to_arrow().select(index.names)
    return {row["image_id"]: row for row in rows.to_pylist()}


def _compute(
    lake: Lake,
    shard: str,
    signal: str,
    encoder: Encoder,
    table: object,
    images: pa.Table,
    missing: list[str],
    replacing: bool,
) -> dict[str, dict]:
    """Store the vectors of ``missing`` and return their rows; ``replacing``: some have a vector of another text."""
    source = _captions if signal == "caption" else _pictures
    ids_of_captions = caption_ids(images) if signal == "caption" else {}
    made: dict[str, dict] = {}
    waiting: list[pa.Table] = []
    flushed = time.monotonic()
    for ids, truncated, values in source(lake, shard, encoder, images, set(missing)):
        require_unit(values, lambda row, kind, ids=ids: _refusal(encoder.model, signal, images, ids[row], kind))
        rows = pa.Table.from_pylist(
            [
                {"image_id": i, "shard": shard, "model": encoder.model, "truncated": cut, "caption_id": ids_of_captions.get(i)}
                for i, cut in zip(ids, truncated, strict=True)
            ],
            TABLES[signal],
        )
        waiting.append(_with_vectors(rows, values))
        made |= zip(ids, rows.to_pylist(), strict=True)
        progress.advance(signal, len(made), len(missing), shard)
        if sum(map(len, waiting)) >= FLUSH_ROWS or time.monotonic() - flushed >= FLUSH_SECONDS:
            _store(table, waiting, replacing)
            waiting, flushed = [], time.monotonic()
    if waiting:
        _store(table, waiting, replacing)
    return made


def _store(table: object, waiting: list[pa.Table], replacing: bool) -> None:
    rows = pa.concat_tables(waiting)
    if replacing:
        table.merge_insert(["image_id", "shard", "model"]).when_matched_update_all().when_not_matched_insert_all().execute(rows)
    else:
        table.add(rows)


Batch = tuple[list[str], list[bool], np.ndarray]
"""Image ids, whether their captions were cut, and (n, width) float32 vectors."""


def _pictures(lake: Lake, shard: str, encoder: Encoder, images: pa.Table, missing: set[str]) -> Iterator[Batch]:
    for rows, values in image_vectors(encoder, read_images(lake, shard, encoder.batch_size, missing)):
        yield rows["image_id"].to_pylist(), [False] * len(rows), values


def _captions(lake: Lake, shard: str, encoder: Encoder, images: pa.Table, missing: set[str]) -> Iterator[Batch]:
    rows = [
        (image_id, caption or "")
        for image_id, caption in zip(images["image_id"].to_pylist(), images["caption"].to_pylist(), strict=True)
        if image_id in missing
    ]
    batches = [rows[at : at + encoder.batch_size] for at in range(0, len(rows), encoder.batch_size)]
    texts = ([caption for _, caption in batch] for batch in batches)
    for batch, (captions, values) in zip(batches, text_vectors(encoder, texts), strict=True):
        yield [image_id for image_id, _ in batch], encoder.truncated(captions), values


def _with_vectors(rows: pa.Table, values: np.ndarray) -> pa.Table:
    flat = pa.array(values.astype(np.float16).ravel())
    column = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return rows.append_column("vector", column).cast(vectors(values.shape[1], rows.schema))


def _refusal(model: str, signal: str, images: pa.Table, image_id: str, kind: str) -> str:
    path = images["path"][pc.index(images["image_id"], image_id).as_py()].as_py()
    return (
        f"{model} gave image {image_id} ({path}) {kind} for {signal}: "
        "its weights are damaged or untrained; download or train them anew"
    )
