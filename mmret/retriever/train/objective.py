"""What a retriever's step minimises: InfoNCE over the batch, and what a recipe adds to it.

A :class:`Objective` is made of a batch's numbers before anything is embedded, and called once with the vectors of the whole batch.
With several processes each takes the loss of its own queries against every candidate. Costs what :mod:`.loss` does, and for each
ingredient what its module says.
"""

from __future__ import annotations

import torch

from mmret.retriever.train.agreement import Agreement
from mmret.retriever.train.batch import Batch
from mmret.retriever.train.distillation import Lesson, distillation_loss
from mmret.retriever.train.loss import masks, nested_info_nce
from mmret.retriever.train.margin import beyond_margin, own_pictures
from mmret.retriever.train.reverse import Reverse
from mmret.retriever.train.swapped_texts import Halves, SwappedTexts
from mmret.settings import Recipe


class Objective:
    """The loss of ``batch`` by ``recipe``, of which this process takes the queries ``own``.

    ``lesson``: what a teacher says of those queries. After the call ``counts`` has this process's addends of what the log tells.
    """

    def __init__(self, recipe: Recipe, batch: Batch, own: slice, device: torch.device, lesson: Lesson | None = None):
        self.recipe, self.own, self.lesson = recipe, own, lesson
        self.count = len(batch.queries)
        keys, no_negatives = batch.candidate_keys(), batch.no_negatives()
        targets, queries = keys[: self.count], batch.distinct_queries()[1] if recipe.several_positives else None
        masked = recipe.mask_false_negatives
        positives, ignored = masks(targets, keys, masked, queries, no_negatives, batch.copies())
        self.reverse = self.swapped_texts = None
        if recipe.reverse or recipe.swapped_texts:
            # copies are of candidates, which count once in a softmax over them; here the softmax is over queries
            among = masks(targets, targets, masked, queries, None if no_negatives is None else no_negatives[:, : self.count])
            asks_for = (among[0] | among[1]).T
            if (same_triplet := batch.same_triplet()) is not None:
                asks_for |= torch.from_numpy(same_triplet)
            self.reverse = Reverse(asks_for, own) if recipe.reverse else None
            self.swapped_texts = SwappedTexts(batch, asks_for, own) if recipe.swapped_texts else None
        self.positives, self.ignored = (m[own].to(device) for m in (positives, ignored))
        self.kept = None
        if recipe.mask_margin is not None:
            self.kept = torch.from_numpy(own_pictures(batch)[own]).to(device)
        self.agreement = Agreement(batch, own) if recipe.agreement else None
        self.counts: dict[str, torch.Tensor] = {}

    def __call__(self, queries: torch.Tensor, candidates: torch.Tensor, halves: Halves | None = None) -> torch.Tensor:
        """This process's addend of the loss, a scalar, from unit vectors of all queries (b, d) and candidates (m, d), and what the
        queries are sums of where the recipe has ``swapped_texts``."""
        recipe, own = self.recipe, queries[self.own]
        ignored = self._ignored(own, candidates)
        loss = nested_info_nce(own, candidates, self.positives, ignored, recipe.temperature, recipe.hardness, recipe.matryoshka)
        if self.reverse is not None:
            loss = loss + recipe.reverse * self.reverse(queries, candidates, recipe)
        if self.swapped_texts is not None:
            if halves is None:
                raise ValueError("swapped_texts is of queries that are sums, and what they are sums of was not given")
            loss = loss + recipe.swapped_texts * self.swapped_texts(halves, candidates, recipe)
        if self.lesson is not None:
            temperatures = recipe.temperature, recipe.teacher_temperature
            loss = loss + recipe.distillation * distillation_loss(own, candidates, self.lesson, *temperatures)
        loss = loss * (len(own) / self.count)
        if self.agreement is not None:
            divergence = self.agreement(queries, candidates, recipe.temperature)
            self.counts["agreement"] = divergence.detach().double()
            loss = loss + recipe.agreement * divergence
        return loss

    def figures(self) -> dict[str, float]:
        """Columns of the log, from :attr:`counts` when they are those of all processes together."""
        found = {name: float(count) for name, count in self.counts.items()}
        if "masked" in found:
            found["masked"] /= max(1.0, found.pop("negatives"))
        return found

    def _ignored(self, own: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """What is no negative of the own queries. One mask, from whole vectors, serves every length of a nested loss: short
        vectors know less."""
        if self.kept is None or self.recipe.mask_margin is None:
            return self.ignored
        negatives = ~(self.positives | self.ignored)
        masked = beyond_margin(own, candidates, self.positives, self.recipe.mask_margin) & negatives & ~self.kept
        self.counts |= {"masked": masked.sum().double(), "negatives": negatives.sum().double()}
        return self.ignored | masked
