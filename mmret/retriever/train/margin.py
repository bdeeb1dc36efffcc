"""Candidates that a query is nearer to than to its own target are hardly wrong answers: a mask of false negatives by cosine.

Qwen3-VL-Embedding (arXiv 2601.04720) leaves out of InfoNCE what exceeds the target by more than 0.1. The mask is taken from a
step's features as they are, without a gradient: so it is the same whatever the chunks of GradCache and however many processes share
the step. Cost: one more (queries, candidates) product, without a graph, in blocks of queries, and a bool a pair.
"""

from __future__ import annotations

import numpy as np
import torch

from mmret.retriever.train.batch import NONE, Batch
from mmret.retriever.train.loss import ROWS


def own_pictures(batch: Batch) -> np.ndarray:
    """(b, m) bool: candidates that show the query's own picture, where an image and a text ask together.

    The text asks for something else than that picture, and an untrained model finds it first: it is what training has to push away,
    so no margin makes it a false negative. Where an image or a text asks alone, nothing says so.
    """
    both = (batch.queries != NONE) & np.array([text is not None for text in batch.texts], bool)
    shown = batch.queries[:, None] == batch.candidates[None, :]
    if batch.query_sources is not None and batch.candidate_sources is not None:
        shown |= batch.query_sources[:, :1] == batch.candidate_sources[None, :, 0]
    return shown & both[:, None]


@torch.no_grad()
def beyond_margin(queries: torch.Tensor, candidates: torch.Tensor, positives: torch.Tensor, margin: float) -> torch.Tensor:
    """(b, m) bool: whether a query's cosine with a candidate exceeds that with its target by more than ``margin``.

    ``queries`` (b, d) and ``candidates`` (m, d) are unit vectors, ``positives`` (b, m) bool; of several positives the nearest
    counts. Positives are never among what is found.
    """
    found = []
    for rows, positive in zip(queries.split(ROWS), positives.split(ROWS), strict=True):
        cosines = rows @ candidates.T
        cosines = cosines.float() if cosines.dtype.itemsize < 4 else cosines
        best = cosines.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
        found.append((cosines > best + margin) & ~positive)
    return torch.cat(found)
