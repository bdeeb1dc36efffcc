"""Hard negatives for a reranker from where it will work: a retriever's own first hits for the query.

Mined negatives are near the query picture; what a reranker has to order are pictures near the composed query. Costs the retriever's
forward pass for every picture of the triplets and every query, and a product of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmret.hashing import uniform
from mmret.progress import advance
from mmret.ranking import rank
from mmret.retriever.models.load import Retriever, query_options
from mmret.retriever.train.tower import LoadImages, Pictures

_BLOCK = 256


def with_first_hits(triplets: pa.Table, retriever: Path | str, count: int, load_images: LoadImages) -> pa.Table:
    """``triplets`` whose rows of split ``train`` have as hard negatives the query image and the first ``count`` hits of the model
    in folder ``retriever`` for one of their texts, drawn by hash.

    The gallery is the pictures of those rows. No target of the same query picture, whatever its text, is among the hits. Rows of
    other splits, and rows without a text, stay as they are. Raises UserError for a picture that the lake does not hold.
    """
    rows = triplets.select(["pair_id", "query_id", "target_id", "texts", "hard_negatives", "split"]).to_pylist()
    asked = [n for n, row in enumerate(rows) if row["split"] == "train" and row["texts"]]
    targets: dict[str, set[str]] = {}
    for n in asked:
        targets.setdefault(rows[n]["query_id"], set()).add(rows[n]["target_id"])
    ids = sorted({i for n in asked for i in (rows[n]["query_id"], rows[n]["target_id"], *(rows[n]["hard_negatives"] or []))})
    place, pictures = {image: number for number, image in enumerate(ids)}, Pictures(pa.array(ids, pa.string()), load_images)
    encoder, options = Retriever.load(retriever), query_options(retriever)
    vectors = np.empty((len(ids), encoder.dim), np.float32)
    for start in range(0, len(ids), _BLOCK):
        here = np.arange(start, min(start + _BLOCK, len(ids)))
        vectors[here] = encoder.encode(pictures(here))
        _report(start + len(here), len(ids) + len(asked))
    negatives = [row["hard_negatives"] for row in rows]
    for start in range(0, len(asked), _BLOCK):
        block = [rows[n] for n in asked[start : start + _BLOCK]]
        shown = pictures(np.array([place[row["query_id"]] for row in block], np.int64))
        queries = encoder.encode(shown, [_text(row["texts"], row["pair_id"]) for row in block], **options)
        right = [{place[i] for i in (row["query_id"], *targets[row["query_id"]])} for row in block]
        for n, row, hits in zip(asked[start:], block, rank(queries, vectors, count, right), strict=False):
            negatives[n] = [row["query_id"], *(ids[hit] for hit in hits if hit >= 0)]
        _report(len(ids) + start + len(block), len(ids) + len(asked))
    column = triplets.schema.get_field_index("hard_negatives")
    field = triplets.schema.field(column)
    return triplets.set_column(column, field, pa.chunked_array([pa.array(negatives, field.type)]))


def _text(texts: Sequence[str], pair: str) -> str:
    return texts[int(uniform("first hits", pair) * len(texts))]


def _report(done: int, total: int) -> None:
    advance("checkpoints", 0, None, f"the retriever's first hits, {done:,} of {total:,}")
