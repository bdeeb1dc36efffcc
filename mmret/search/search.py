"""Search of the corpus for the page: any two checkpoints beside each other, each loaded once and kept.

The first search with a checkpoint embeds the corpus if nobody has (the lake keeps the vectors); after that a query costs one
forward pass and one product with the gallery. torch is imported by the first search, not before.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmret.errors import UserError
from mmret.hashing import content_id
from mmret.web.browse import images_of
from mmret.web.tables import Tables


@dataclass(frozen=True)
class Query:
    """A picture (file contents), a text, or both; ``target``: the image id whose rank is of interest."""

    image: bytes | None = None
    text: str = ""
    target: str | None = None


class Searcher:
    """Checkpoints of one lake, kept in memory once used. Safe for threads; searches wait for each other."""

    def __init__(self, tables: Tables):
        self.tables, self.lake = tables, tables.lake
        self._lock = threading.Lock()
        self._loaded: dict[str, tuple[Any, Any, list[str], np.ndarray]] = {}

    def recipes(self) -> list[str]:
        """Names that :meth:`search` takes: trained recipes, then ``untrained``."""
        from mmret.benchmarks.stage import UNTRAINED, trained_recipes

        return [*trained_recipes(self.lake), UNTRAINED]

    def search(self, recipe: str, query: Query, k: int = 20) -> dict[str, Any]:
        """The ``k`` best images: ``hits`` (score, rank from 1, columns of ``images``), ``target_rank`` where a target is asked for.

        A query picture that is in the corpus is not among its own results. Raises UserError for an empty query, an unknown recipe
        or a picture that cannot be read.
        """
        from mmret.search.rank import rank

        if query.image is None and not query.text.strip():
            raise UserError("give a picture, a text or both")
        if recipe not in self.recipes():
            raise UserError(f"no checkpoint of recipe '{recipe}'; there are {', '.join(self.recipes())}")
        with self._lock:
            retriever, options, ids, vectors = self._load(recipe)
            text = query.text.strip()
            vector = retriever.encode(
                None if query.image is None else [query.image],
                [text] if text else None,
                **(options(query.image is not None) if text else {}),
            )
        at = {image_id: place for place, image_id in enumerate(ids)}
        own = [at[i] for i in ([content_id(query.image)] if query.image else []) if i in at]
        best = [int(p) for p in rank(vector, vectors, k, [own])[0] if p >= 0]
        scores = vectors @ vector[0].astype(np.float32)
        rows = images_of(self.tables, [ids[p] for p in best])
        target = at.get(query.target or "")
        return {
            "hits": [
                {**rows.get(ids[p], {"image_id": ids[p]}), "score": float(scores[p]), "rank": n} for n, p in enumerate(best, 1)
            ],
            "target_rank": None if target is None else _rank(scores, target, own),
            "gallery": len(ids),
        }

    def _load(self, recipe: str) -> tuple[Any, Any, list[str], np.ndarray]:
        from mmret.benchmarks.stage import checkpoint_folder
        from mmret.retriever.models.load import Retriever, query_options
        from mmret.search.rank import gallery

        folder = checkpoint_folder(self.lake, recipe)
        images = [self.lake.facts("images", shard).digest for shard in self.lake.partitions("images")]
        state = f"{folder}:{images}:{_trained(self.lake, recipe)}"
        if state not in self._loaded:
            for old in [key for key in self._loaded if key.startswith(f"{folder}:")]:
                del self._loaded[old]
            ids, vectors = gallery(self.lake, folder)
            self._loaded[state] = (Retriever.load(folder), lambda composed: query_options(folder, composed=composed), ids, vectors)
        return self._loaded[state]


def _trained(lake: Any, recipe: str) -> str:
    facts = lake.facts("checkpoints", recipe)
    return facts.digest if facts else ""


def _rank(scores: np.ndarray, target: int, own: list[int]) -> int:
    """Rank of ``target`` from 1, the query's own picture not counted; ties rank before it."""
    before = np.count_nonzero(scores >= scores[target]) - 1
    return 1 + before - sum(scores[p] >= scores[target] and p != target for p in own)
