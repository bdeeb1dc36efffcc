"""Arrow schemas of every table of the lake, on one page.

Lance holds what is large or searched by row id: ``images`` (with the encoded picture) and the three vector tables.
Parquet holds the rest, one file per partition at ``<lake>/<table>/<partition>.parquet``. For the Lance tables the Parquet
file of a shard holds the same rows without the heavy column; it is written last, so it is also the mark that the shard is complete.

Ids: ``image_id`` is the first 128 bits of the SHA-256 of the picture's file, in hex; ``pair_id`` the same of
``"<query_id>:<target_id>"``. Scores are cosine similarities (float32). ``shard`` is ``shard-00000`` and so on.
"""

from __future__ import annotations

import pyarrow as pa

SIGNALS = ("clip_image", "dino_image", "caption")
"""The three similarities of MegaPairs (section 3.1): visual-semantic, visual-pattern, caption."""

_text, _strings = pa.string(), pa.list_(pa.string())

CORPUS_MANIFEST = pa.schema(
    [
        ("shard", _text),
        ("position", pa.int32()),  # order inside the shard
        ("root", _text),  # the source as given: a folder, a tar, or "shapes:<n>?seed=<s>"
        ("path", _text),  # as the source's own manifest writes it; the name users refer to an image by
        ("image_id", _text),  # null where the file could not be read
        ("size", pa.int64()),  # bytes
        ("mtime_ns", pa.int64()),  # with size: whether the file must be hashed again
        ("caption", _text),
        ("licence", _text),
        ("source", _text),
        ("extra", _text),  # every other column of the source's manifest, as one JSON object
        ("reason", _text),  # null, or why the row cannot become an image (duplicate, missing_file, unsafe_path, ...)
        ("detail", _text),
    ]
)

IMAGES_INDEX = pa.schema(
    [
        ("image_id", _text),
        ("shard", _text),
        ("position", pa.int32()),
        ("path", _text),
        ("root", _text),
        ("caption", _text),
        ("caption_words", pa.int32()),
        ("width", pa.int32()),  # pixels, after EXIF rotation
        ("height", pa.int32()),
        ("format", _text),  # PNG, JPEG, ...
        ("mode", _text),  # Pillow mode of the file: RGB, CMYK, I;16, ...
        ("licence", _text),
        ("source", _text),
        ("extra", _text),
        ("remark", _text),  # null, or what is odd about the file beside its pixels (ancillary_checksum, ...), joined with " | "
    ]
)
IMAGES = IMAGES_INDEX.append(pa.field("data", pa.large_binary()))  # the file as it was found

REJECTS = pa.schema(
    [
        ("shard", _text),
        ("position", pa.int32()),
        ("root", _text),
        ("path", _text),
        ("image_id", _text),
        ("source", _text),
        ("reason", _text),
        ("detail", _text),
    ]
)

REMARKS = pa.schema(
    [
        ("root", _text),
        ("remark", _text),  # unknown_file, caption_overruled, guessed_encoding, ...
        ("count", pa.int64()),
        ("path", _text),  # of the first of them
        ("detail", _text),
    ]
)

VECTORS_INDEX = pa.schema(
    [
        ("image_id", _text),
        ("shard", _text),
        ("model", _text),  # name, revision and preprocessing in one string: a change of any is a change of model
        ("truncated", pa.bool_()),  # the caption was longer than the tower's limit
    ]
)


CAPTION_VECTORS_INDEX = VECTORS_INDEX.append(pa.field("caption_id", _text))
"""``caption_id``: 128 bits of the SHA-256 of the caption that was encoded, in hex; null if encoded before captions could change."""


def vectors(width: int, index: pa.Schema = VECTORS_INDEX) -> pa.Schema:
    """Schema of a vector table: the columns of ``index`` and ``vector``, (width,) float16 of unit length."""
    return index.append(pa.field("vector", pa.list_(pa.float16(), width)))


LEAKS = pa.schema(
    [
        ("image_id", _text),
        ("benchmark", _text),
        ("benchmark_image", _text),
        ("how", _text),  # content | perceptual | embedding
        ("value", pa.float32()),  # 1, bits that differ, or cosine
    ]
)

TOWERS = pa.schema(
    [
        ("signal", _text),
        ("model", _text),  # towers/<name>@<digest of the weights>
        ("images", pa.int32()),  # the lake's images it was trained on
        ("steps", pa.int32()),
        ("band_low", pa.float64()),  # the band proposed for the signal in this model's own space
        ("band_high", pa.float64()),
    ]
)

CANDIDATES = pa.schema(
    [
        ("query_shard", _text),
        ("query_id", _text),
        ("signal", _text),
        ("target_id", _text),
        ("score", pa.float32()),
        ("above_band", pa.bool_()),  # a near-duplicate in this signal: never a target, kept so that groups can be formed
    ]
)

NEIGHBOURS = pa.schema(
    [
        ("query_id", _text),
        ("signal", _text),
        ("target_id", _text),
        ("score", pa.float32()),
        ("rank", pa.int32()),  # 0 is the nearest inside the band; null above the band
        ("above_band", pa.bool_()),
    ]
)

