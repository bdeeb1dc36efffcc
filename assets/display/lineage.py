"""Says which columns each column comes from; the UI draws it, and a test compares it with the schemas.

Only columns that are copied or computed from certain columns are listed; settings and models are in the fingerprint instead.
"""

import dagster as dg

from mmret.schemas import SIGNALS

Columns = dict[str, list[tuple[str, str]]]


def _same(table: str, *columns: str) -> Columns:
    return {column: [(table, column)] for column in columns}


_ENCODED = {"clip_image": "image_id", "dino_image": "image_id", "caption": "caption"}
_MANIFEST = _same("corpus_manifest", "shard", "position", "root", "path", "image_id", "source")
_CAPTION = [("corpus_manifest", "caption"), ("written_captions", "text")]

LINEAGE: dict[str, Columns] = {
    "written_captions": {
        **_same("corpus_manifest", "shard", "position", "root", "path", "image_id"),
        "text": [("corpus_manifest", "path"), ("corpus_manifest", "image_id")],
        "source_caption": [("corpus_manifest", "caption")],
    },
    "images": {
        **_MANIFEST,
        **_same("corpus_manifest", "licence", "extra"),
        "caption": _CAPTION,
        "caption_words": _CAPTION,
        "caption_origin": [("written_captions", "origin")],
        **_same("written_captions", "source_caption"),
    },
    "rejects": {**_MANIFEST, **_same("corpus_manifest", "reason", "detail")},
    **{signal: _same("images", "image_id", "shard") | {"model": [("images", _ENCODED[signal])]} for signal in SIGNALS},
    "leaks": {"image_id": [("images", "image_id")], "value": [("clip_image", "image_id")]},
    "candidates": {
        "query_shard": [(s, "shard") for s in SIGNALS],
        "query_id": [(s, "image_id") for s in SIGNALS],
        "target_id": [(s, "image_id") for s in SIGNALS],
        "score": [(s, "model") for s in SIGNALS],
    },
    "duplicates": {
        **_same("images", "image_id", "shard"),
        "group_id": [("candidates", "query_id"), ("candidates", "target_id")],
        "score": [("candidates", "score")],
        "signals": [("candidates", "signal")],
    },
    "scores": {"image_id": [("images", "image_id")], "value": [("images", "image_id")]},
    "neighbours": {
        **_same("candidates", "query_id", "signal", "target_id", "score", "above_band"),
        "rank": [("candidates", "score")],
    },
    "pairs": {
        **_same("neighbours", "query_id", "target_id"),
        "pair_id": [("neighbours", "query_id"), ("neighbours", "target_id")],
        "signals": [("neighbours", "signal")],
        "hard_negatives": [("neighbours", "target_id"), ("images", "caption")],
        **{f"{s}_score": [("neighbours", "score")] for s in SIGNALS},
    },
    "descriptions": {"pair_id": [("pairs", "pair_id")], "text": [("images", "image_id"), ("images", "caption")]},
    "instructions": {"pair_id": [("pairs", "pair_id")], "texts": [("descriptions", "text")]},
    "triplets": {
        **_same("pairs", "pair_id", "query_id", "target_id", "hard_negatives", "signals"),
        "texts": [("instructions", "texts")],
        "split": [("pairs", "query_id")],
        "description_model": [("descriptions", "model")],
        "instruction_model": [("instructions", "model")],
    },
    "tasks": {
        **{
            f"{role}_id": [("images", "image_id"), ("neighbours", f"{role}_id"), ("triplets", f"{role}_id")]
            for role in ("query", "target")
        },
        **_same("triplets", "pair_id"),
        "texts": [("images", "caption"), ("triplets", "texts")],
        **{column: [("images", "caption")] for column in ("query_caption", "target_caption", "negative_captions")},
        "hard_negatives": [("neighbours", "target_id"), ("triplets", "hard_negatives")],
        "signals": [("neighbours", "signal"), ("triplets", "signals")],
        "split": [("images", "image_id")],
        "licence": [("images", "licence")],
    },
    "checkpoints": {"pairs": [("triplets", "pair_id")]},
    "evaluations": {
        **_same("checkpoints", "recipe"),
        "value": [("checkpoints", "folder"), ("triplets", "texts")],
        "gallery": [("images", "image_id")],
    },
}


def column_lineage(table: str) -> dg.TableColumnLineage | None:
    """The lineage of ``table``'s columns as the UI draws it; None for a table that is not made from others."""
    if table not in LINEAGE:
        return None
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(asset_key=upstream, column_name=name) for upstream, name in sources]
            for column, sources in LINEAGE[table].items()
        }
    )
