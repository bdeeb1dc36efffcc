"""InfoNCE asked back: which query of the batch leads to a target, as CLIP asks images and texts both ways.

A step's queries are embedded anyway, and each target then learns from all of them, so a composed query is told from the batch's
other compositions too: same picture with another text, same text with another picture. It goes beyond the paper, whose loss runs
from queries to candidates alone. Cost: a (queries, queries) product, nothing beside the towers.
"""

from __future__ import annotations

import torch

from mmret.retriever.train.loss import nested_info_nce
from mmret.settings import Recipe


class Reverse:
    """The loss from the targets ``own`` of a batch to all its queries.

    ``asks_for`` (b, b) bool: whether the query of a column asks for the target of a row, or has it for no negative. Such a query is
    no negative of the target either.
    """

    def __init__(self, asks_for: torch.Tensor, own: slice):
        own_query = torch.eye(len(asks_for), dtype=torch.bool)
        self.own = own
        self.positives = own_query[own]
        self.ignored = (asks_for & ~own_query)[own]

    def __call__(self, queries: torch.Tensor, candidates: torch.Tensor, recipe: Recipe) -> torch.Tensor:
        """The mean over the own targets, a scalar, from unit vectors of all queries (b, d) and candidates (m, d)."""
        positives, ignored = (mask.to(queries.device) for mask in (self.positives, self.ignored))
        targets = candidates[: len(queries)][self.own]
        return nested_info_nce(targets, queries, positives, ignored, recipe.temperature, recipe.hardness, recipe.matryoshka)
