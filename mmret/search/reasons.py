"""Why a picture was found: the training triplets nearest to the query, of those that led to the picture or to its like.

A model does not say what taught it a match, but the lake knows which triplets a checkpoint was trained on
(:mod:`mmret.retriever.train.data_state`). Candidates are those whose target is the picture or one of its nearest; each is asked
as the query that it was, and those asked most like the visitor's query are the reasons. Cost: the first time with a checkpoint
a pass over the columns that its training read; then one search and at most ``MAX_ENCODED`` composed queries through the model,
fewer where their vectors are still in memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mmret.ingest.pictures.images import images_by_id
from mmret.retriever.train.data_state import TrainedOn, trained_on
from mmret.search.models import UNTRAINED, pick_recipe
from mmret.search.search import Query, Searcher

NEAREST = 48
"""Pictures whose triplets are candidates: the one that was found, and those nearest to it."""
MAX_ENCODED = 64
"""Candidates at most, those whose target is nearest to the picture."""
MAX_KEPT = 4096
"""Vectors of triplets that stay in memory, all checkpoints together: 8 MB at 512 dimensions."""


@dataclass(frozen=True)
class Reason:
    """A training triplet: its query picture and first instruction were to find its target.

    ``query_score``: cosine of its query and the query asked; ``target_score``: of its target and the picture found, 1 where
    that ``is_target`` itself.
    """

    pair_id: str
    query_id: str
    target_id: str
    text: str
    query_score: float
    target_score: float
    is_target: bool


@dataclass(frozen=True)
class Why:
    """``reasons``, nearest query first, out of ``candidates`` of the ``triplets`` that ``recipe`` was trained on."""

    recipe: str
    image_id: str
    reasons: list[Reason]
    candidates: int
    triplets: int

    @property
    def remark(self) -> str:
        """What there is to say where there are no reasons, else empty."""
        if self.reasons:
            return ""
        if not self.triplets:
            return f"{self.recipe} was trained on no triplet: it finds pictures by what its model knew before"
        return (
            f"none of the {self.triplets:,} triplets that {self.recipe} was trained on leads to this picture or to one of the "
            f"{NEAREST - 1} nearest to it"
        )


class Reasons:
    """Reasons for what ``searcher`` finds. Safe for threads.

    >>> Reasons(searcher).why("demo", Query(image=picture, text="the same in blue"), hit["image_id"]).reasons[0].text
    """

    def __init__(self, searcher: Searcher):
        self.searcher = searcher
        self._lock = threading.Lock()
        self._trained: dict[str, tuple[str, TrainedOn]] = {}
        self._vectors: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()

    def why(self, recipe: str, query: Query, image_id: str, most: int = 3) -> Why:
        """The ``most`` triplets that ``recipe`` was trained on and that come nearest to ``query`` finding picture ``image_id``.

        Raises UserError for what :meth:`Searcher.search` refuses, a picture that is not of the corpus, and a checkpoint whose
        training rows are not known any more.
        """
        lake = self.searcher.lake
        pick_recipe(lake, self.searcher.profile, recipe)
        if recipe == UNTRAINED:
            return Why(recipe, image_id, [], 0, 0)
        found = self.searcher.search(recipe, Query(image_id=image_id), NEAREST - 1)
        near = {image_id: 1.0, **{hit["image_id"]: hit["score"] for hit in found.hits}}
        trained = self._trained_on(recipe)
        rows = trained.rows(pc.field("target_id").isin(list(near)) & (pc.field("split") == "train"))
        rows = sorted(
            (row for row in rows.select(["pair_id", "query_id", "target_id", "texts"]).to_pylist() if row["texts"]),
            key=lambda row: (-near[row["target_id"]], row["pair_id"]),
        )[:MAX_ENCODED]
        vectors, asked = self._encode(recipe, rows, query)
        reasons = [
            Reason(
                pair_id=row["pair_id"],
                query_id=row["query_id"],
                target_id=row["target_id"],
                text=row["texts"][0],
                query_score=float(vectors[row["pair_id"]] @ asked),
                target_score=near[row["target_id"]],
                is_target=row["target_id"] == image_id,
            )
            for row in rows
            if row["pair_id"] in vectors
        ]
        reasons.sort(key=lambda reason: (-reason.query_score, reason.pair_id))
        return Why(recipe, image_id, reasons[:most], len(reasons), len(trained.keys))

    def _trained_on(self, recipe: str) -> TrainedOn:
        facts = self.searcher.lake.facts("checkpoints", recipe)
        digest = facts.digest if facts else ""
        with self._lock:
            kept = self._trained.get(recipe)
        if kept is None or kept[0] != digest:
            kept = (digest, trained_on(self.searcher.lake, recipe))
            with self._lock:
                self._trained[recipe] = kept
        return kept[1]

    def _encode(self, recipe: str, rows: Sequence[dict[str, Any]], query: Query) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Vectors (dim,) float32 of the triplets' queries by pair id, and of ``query``, all by the same weights.

        A triplet whose query picture is not in the lake any more is left out.
        """
        asked, checkpoint = self.searcher.encode(recipe, [query])
        with self._lock:
            have = {row["pair_id"]: self._vectors.get((checkpoint, row["pair_id"])) for row in rows}
        missing = [row for row in rows if have[row["pair_id"]] is None]
        pictures = images_by_id(self.searcher.lake, [row["query_id"] for row in missing]) if missing else {}
        missing = [row for row in missing if row["query_id"] in pictures]
        if missing:
            queries = [Query(image=pictures[row["query_id"]], text=row["texts"][0]) for row in missing]
            encoded, by = self.searcher.encode(recipe, queries)
            if by != checkpoint:  # another was taken up between the two
                return self._encode(recipe, rows, query)
            have |= {row["pair_id"]: vector for row, vector in zip(missing, encoded, strict=True)}
        with self._lock:
            for pair_id, vector in have.items():
                if vector is not None:
                    self._vectors[checkpoint, pair_id] = vector
                    self._vectors.move_to_end((checkpoint, pair_id))
            while len(self._vectors) > MAX_KEPT:
                self._vectors.popitem(last=False)
        return {pair_id: vector for pair_id, vector in have.items() if vector is not None}, asked[0]
