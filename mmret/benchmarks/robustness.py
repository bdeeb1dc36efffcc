"""How much a model's answers depend on what should not matter, from the ranks of its targets: the wording of a question, say.

A mean over queries hides that one wording finds what another does not (PinPoint, arXiv 2603.04598). Ranks are those of
:func:`mmret.ranking.target_ranks`: from 1, a target that ties behind all others. Cost: of :func:`paraphrase_spread` one composed
vector a wording and their products with the gallery; of the others nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from mmret.benchmarks.composed import ComposedVectors
from mmret.errors import UserError
from mmret.ranking import target_ranks
from mmret.search.encoder import Encoder

K = 10
"""Hits that a person looks at: robustness is told of the first ten."""


def spread_of_ranks(ranks: Sequence[Sequence[int] | np.ndarray], k: int = K) -> dict[str, float]:
    """Percent of queries found among the first ``k``, of the ranks (w,) of each query's wordings, two or more a query.

    ``best``: by some wording; ``worst``: by every wording; ``mean``: by a wording drawn at random; ``spread``: ``best`` less
    ``worst``, the share of queries that are found or not as they happen to be worded. Raises UserError without queries and for a
    query with fewer than two wordings.

    >>> spread_of_ranks([(1, 10), (3, 11), (50, 60)])
    {'best': 66.66666666666667, 'worst': 33.333333333333336, 'mean': 50.0, 'spread': 33.333333333333336}
    """
    found = [np.asarray(of) <= k for of in ranks]
    if not found or any(len(of) < 2 for of in found):
        raise UserError("a spread needs queries, each in two wordings or more")
    best, worst, mean = (100.0 * float(np.mean([of(each) for each in found])) for of in (np.any, np.all, np.mean))
    return {"best": best, "worst": worst, "mean": mean, "spread": best - worst}


def paraphrase_spread(
    retriever: Encoder,
    gallery_ids: Sequence[str],
    gallery_vectors: np.ndarray,
    queries: Sequence[tuple[str, Sequence[str], Collection[str]]],
    load_images: Callable[[Sequence[str]], Mapping[str, bytes]],
    k: int = K,
    **query: str,
) -> dict[str, float]:
    """:func:`spread_of_ranks` of ``queries`` ``(reference_id, wordings, target_ids)`` over the whole gallery without the reference.

    ``gallery_vectors``: (n, d) unit vectors of ``gallery_ids``; ``query``: keywords of ``encode``, as for
    :func:`mmret.benchmarks.composed.evaluate_composed`. Queries may have different numbers of wordings, two or more each. Raises
    UserError as the two do.

        queries = [(q.reference, q.wordings, q.targets) for q in held_out_edits(lake, profile.evaluate) if len(q.wordings) > 1]
        paraphrase_spread(retriever, ids, vectors, queries, lambda ids: images_by_id(lake, ids))["spread"]
    """
    place = {image_id: row for row, image_id in enumerate(gallery_ids)}
    composed = ComposedVectors(retriever, load_images, query)
    return spread_of_ranks(wording_ranks(composed, place, gallery_vectors, queries), k)


def wording_ranks(
    composed: ComposedVectors,
    place: Mapping[str, int],
    gallery_vectors: np.ndarray,
    queries: Sequence[tuple[str, Sequence[str], Collection[str]]],
) -> list[np.ndarray]:
    """Ranks (w,) of each query's wordings. ``place``: the row of ``gallery_vectors`` (n, d) of an image."""
    asked = [(reference, text) for reference, wordings, _ in queries for text in wordings]
    targets = [[place[t] for t in targets if t != reference] for reference, wordings, targets in queries for _ in wordings]
    ranks = target_ranks(composed.of(asked), gallery_vectors, targets, [{place[reference]} for reference, _ in asked])
    return np.split(ranks, np.cumsum([len(wordings) for _, wordings, _ in queries])[:-1])
