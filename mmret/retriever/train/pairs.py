"""What a reranker scores in a step: for each row its target, its own hard negatives, and the targets of some other rows.

A retriever compares every query with every candidate of a batch by one product; a reranker pays a forward pass a pair, so a row
gets few candidates, the hard ones first. Which ones is a function of the batch, and so of (recipe, step). Costs microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import log_softmax

from mmret.retriever.train.data import Batch
from mmret.retriever.train.loss import MASKED_LOGIT, masks
from mmret.settings import Recipe


@dataclass(frozen=True)
class Pairs:
    """``rows`` (n,) int64 and ``candidates`` (n,) int64: pair j is candidate image ``candidates[j]`` for query ``rows[j]``, row by
    row, each row's target first. ``places`` (b, c) int64 are the pairs of each row, -1 where it has fewer."""

    rows: np.ndarray
    candidates: np.ndarray
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, batch: Batch, recipe: Recipe) -> Pairs:
        """The pairs of ``batch``. A candidate that is a target of the same question (picture and text), or that a row has already,
        makes no pair: with ``mask_false_negatives`` and ``several_positives`` as a retriever's loss understands them."""
        count = len(batch.queries)
        others = min(recipe.reranker.in_batch, count - 1)
        own = np.arange(count)
        brought_by = batch.negative_rows if batch.negative_rows is not None else np.empty(0, np.int64)
        rows = np.concatenate([own, brought_by, np.tile(own, others)])
        of_pool = np.concatenate([own, count + np.arange(len(brought_by)), *((own + 1 + k) % count for k in range(others))])
        positives, ignored = masks(
            batch.targets,
            batch.candidates,
            recipe.mask_false_negatives,
            batch.distinct_queries()[1] if recipe.several_positives else None,
        )
        wrong = ~(positives | ignored).numpy()[rows, of_pool]
        wrong[:count] = True  # each row's own target
        rows, candidates = rows[wrong], batch.candidates[of_pool[wrong]]
        _, first = np.unique(np.stack([rows, candidates]), axis=1, return_index=True)
        first = np.sort(first)
        rows, candidates = rows[first], candidates[first]
        order = np.argsort(rows, kind="stable")
        rows, candidates = rows[order], candidates[order]
        sizes = np.bincount(rows, minlength=count)
        places = np.full((count, sizes.max()), -1, np.int64)
        places[rows, np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)] = np.arange(len(rows))
        return cls(rows, candidates, places)


def listwise_loss(scores: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Mean over rows of ``-log softmax`` of the target's score among those of the row's candidates, a scalar.

    ``scores`` (n,) of all pairs; ``places`` (b, c) int64, the pairs of each row, its target first, -1 where it has fewer. That each
    candidate is right or wrong by itself, as binary cross-entropy has it, is more than the data says: a hard negative was chosen
    for being near, not for being wrong, and a search needs an order of one query's hits alone.
    """
    logits = scores.index_select(0, places.clamp(min=0).flatten()).view(places.shape).masked_fill(places < 0, MASKED_LOGIT)
    return -log_softmax(logits, dim=1)[:, 0].mean()
