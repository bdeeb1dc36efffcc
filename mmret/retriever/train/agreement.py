"""Texts of one triplet say the same in other words, so with its picture they should find the same: a loss on how far they differ.

Each text's query has a distribution over the batch's distinct candidates, the softmax of its cosines over the temperature, as in
InfoNCE. A triplet's divergence is the mean over its queries of KL(mean of them || the query's own), as between networks that learn
from each other (arXiv 1706.00384), with no gradient through the mean: a wording is drawn to what all of them find together. Copies
of a candidate count once, and nothing is masked, because what no query is told to push away should be found alike too. Cost: one
(queries, candidates) product more, taken in blocks of triplets with as many texts each.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn.functional import log_softmax
from torch.utils.checkpoint import checkpoint

from mmret.retriever.train.batch import Batch
from mmret.retriever.train.loss import ROWS


class Agreement:
    """The divergence within the triplets of ``batch``, of which this process takes those whose first query is among ``own``.

    ``triplets``: how many of the batch have several queries; without any the loss is zero. A batch without groups has none.
    """

    def __init__(self, batch: Batch, own: slice):
        groups = np.arange(len(batch.queries)) if batch.groups is None else batch.groups
        order = np.argsort(groups, kind="stable")
        found = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
        several = [rows for rows in found if len(rows) > 1]
        self.triplets = len(several)
        own_ones = [rows for rows in several if own.start <= rows[0] < own.stop]
        self.blocks = [
            torch.from_numpy(np.stack(alike[start : start + max(1, ROWS // size)]))
            for size in sorted({len(rows) for rows in own_ones})
            for alike in [[rows for rows in own_ones if len(rows) == size]]
            for start in range(0, len(alike), max(1, ROWS // size))
        ]
        self.distinct = torch.from_numpy(np.unique(batch.candidate_keys(), return_index=True)[1])

    def __call__(self, queries: torch.Tensor, candidates: torch.Tensor, temperature: float) -> torch.Tensor:
        """This process's addend of the mean over triplets, a scalar, in nats, from unit vectors of all queries (b, d) and of all
        candidates (m, d)."""
        distinct = candidates.index_select(0, self.distinct.to(candidates.device))
        total = queries.new_zeros((), dtype=torch.promote_types(queries.dtype, torch.float32))
        for block in self.blocks:
            rows = queries.index_select(0, block.flatten().to(queries.device)).view(*block.shape, -1)
            if len(self.blocks) == 1:
                return _divergence(rows, distinct, temperature) / self.triplets
            addend = checkpoint(_divergence, rows, distinct, temperature, use_reentrant=False, preserve_rng_state=False)
            total = total + addend
        return total / max(1, self.triplets)


def _divergence(queries: torch.Tensor, candidates: torch.Tensor, temperature: float) -> torch.Tensor:
    """The sum over triplets of as many texts each: ``queries`` (triplets, texts, d), ``candidates`` (n, d)."""
    cosines = queries @ candidates.T
    cosines = cosines.float() if cosines.dtype.itemsize < 4 else cosines
    logs = log_softmax(cosines / temperature, dim=-1)
    mean = torch.logsumexp(logs.detach(), dim=1, keepdim=True) - math.log(logs.shape[1])
    return (mean.exp() * (mean - logs)).sum() / logs.shape[1]
