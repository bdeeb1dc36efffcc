"""Measures recall of composed queries over a whole gallery, and what their picture or their text alone would find.

Cost beside the model: one product of queries and gallery for each of the four figures.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from mmret.errors import UserError
from mmret.ranking import recall_at, target_ranks
from mmret.search.encoder import Encoder

_BLOCK = 256  # pictures in memory at once


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
    composed = ComposedVectors(retriever, load_images, query)
    ranks = composed_ranks(composed, gallery_ids, gallery_vectors, queries)
    return {f"{part}{name}": value for part, rows in ranks.items() for name, value in recall_at(rows, ks).items()}


class ComposedVectors:
    """Unit vectors of composed queries by one model; what is asked again is not embedded again.

    ``options``: keywords that ``encode`` needs for a query. Cost: a vector of each question is kept, 4 bytes a dimension.
    """

    def __init__(self, retriever: Encoder, load_images: Callable[[Sequence[str]], Mapping[str, bytes]], options: Mapping[str, str]):
        self.retriever, self.load_images, self.options = retriever, load_images, options
        self._kept: dict[tuple[str, str], np.ndarray] = {}

    def of(self, asked: Sequence[tuple[str, str]]) -> np.ndarray:
        """(q, d) float32 of the questions ``(reference_id, text)``."""
        new = [question for question in dict.fromkeys(asked) if question not in self._kept]
        for start in range(0, len(new), _BLOCK):
            part = new[start : start + _BLOCK]
            files = self.load_images(list(dict.fromkeys(reference for reference, _ in part)))
            vectors = self.retriever.encode([files[reference] for reference, _ in part], [text for _, text in part], **self.options)
            self._kept.update(zip(part, vectors, strict=True))
        return np.stack([self._kept[question] for question in asked]) if asked else np.empty((0, self.retriever.dim), np.float32)

    def of_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(q, d) float32 of the texts alone."""
        return self.retriever.encode(texts=list(texts), **self.options)


def composed_ranks(
    composed: ComposedVectors,
    gallery_ids: Sequence[str],
    gallery_vectors: np.ndarray,
    queries: Sequence[tuple[str, str, Collection[str]]],
) -> dict[str, np.ndarray]:
    """Ranks (q,) from 1 behind the figures of :func:`evaluate_composed`: of the composed query under ``""``, of its parts under
    ``"image "`` and ``"text "``, with the reference left in under ``"kept "``. Raises UserError as that does."""
    position = {image_id: i for i, image_id in enumerate(gallery_ids)}
    for reference, text, targets in queries:
        if unknown := [i for i in (reference, *targets) if i not in position]:
            raise UserError(f"the query '{text[:80]}' names an image that is not in the gallery: {unknown[0]}")
        if not set(targets) - {reference}:
            raise UserError(f"the query '{text[:80]}' has no target besides its reference {reference}")
    references = [position[reference] for reference, _, _ in queries]
    targets = [[position[t] for t in targets if t != reference] for reference, _, targets in queries]
    vectors = {
        "": composed.of([(reference, text) for reference, text, _ in queries]),
        "image ": gallery_vectors[references],
        "text ": composed.of_texts([text for _, text, _ in queries]),
    }
    exclude = [{r} for r in references]
    ranks = {part: target_ranks(rows, gallery_vectors, targets, exclude) for part, rows in vectors.items()}
    return ranks | {"kept ": target_ranks(vectors[""], gallery_vectors, targets)}
