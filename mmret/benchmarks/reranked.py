"""Measures a reranker on the first hits of a retriever: recall before and after, over the whole gallery.

What the retriever did not bring among them no reranker can. Cost: the retriever's search, then as many pairs a query as the depth;
some 30 queries' pictures are in memory at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mmret.benchmarks.triplets import Query
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.progress import advance
from mmret.ranking import rank, recall_at, target_ranks
from mmret.search.corpus_vectors import gallery

_BLOCK = 30


def evaluate_reranked(
    lake: Lake, retriever: Path | str, reranker: Path | str, queries: Sequence[Query], depth: int, ks: Iterable[int]
) -> dict[str, float]:
    """``R@k`` in percent of ``queries``, the reference left out, once the reranker in folder ``reranker`` has ordered the first
    ``depth`` hits of the retriever in folder ``retriever``; ``first R@k`` before that; ``gallery``, the corpus's size.

    A target that ties with other pictures ranks behind them. Raises UserError as :func:`mmret.ranking.rank` and where a model
    cannot be loaded.
    """
    from mmret.retriever.models.load import Retriever, query_options
    from mmret.retriever.models.reranker import Reranker

    ids, vectors = gallery(lake, retriever)
    place = {image_id: n for n, image_id in enumerate(ids)}
    encoder, options, scorer = Retriever.load(retriever), query_options(retriever), Reranker.load(reranker)
    before, after = np.empty(len(queries), np.int64), np.empty(len(queries), np.int64)
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        files = images_by_id(lake, [query.reference for query in block])
        asked = encoder.encode([files[q.reference] for q in block], [q.text for q in block], **options)
        own = [{place[q.reference]} for q in block]
        targets = [{place[t] for t in q.targets if t != q.reference} for q in block]
        hits = rank(asked, vectors, min(depth, len(ids)), own, targets)
        here = slice(start, start + len(block))
        before[here] = target_ranks(asked, vectors, [list(t) for t in targets], own)
        after[here] = before[here]
        files |= images_by_id(lake, [ids[n] for n in np.unique(hits[hits >= 0])])
        for row, (query, found, right) in enumerate(zip(block, hits, targets, strict=True), start):
            found = found[found >= 0]
            good = np.isin(found, list(right))
            if good.any():
                said = scorer.score([(files[query.reference], query.text)] * len(found), [files[ids[n]] for n in found])
                after[row] = 1 + np.count_nonzero(said[~good] >= said[good].max())
        advance("evaluations", start + len(block), len(queries), "reranked")
    first = {f"first {name}": value for name, value in recall_at(before, ks).items()}
    return {**recall_at(after, ks), **first, "gallery": len(ids)}