PAIRS = pa.schema(
    [
        ("pair_id", _text),
        ("query_id", _text),
        ("target_id", _text),
        ("signals", _strings),  # those that found the pair inside their band
        ("clip_image_score", pa.float32()),
        ("dino_image_score", pa.float32()),
        ("caption_score", pa.float32()),
        ("hard_negatives", _strings),  # other retrieved images of the query, without the query image itself
    ]
)

DESCRIPTIONS = pa.schema(
    [
        ("pair_id", _text),
        ("request_key", _text),
        ("text", _text),
        ("model", _text),
        ("prompt_version", _text),
        ("parser_version", _text),
        ("status", _text),  # ok | failed | rejected
        ("reason", _text),
        ("tokens_in", pa.int32()),
        ("tokens_out", pa.int32()),
    ]
)

INSTRUCTIONS = pa.schema(
    [
        ("pair_id", _text),
        ("request_key", _text),
        ("texts", _strings),  # three or more where status is ok
        ("model", _text),
        ("prompt_version", _text),
        ("parser_version", _text),
        ("status", _text),
        ("reason", _text),
        ("tokens_in", pa.int32()),
        ("tokens_out", pa.int32()),
    ]
)

TRIPLETS = pa.schema(
    [
        ("pair_id", _text),
        ("query_id", _text),
        ("target_id", _text),
        ("texts", _strings),
        ("hard_negatives", _strings),  # [0] is the query image itself, as MegaPairs requires
        ("signals", _strings),
        ("split", _text),  # train, or test: the query image was drawn for the held-out slice
        ("query_path", _text),
        ("target_path", _text),
        ("description_model", _text),
        ("instruction_model", _text),
        ("licence", _text),  # of both pictures, joined with " | " where they differ
    ]
)

EVALUATIONS = pa.schema(
    [
        ("recipe", _text),
        ("benchmark", _text),
        ("metric", _text),
        ("value", pa.float64()),  # percent
        ("queries", pa.int32()),
        ("gallery", pa.int32()),
        ("inputs", _text),  # digest of the checkpoint and of the query set
    ]
)

CHECKPOINTS = pa.schema(
    [
        ("recipe", _text),
        ("folder", _text),  # relative to the lake
        ("step", pa.int32()),
        ("loss", pa.float64()),
        ("pairs", pa.int64()),  # training pairs it saw
        ("seconds", pa.float64()),
        ("settings", _text),  # the resolved recipe, JSON
    ]
)

DECISIONS = pa.schema(
    [
        ("pair_id", _text),
        ("decision", _text),  # accepted | rejected | withdrawn; the last one on a pair counts
        ("note", _text),
        ("reviewer", _text),
        ("decided_at", _text),  # UTC, ISO 8601 with microseconds: sorts as text
    ]
)

TABLES: dict[str, pa.Schema] = {
    "corpus_manifest": CORPUS_MANIFEST,
    "remarks": REMARKS,
    "images": IMAGES_INDEX,
    "rejects": REJECTS,
    "leaks": LEAKS,
    "clip_image": VECTORS_INDEX,
    "dino_image": VECTORS_INDEX,
    "caption": CAPTION_VECTORS_INDEX,
    "towers": TOWERS,
    "candidates": CANDIDATES,
    "neighbours": NEIGHBOURS,
    "pairs": PAIRS,
    "descriptions": DESCRIPTIONS,
    "instructions": INSTRUCTIONS,
    "triplets": TRIPLETS,
    "checkpoints": CHECKPOINTS,
    "evaluations": EVALUATIONS,
    "decisions": DECISIONS,
}
"""What is on disk as Parquet and what the SQL views are named after."""

KEYS: dict[str, tuple[str, ...]] = {
    "corpus_manifest": ("position",),
    "remarks": ("root", "remark"),
    "images": ("image_id",),
    "rejects": ("position",),
    "leaks": ("image_id", "benchmark", "benchmark_image", "how"),
    **dict.fromkeys(SIGNALS, ("image_id",)),
    "towers": ("signal",),
    **dict.fromkeys(("candidates", "neighbours"), ("query_id", "signal", "target_id")),
    **dict.fromkeys(("pairs", "descriptions", "instructions", "triplets"), ("pair_id",)),
    "checkpoints": ("recipe",),
    "evaluations": ("recipe", "benchmark", "metric"),
    "decisions": ("pair_id", "reviewer", "decided_at"),
}
"""The columns that tell a row of a table from every other of its partition."""

ADDED_LATER = {"images": ("remark",), "caption": ("caption_id",)}
"""Columns that older lakes lack. While they are all null they are no part of a table's digest: nothing turns stale for them."""

READ_BY_COLUMN = ("corpus_manifest", "images", "triplets")
"""Tables of which stages read some columns only, so that a change of the others makes nothing stale: files of these record since
when each column has been the same."""

WRITTEN_BY_PEOPLE = ("decisions",)
"""Tables that no stage computes (:mod:`mmret.curation.decisions`)."""
