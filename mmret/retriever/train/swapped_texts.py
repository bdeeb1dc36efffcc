"""Which text, put together with this picture, leads to that target: each picture of a step beside every text of the step.

A composed query of two towers is a sum, so the picture of one row with the text of another costs no tower. The other queries of a
batch mostly differ from a row's own in picture and text at once, and the picture alone tells them apart; here only the text does,
so the text has to be read. It goes beyond the paper, whose loss runs from queries to candidates alone. Cost: two (rows, rows)
products of features that are there, nothing beside the towers.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch.nn.functional import normalize

from mmret.retriever.train.batch import NONE, Batch
from mmret.retriever.train.loss import by_rows, losses_of
from mmret.settings import Recipe

_SHORTEST = 1e-3
"""Length of a sum, over those of its halves, below which it is taken for so long: what cancels leaves the rounding of the rest."""

Halves = tuple[torch.Tensor, torch.Tensor]
"""Un-normalised image features (b, d) and text features (b, d) of the queries, of which each query is the normalised sum."""


class SwappedTexts:
    """InfoNCE from the targets of ``own`` rows to the row's picture with each text of the batch, the row's own being the right one.

    A text is no negative of a row where it is the row's own in another place, or where the row that brought it has the same picture
    and asks for the target too: ``asks_for`` (b, b), whether the query of a column asks for the target of a row. Rows take part
    that have a picture and a text, of whatever task; without any the loss is zero.
    """

    def __init__(self, batch: Batch, asks_for: torch.Tensor, own: slice):
        text = batch.distinct_texts()[1]
        both = (batch.queries != NONE) & (text != NONE)
        self.rows = np.arange(len(text))[own][both[own]]
        self.texts = np.flatnonzero(both)
        picture = batch.queries
        here = np.ix_(self.rows, self.texts)
        self.positives = torch.from_numpy(self.rows[:, None] == self.texts)
        same = text[self.rows][:, None] == text[self.texts]
        same |= (picture[self.rows][:, None] == picture[self.texts]) & asks_for.numpy()[here]
        self.ignored = torch.from_numpy(same) & ~self.positives
        self.own = own

    def __call__(self, halves: Halves, candidates: torch.Tensor, recipe: Recipe) -> torch.Tensor:
        """The sum over the own rows that take part over the number of own rows, a scalar, from ``halves`` of all queries and unit
        vectors of all candidates (m, d)."""
        pictures, words = halves
        total = pictures.new_zeros((), dtype=torch.promote_types(pictures.dtype, torch.float32))
        if not len(self.rows):
            return total
        device = pictures.device
        rows, texts = (torch.from_numpy(numbers).to(device) for numbers in (self.rows, self.texts))
        parts = pictures.index_select(0, rows), words.index_select(0, texts), candidates.index_select(0, rows)
        masks = self.positives.to(device), self.ignored.to(device)
        widths = (None, *recipe.matryoshka)
        for width in widths:
            picture, text, target = (part if width is None else part[:, :width] for part in parts)
            score = partial(_losses, text, temperature=recipe.temperature, hardness=recipe.hardness)
            total = total + by_rows(score, picture, normalize(target, dim=-1), *masks).sum()
        return total / (len(widths) * max(1, self.own.stop - self.own.start))


def _losses(
    texts: torch.Tensor,
    pictures: torch.Tensor,
    targets: torch.Tensor,
    positives: torch.Tensor,
    ignored: torch.Tensor,
    temperature: float,
    hardness: float,
) -> torch.Tensor:
    """The loss of each row, (b,). The cosines of the sums with the targets come from products of their halves: the sums themselves
    would be (b, texts, d)."""
    pictures, texts, targets = (x.float() if x.dtype.itemsize < 4 else x for x in (pictures, texts, targets))
    squares = (pictures**2).sum(1, keepdim=True) + (texts**2).sum(1)
    square = torch.maximum(squares + 2 * pictures @ texts.T, _SHORTEST**2 * squares.detach())
    products = (pictures * targets).sum(1, keepdim=True) + targets @ texts.T
    cosines = products / square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()
    return losses_of(cosines, positives, ignored, temperature, hardness)
