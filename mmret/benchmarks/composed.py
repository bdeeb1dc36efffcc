"""Measures recall of composed queries over a whole gallery, and what their picture or their text alone would find.

Cost beside the model: one product of queries and gallery for each of the four figures.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from mmret.errors import UserError
from mmret.ranking import recall_at, target_ranks
from mmret.search.encoder import Encoder


def evaluate_composed(
    retriever: Encoder,
    gallery_ids: Sequence[str],
    gallery_vectors: np.ndarray,
    queries: Sequence[tuple[str, str, Collection[str]]],
    load_images: Callable[[Sequence[str]], Mapping[str, bytes]],
    ks: Sequence[int] = (1, 5, 10, 50),
    **query: str,
) -> dict[str, float]:
    """Recall in percent over the whole gallery without the reference, for queries ``(reference_id, text, target_ids)``.

    Keys: ``R@k`` of the composed query; ``image R@k`` and ``text R@k`` of its parts alone, which a retriever has to beat;
    ``kept R@k`` of the composed query with the reference left in the gallery, where returning the reference is wrong.
    ``gallery_vectors``: (n, d) unit vectors of ``gallery_ids``. ``query``: keywords that ``encode`` needs for a query
    (:func:`mmret.retriever.models.load.query_options`). Raises UserError where a reference or target is not in the gallery.

    >>> evaluate_composed(retriever, ids, vectors, [("a1", "make it red", {"b2"})], lambda ids: images_by_id(lake, ids))["R@1"]
    """
    position = {image_id: i for i, image_id in enumerate(gallery_ids)}
    for reference, text, targets in queries:
        if unknown := [i for i in (reference, *targets) if i not in position]:
            raise UserError(f"the query '{text[:80]}' names an image that is not in the gallery: {unknown[0]}")
        if not set(targets) - {reference}:
            raise UserError(f"the query '{text[:80]}' has no target besides its reference {reference}")
    references = [position[reference] for reference, _, _ in queries]
    texts = [text for _, text, _ in queries]
    targets = [[position[t] for t in targets if t != reference] for reference, _, targets in queries]
    vectors = {
        "": _composed(retriever, queries, load_images, query),
        "image ": gallery_vectors[references],
        "text ": retriever.encode(texts=texts, **query),
    }
    exclude = [{r} for r in references]
    ranks = {part: target_ranks(rows, gallery_vectors, targets, exclude) for part, rows in vectors.items()}
    ranks["kept "] = target_ranks(vectors[""], gallery_vectors, targets)
    return {f"{part}{name}": value for part, rows in ranks.items() for name, value in recall_at(rows, ks).items()}


def _composed(
    retriever: Encoder,
    queries: Sequence[tuple[str, str, Collection[str]]],
    load_images: Callable[[Sequence[str]], Mapping[str, bytes]],
    options: Mapping[str, str],
    block: int = 256,
) -> np.ndarray:
    parts = [np.empty((0, retriever.dim), np.float32)]
    for start in range(0, len(queries), block):
        part = queries[start : start + block]
        files = load_images([reference for reference, _, _ in part])
        parts.append(retriever.encode([files[reference] for reference, _, _ in part], [text for _, text, _ in part], **options))
    return np.concatenate(parts)
