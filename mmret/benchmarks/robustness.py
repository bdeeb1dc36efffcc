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


def negatives_of_ranks(targets: np.ndarray, negatives: Sequence[np.ndarray], k: int = K) -> dict[str, float]:
    """Percent, of the rank (q,) of each query's best target and the ranks (w,) of its explicit negatives, one or more a query.

    ``before target``: queries with a negative before the target; ``in first``: queries with a negative among the first ``k``; ``of
    first``: hits among the first ``k`` that are negatives. Raises UserError without queries and for a query without negatives.

    >>> negatives_of_ranks(np.array([1, 5]), [np.array([2, 30]), np.array([3, 4])])
    {'before target': 50.0, 'in first': 100.0, 'of first': 15.0}
    """
    if not len(targets) or not all(len(of) for of in negatives):
        raise UserError("negatives are counted of queries, each with one or more")
    before = [of.min() < target for target, of in zip(targets, negatives, strict=True)]
    among = np.array([min(k, np.count_nonzero(of <= k)) for of in negatives])
    shares = {"before target": np.mean(before), "in first": np.mean(among > 0), "of first": among.mean() / k}
    return {name: 100.0 * float(share) for name, share in shares.items()}


def parts_of_ranks(both: np.ndarray, image: np.ndarray, text: np.ndarray, k: int = K) -> dict[str, float]:
    """Percent of queries answered among the first ``k``, of the ranks (q,) of whole queries and of their parts alone.

    ``image``, ``text``: by that part alone; ``either``: by one of them, so the other was not needed; ``needs both``: by the whole
    query and by neither part. Raises UserError without queries.

    >>> parts_of_ranks(np.array([1, 2, 3]), np.array([4, 50, 50]), np.array([60, 60, 1]))
    {'image': 33.333333333333336, 'text': 33.333333333333336, 'either': 66.66666666666667, 'needs both': 33.333333333333336}
    """
    if not len(both):
        raise UserError("parts are compared of queries: there are none")
    by_image, by_text = image <= k, text <= k
    either = by_image | by_text
    shares = {"image": by_image, "text": by_text, "either": either, "needs both": (both <= k) & ~either}
    return {name: 100.0 * float(np.mean(share)) for name, share in shares.items()}


def two_picture_vectors(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(q, d) float32: the normalised mean of the composed vectors (q, d) of each query's two pictures, which any retriever has.

    >>> two_picture_vectors(np.eye(2, dtype=np.float32)[:1], np.eye(2, dtype=np.float32)[1:])
    array([[0.70710677, 0.70710677]], dtype=float32)
    """
    together = first + second
    return together / np.maximum(np.linalg.norm(together, axis=1, keepdims=True), np.finfo(np.float32).tiny)


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
