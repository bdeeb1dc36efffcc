"""Finds where one triplet came from: pictures, captions, scores, the models that wrote its texts, and its hard negatives.

Cost: a handful of look-ups in the files of its shard; neighbours of the query are read if the table still has them.
"""

from __future__ import annotations

from typing import Any

from mmret.web.browse import by_id, images_of, in_list
from mmret.web.tables import Tables

_ANNOTATION = ("text", "texts", "model", "prompt_version", "parser_version", "status", "request_key", "tokens_in", "tokens_out")


def lineage(tables: Tables, pair_id: str) -> dict[str, Any] | None:
    """Everything known of a triplet, None where there is none of this id.

    Keys: ``triplet`` (as in :func:`mmret.web.browse.page`), ``query``, ``target`` and ``negatives`` (rows of ``images``),
    ``description`` and ``instruction`` (rows of those tables), ``encoders`` (signal to model), ``history`` (all its decisions).
    """
    triplet = by_id(tables, pair_id)
    if triplet is None:
        return None
    images = images_of(tables, [triplet["query_id"], triplet["target_id"], *triplet["hard_negatives"]])
    at = f"{in_list('shard', [triplet['shard']])} AND {in_list('pair_id', [pair_id])}"
    annotations = {}
    for table in ("descriptions", "instructions"):
        rows = tables.rows(f"SELECT * FROM {table}_by_shard WHERE {at}")
        annotations[table[:-1]] = {k: rows[0][k] for k in _ANNOTATION if k in rows[0]} if rows else {}
    encoders = tables.rows(
        "SELECT signal, any_value(model) AS model FROM embeddings WHERE "
        f"{in_list('image_id', [triplet['query_id']])} GROUP BY signal"
    )
    mined = [i for i in triplet["hard_negatives"] if i != triplet["query_id"]]
    return {
        "triplet": triplet,
        "query": images.get(triplet["query_id"], {}),
        "target": images.get(triplet["target_id"], {}),
        "negatives": [images.get(i, {"image_id": i}) for i in mined],
        **annotations,
        "encoders": {r["signal"]: r["model"] for r in encoders},
        "history": tables.rows(f"SELECT * FROM decisions WHERE {in_list('pair_id', [pair_id])} ORDER BY decided_at"),
    }
