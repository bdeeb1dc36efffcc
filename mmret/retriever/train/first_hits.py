"""Hard negatives for a reranker from where it will work: a retriever's own first hits for the query.

Mined negatives are near the query picture; what a reranker has to order are pictures near the composed query. Costs the retriever's
forward pass for every picture of the triplets and every query, and a product of both; memory, a vector a
picture and four bytes a hit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.hashing import uniform
from mmret.progress import advance
from mmret.ranking import rank
from mmret.retriever.models.load import Retriever, query_options
from mmret.retriever.train.tower import LoadImages, Pictures

_BLOCK, _REPLACED = 256, 65_536


def with_first_hits(triplets: pa.Table, retriever: Path | str, count: int, load_images: LoadImages) -> pa.Table:
    """``triplets`` whose rows of split ``train`` have as hard negatives the query image and the first ``count`` hits of the model
    in folder ``retriever`` for one of their texts, drawn by hash.

    The gallery is the pictures of those rows. No target of the same query picture, whatever its text, is among the hits. Rows of
    other splits, and rows without a text, stay as they are. Raises UserError for a picture that the lake does not hold.
    """
    texted = pc.greater(pc.list_value_length(triplets["texts"]), 0)
    wanted = pc.fill_null(pc.and_(pc.equal(triplets["split"], "train"), texted), False)
    asked = np.flatnonzero(wanted.to_numpy())
    rows = triplets.select(["pair_id", "query_id", "target_id", "texts", "hard_negatives"]).filter(wanted)
    ids = _distinct([rows["query_id"], rows["target_id"], pc.list_flatten(rows["hard_negatives"])])
    query, target = (pc.index_in(rows[name], ids).to_numpy() for name in ("query_id", "target_id"))
    by_query = np.argsort(query, kind="stable")
    starts, targets = np.searchsorted(query[by_query], np.arange(len(ids) + 1)), target[by_query]
    pictures = Pictures(ids, load_images)
    encoder, options = Retriever.load(retriever), query_options(retriever)
    vectors = np.empty((len(ids), encoder.dim), np.float32)
    for start in range(0, len(ids), _BLOCK):
        here = np.arange(start, min(start + _BLOCK, len(ids)))
        vectors[here] = encoder.encode(pictures(here))
        _report(start + len(here), len(ids) + len(asked))
    hits = np.empty((len(asked), count), np.int32)
    for start in range(0, len(asked), _BLOCK):
        block = rows.slice(start, _BLOCK)
        texts = [_text(*row) for row in zip(block["texts"].to_pylist(), block["pair_id"].to_pylist(), strict=True)]
        own = query[start : start + _BLOCK]
        right = [{q, *targets[starts[q] : starts[q + 1]].tolist()} for q in own.tolist()]
        hits[start : start + len(own)] = rank(encoder.encode(pictures(own), texts, **options), vectors, count, right)
        _report(len(ids) + start + len(own), len(ids) + len(asked))
    column = triplets.schema.get_field_index("hard_negatives")
    return triplets.set_column(column, triplets.schema.field(column), _replaced(triplets, asked, query, hits, ids))


def _distinct(columns: Sequence[pa.ChunkedArray]) -> pa.Array:
    """The values of ``columns``, each once, ascending."""
    every = pc.unique(pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string()))
    return every.take(pc.array_sort_indices(every))


def _replaced(triplets: pa.Table, asked: np.ndarray, query: np.ndarray, hits: np.ndarray, ids: pa.Array) -> pa.ChunkedArray:
    """Column ``hard_negatives`` with those of rows ``asked`` (n,) anew: numbers in ``ids`` of the query (n,) and of its hits
    (n, count), -1 where there are fewer."""
    kind, parts = triplets.schema.field("hard_negatives").type, []
    for start in range(0, len(triplets), _REPLACED):
        old = triplets["hard_negatives"].slice(start, _REPLACED).combine_chunks()
        first, end = np.searchsorted(asked, (start, start + len(old)))
        numbers = np.column_stack([query[first:end], hits[first:end]]).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum((numbers >= 0).sum(axis=1))]).astype(np.int32)
        new = pa.ListArray.from_arrays(pa.array(offsets), ids.take(pa.array(numbers[numbers >= 0]))).cast(kind)
        place = np.arange(len(old))
        place[asked[first:end] - start] = len(old) + np.arange(end - first)
        parts.append(pa.concat_arrays([old, new]).take(pa.array(place)))
    return pa.chunked_array(parts, kind)


def _text(texts: Sequence[str], pair: str) -> str:
    return texts[int(uniform("first hits", pair) * len(texts))]


def _report(done: int, total: int) -> None:
    advance("checkpoints", 0, None, f"the retriever's first hits, {done:,} of {total:,}")
