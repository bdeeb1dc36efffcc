"""Ingredients of training that came after the paper, each a setting of a recipe and off by default.

Profile ``paper`` uses none of them. What each is worth, alone and together: docs/performance.md. Costs nothing.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmret.settings.base import Settings

Filter = Literal["consistency", "false_negatives", "judge"]


class Ingredients(Settings):
    """Part of a :class:`mmret.settings.Recipe`: what a retriever may be trained with beyond the paper."""

    texts_at_once: Literal["one", "triplet", "picture"] = Field(
        "one",
        description="texts that a visit shows: one drawn (paper), all of the triplet, or all of all triplets of the query picture, "
        "each a query of its own with the picture embedded once (MuCo, arXiv 2602.06393); batch_size counts queries",
    )
    batch_neighbours: int = Field(
        1,
        ge=1,
        description="rows whose pictures are neighbours in the lake are put into a batch in groups of so many (B3, arXiv "
        "2505.11293); 1: at random, batch_size: the whole batch is of one neighbourhood",
    )
    mask_margin: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="a candidate of the batch is no negative of a query whose cosine with it exceeds that with its target by more "
        "than this (arXiv 2601.04720 takes 0.1); None: it is",
    )
    negative_margin: float | None = Field(
        None,
        allow_inf_nan=False,
        description="a mined hard negative is left out where the teacher's score of it, meaned over the texts, exceeds that of the "
        "target minus this (arXiv 2601.04720); in the teacher's units; None: none is",
    )
    reverse: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="weight of the same loss asked back, from each target to the queries of the batch, as CLIP has both; 0: off, "
        "as in the paper",
    )
    swapped_texts: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="weight of the loss by which each target tells which text of the batch, put together with its query's picture, "
        "leads to it; of two towers alone, whose queries are sums; 0: off, as in the paper",
    )
    agreement: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="weight of the divergence between what the texts of one triplet find in the batch; needs texts_at_once",
    )
    average_from: float | None = Field(
        None, ge=0, lt=1, description="the checkpoint is the mean of the weights after this share of the steps; None: the last"
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="the checkpoint is the exponential moving average of the weights, decaying by this each step"
    )
    chunk_tokens: int | None = Field(
        None,
        ge=1,
        description="tokens in one pass, padding counted: texts of like length share a chunk; None: chunk_size rows a chunk",
    )
    filters: tuple[Filter, ...] = Field(
        (),
        description="what checks the triplets before they are trained on: consistency: texts that do not lead to their target; "
        "false_negatives: hard negatives that a text asks for; judge: the same, asked of a vision-language model",
    )

    @model_validator(mode="after")
    def _go_together(self) -> Ingredients:
        if self.agreement and self.texts_at_once == "one":
            raise ValueError("agreement compares the texts of a triplet: set texts_at_once to triplet or picture, or leave it out")
        if self.average_from is not None and self.ema_decay is not None:
            raise ValueError("average_from and ema_decay are two ways to average the weights: leave one out")
        if len(set(self.filters)) != len(self.filters):
            raise ValueError(f"filters has {', '.join(self.filters)}: name each once")
        return self
