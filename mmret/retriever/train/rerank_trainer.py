"""Training of a reranker: the retriever's loop, with scores of pairs in the place of vectors.

Steps, optimiser, log, states and resume are :class:`Trainer`'s. The scores are one :class:`Part` of GradCache, so pairs are scored
in chunks and the gradient is that of all at once, dropout included; of several processes each scores its share of the pairs. Cost:
two forward passes and a backward one of every pair; memory, one chunk of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch

from mmret.hashing import uniform
from mmret.ranking import recall_at
from mmret.retriever.models.pairs import Side
from mmret.retriever.train.data import Batch
from mmret.retriever.train.held_out import DEPTHS, HeldOut
from mmret.retriever.train.pairs import Pairs, listwise_loss
from mmret.retriever.train.part import Part
from mmret.retriever.train.tower import LoadImages
from mmret.retriever.train.trainer import Trainer
from mmret.settings import Recipe

GALLERY = 50
"""Candidates of a held-out query: its target, its hard negatives, and other queries' targets up to so many."""


class PairScorer(Protocol):
    """What this trainer needs of a model beside what :class:`mmret.retriever.train.embedder.Embedder` says."""

    def score_part(self, batch: Batch, pairs: Pairs, read: Any) -> Part:
        """The scores (n, 1) of this process's share of ``pairs``, from what ``read(batch)`` gave."""

    def score(self, queries: Sequence[Side], candidates: Sequence[Side]) -> np.ndarray:
        """Scores (n,) float32 as at inference."""


class RerankTrainer(Trainer):
    """:class:`Trainer` for recipes of kind ``reranker``."""

    def backward(self, batch: Batch, rows: Any) -> torch.Tensor:
        pairs = Pairs.of(batch, self.recipe)
        part = self.embedder.score_part(batch, pairs, rows)
        part = replace(part, encode=self.in_precision(part.encode))
        own = torch.from_numpy(pairs.places[self.group.share(len(batch.queries))]).to(self.parameters[0].device)

        def loss_of(scores: torch.Tensor) -> torch.Tensor:
            return listwise_loss(scores.squeeze(-1), own) * (len(own) / len(batch.queries))

        loss = self.cached_backward([part], loss_of)
        self.group.sum([loss])
        self.exchange.sum_gradients(self.parameters)
        return loss

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"kind": "reranker"}

    @staticmethod
    def held_out_of(triplets: pa.Table, recipe: Recipe, load_images: LoadImages) -> HeldOut:
        return HeldOutPairs(triplets, recipe, load_images)


class HeldOutPairs(HeldOut):
    """Recall of held-out targets among :data:`GALLERY` candidates each, as a search would have them ordered."""

    def __init__(self, triplets: pa.Table, recipe: Recipe, load_images: LoadImages):
        super().__init__(triplets, recipe, load_images)
        everyone = sorted(set(self.target.tolist()))
        self.candidates = []
        for row, (query, target) in enumerate(zip(self.query, self.target, strict=True)):
            rest = sorted((n for n in everyone if n != query), key=lambda n: uniform("held out", row, n))
            hard = [n for n in self.hard_negatives[row] if n != query]
            self.candidates.append(list(dict.fromkeys([int(target), *hard, *rest]))[:GALLERY])

    def measure(self, embedder: Any, block: int = 16) -> dict[str, float]:
        if not len(self):
            return {}
        training = embedder.model.training
        embedder.model.eval()
        ranks = []
        for start in range(0, len(self), block):
            here = range(start, min(start + block, len(self)))
            numbers = sorted({n for row in here for n in (*self.candidates[row], int(self.query[row]))})
            files = dict(zip(numbers, self.pictures(np.array(numbers, np.int64)), strict=True))
            queries = {row: Side(files[int(self.query[row])], self.texts[row]) for row in here}
            asked = [queries[row] for row in here for _ in self.candidates[row]]
            scores = embedder.score(asked, [Side(files[n]) for row in here for n in self.candidates[row]])
            for own in np.split(scores, np.cumsum([len(self.candidates[row]) for row in here])[:-1]):
                ranks.append(1 + np.count_nonzero(own[1:] >= own[0]))
        embedder.model.train(training)
        return {f"recall_{k}": recall_at(np.array(ranks), [k])[f"R@{k}"] for k in DEPTHS}
