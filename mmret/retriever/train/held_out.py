"""Retrieval on a held-out slice while a model trains, to see whether it gets better at what it is for.

The slice is triplets of split ``test`` with one of their texts, whatever tasks the recipe trains besides; the gallery is all of
its images, so the figure is comparable within a run and between recipes on one lake, and not with an evaluation over the whole
corpus. Costs one inference pass over at most ``held_out_queries`` queries and some six times as many pictures.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.hashing import uniform
from mmret.ranking import recall_at, target_ranks
from mmret.retriever.train.embedder import Embedder
from mmret.retriever.train.tower import LoadImages, Pictures
from mmret.settings import Recipe
from mmret.tasks import COMPOSED

DEPTHS = (1, 5, 10)


class HeldOut:
    """``measure(embedder)``: recall over at most ``recipe.held_out_queries`` triplets that no recipe trains on."""

    def __init__(self, triplets: pa.Table, recipe: Recipe, load_images: LoadImages):
        test = triplets.filter(pc.equal(triplets["split"], "test"))
        if "task" in test.column_names:
            test = test.filter(pc.equal(test["task"], COMPOSED))
        rows = [row for row in test.to_pylist() if row["texts"]]
        rows = sorted(rows, key=lambda row: uniform("held out", row["pair_id"]))[: recipe.held_out_queries]
        ids = sorted({i for row in rows for i in (row["query_id"], row["target_id"], *(row["hard_negatives"] or []))})
        place = {image: number for number, image in enumerate(ids)}
        self.pictures = Pictures(pa.array(ids, pa.string()), load_images)
        self.query = np.array([place[row["query_id"]] for row in rows], np.int64)
        self.target = np.array([place[row["target_id"]] for row in rows], np.int64)
        self.hard_negatives = [[place[i] for i in row["hard_negatives"] or []] for row in rows]
        self.texts = [row["texts"][int(uniform("text", row["pair_id"]) * len(row["texts"]))] for row in rows]

    def __len__(self) -> int:
        return len(self.query)

    def measure(self, embedder: Embedder, block: int = 256) -> dict[str, float]:
        """``{"recall_1": ..., "recall_5": ..., "recall_10": ...}`` in percent, the query image left out of its gallery;
        nothing where no triplet is held out. Ranked as every evaluation is (:mod:`mmret.ranking`).

        Raises UserError where a vector is not finite: the model is broken.
        """
        if not len(self):
            return {}
        training = embedder.model.training
        embedder.model.eval()
        gallery = np.concatenate(
            [
                embedder.encode(self.pictures(np.arange(start, min(start + block, len(self.pictures)))))
                for start in range(0, len(self.pictures), block)
            ]
        )
        asked = np.concatenate(
            [
                embedder.encode(self.pictures(self.query[start : start + block]), self.texts[start : start + block])
                for start in range(0, len(self), block)
            ]
        )
        embedder.model.train(training)
        ranks = target_ranks(asked, gallery, [[t] for t in self.target], [[q] for q in self.query])
        return {f"recall_{k}": recall_at(ranks, [k])[f"R@{k}"] for k in DEPTHS}
