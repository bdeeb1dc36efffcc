"""Why a picture was found: the training triplets nearest to the query, of those that led to the picture or to its like.

A model does not say what taught it a match, but the lake knows which triplets a checkpoint was trained on
(:mod:`mmret.retriever.train.data_state`). Candidates are those whose target is the picture or one of its nearest; each is asked
as the query that it was, and those asked most like the visitor's query are the reasons. Cost: the first time with a checkpoint
a pass over the columns that its training read; then a look at the gallery, the rows of the pictures' triplets and at most
``MAX_ENCODED`` composed queries through the model, fewer where their vectors are still in memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mmret.errors import UserError
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.retriever.train.data_state import TrainedOn, trained_on
from mmret.search.models import UNTRAINED
from mmret.search.query import Query
from mmret.search.snapshot import Snapshot

NEAREST = 48
"""Pictures whose triplets are candidates: the one that was found, and those nearest to it."""
MAX_ENCODED = 64
"""Candidates at most, those whose target is nearest to the picture."""
MAX_KEPT = 4096
"""Vectors of triplets that stay in memory, all checkpoints together: 8 MB at 512 dimensions."""
_AT_ONCE = 16  # queries in a forward pass: searches that come meanwhile get their turn


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
    """Reasons for what checkpoints of ``lake`` find; they remember what they have encoded. Safe for threads.

    reasons = Reasons(lake)
    reasons.why(searcher.snapshot("demo"), "demo", Query(image=picture, text="the same in blue"), hit["image_id"]).reasons[0].text
    """

    def __init__(self, lake: Lake):
        self.lake = lake
        self._lock = threading.Lock()
        self._trained: dict[str, tuple[str, TrainedOn]] = {}
        self._vectors: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()

    def why(self, snapshot: Snapshot, recipe: str, query: Query, image_id: str, most: int = 3) -> Why:
        """The ``most`` triplets nearest to ``query``, of those that ``recipe``, whose ``snapshot`` found picture ``image_id``, was
        trained on.

        Raises UserError for what :meth:`Searcher.search` refuses in a query, a picture that is not of the corpus, a checkpoint
        that was replaced since, and one whose training rows are not known any more.
        """
        if not snapshot.weights_are_current():
            raise UserError(f"the checkpoint of '{recipe}' was replaced since: search again")
        asked = snapshot.encode([snapshot.prepare(query)])[0]
        position = snapshot.gallery.ids.position(image_id)
        if position is None:
            raise UserError(f"no picture of the corpus has the id '{image_id[:64]}'")
        if recipe == UNTRAINED:
            return Why(recipe, image_id, [], 0, 0)
        (positions, scores), *_ = snapshot.gallery.nearest(snapshot.gallery.vectors([position]), NEAREST)
        ids = [snapshot.gallery.ids[p] for p in positions]
        near = dict(zip(ids, map(float, scores), strict=True)) | {image_id: 1.0}
        trained = self._trained_on(recipe)
        rows = trained.rows(["pair_id", "query_id", "target_id", "texts"], pc.field("target_id").isin(list(near)))
        rows = sorted(
            rows.to_pylist(),
            key=lambda row: (row["target_id"] != image_id, -near[row["target_id"]], row["pair_id"]),
        )[:MAX_ENCODED]
        vectors = self._encode(snapshot, rows)
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
        facts = self.lake.facts("checkpoints", recipe)
        digest = facts.digest if facts else ""
        with self._lock:
            kept = self._trained.get(recipe)
        if kept is None or kept[0] != digest:
            kept = (digest, trained_on(self.lake, recipe))
            with self._lock:
                self._trained[recipe] = kept
        return kept[1]

    def _encode(self, snapshot: Snapshot, rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        """Vectors (dim,) float32 of the triplets' queries by pair id; those whose picture is not in the lake any more are left
        out."""
        checkpoint = snapshot.model.digest
        with self._lock:
            have = {i: v for row in rows if (v := self._vectors.get((checkpoint, i := row["pair_id"]))) is not None}
        missing = [row for row in rows if row["pair_id"] not in have]
        pictures = images_by_id(self.lake, [row["query_id"] for row in missing]) if missing else {}
        missing = [row for row in missing if row["query_id"] in pictures]
        for start in range(0, len(missing), _AT_ONCE):
            part = missing[start : start + _AT_ONCE]
            queries = [Query(image=pictures[row["query_id"]], text=row["texts"][0]) for row in part]
            encoded = snapshot.encode([snapshot.prepare(query) for query in queries])
            have |= {row["pair_id"]: vector for row, vector in zip(part, encoded, strict=True)}
        with self._lock:
            for pair_id, vector in have.items():
                self._vectors[checkpoint, pair_id] = vector
                self._vectors.move_to_end((checkpoint, pair_id))
            while len(self._vectors) > MAX_KEPT:
                self._vectors.popitem(last=False)
        return have
