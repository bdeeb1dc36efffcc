"""InfoNCE from queries to candidates, over features: the loss knows no model.

A batch has one pool of candidates: the targets of all its queries and every hard negative. Each query is scored
against the whole pool, so the targets and negatives of the others are its in-batch negatives (paper, section 3.2),
and queries may bring different numbers of negatives. What is a positive, what must not count as a negative, is a
mask. Cost: one (queries, candidates) product and a handful of passes over it; more queries than ``ROWS`` are scored
block by block, so that memory grows with the candidates only, for a second product in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat

import numpy as np
import torch
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

ROWS = 64
"""Queries scored at a time."""
MASKED_LOGIT = -1e4
"""Logit of what is masked: exp(MASKED_LOGIT) is 0 in every float type, and unlike -inf it has a gradient when a row has
nothing else."""


def info_nce(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    positives: torch.Tensor,
    ignored: torch.Tensor | None = None,
    temperature: float = 0.02,
    hardness: float = 0.0,
) -> torch.Tensor:
    """Mean over queries of ``-log(exp(s+/T) / (exp(s+/T) + sum over negatives of exp(s-/T)))``, a scalar.

    ``queries`` (b, d) and ``candidates`` (m, d) are unit vectors; ``positives`` and ``ignored`` (b, m) are boolean. A
    query with several positives averages over them, none of them being a negative of another. ``ignored`` candidates
    are no negatives. Every query needs a positive. A query without any negative contributes zero. ``hardness`` a
    multiplies each negative's term by exp(a * s-), through which no gradient flows: hard negatives count for more
    (LLaVE, arXiv 2503.04812, eq. 5; 0: plain InfoNCE).
    """
    return by_rows(partial(_losses, candidates, temperature=temperature, hardness=hardness), queries, positives, ignored).mean()


def by_rows(losses: Callable[..., torch.Tensor], *rows: torch.Tensor | None) -> torch.Tensor:
    """``losses(*rows)`` (b,), of so many ``ROWS`` at a time; each of ``rows`` has b, or is None."""
    if len(rows[0]) <= ROWS:
        return losses(*rows)
    blocks = zip(*(repeat(None) if of is None else of.split(ROWS) for of in rows), strict=False)
    return torch.cat([checkpoint(losses, *block, use_reentrant=False, preserve_rng_state=False) for block in blocks])


def nested_info_nce(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    positives: torch.Tensor,
    ignored: torch.Tensor | None = None,
    temperature: float = 0.02,
    hardness: float = 0.0,
    dimensions: Sequence[int] = (),
) -> torch.Tensor:
    """Mean of :func:`info_nce` over whole vectors and over the first so many of ``dimensions``, of unit length again, a scalar.

    So that short vectors rank by themselves (Matryoshka representation learning, arXiv 2205.13147, whose weights are equal too).
    Without ``dimensions`` it is :func:`info_nce`. Cost: as many products, the widest of them as dear as the one.
    """
    losses = [info_nce(queries, candidates, positives, ignored, temperature, hardness)]
    for width in dimensions:
        short = (normalize(vectors[:, :width], dim=-1) for vectors in (queries, candidates))
        losses.append(info_nce(*short, positives, ignored, temperature, hardness))
    return torch.stack(losses).mean() if dimensions else losses[0]


def _losses(
    candidates: torch.Tensor,
    queries: torch.Tensor,
    positives: torch.Tensor,
    ignored: torch.Tensor | None,
    temperature: float,
    hardness: float,
) -> torch.Tensor:
    """The loss of each query, (b,)."""
    cosines = queries @ candidates.T
    cosines = cosines.float() if cosines.dtype.itemsize < 4 else cosines
    return losses_of(cosines, positives, ignored, temperature, hardness)


def losses_of(
    cosines: torch.Tensor, positives: torch.Tensor, ignored: torch.Tensor | None, temperature: float, hardness: float = 0.0
) -> torch.Tensor:
    """The loss of each row of ``cosines`` (b, m), (b,), as :func:`info_nce` has its mean."""
    logits = cosines / temperature
    neither = positives if ignored is None else positives | ignored
    weighted = logits + hardness * cosines.detach() if hardness else logits
    negatives = torch.logsumexp(weighted.masked_fill(neither, MASKED_LOGIT), dim=1, keepdim=True)
    losses = (torch.logaddexp(logits, negatives) - logits).masked_fill(~positives, 0)
    return losses.sum(dim=1) / positives.sum(dim=1)


def masks(
    targets: np.ndarray,
    candidates: np.ndarray,
    mask_false_negatives: bool = True,
    queries: np.ndarray | None = None,
    no_negatives: np.ndarray | None = None,
    copies: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``positives`` and ``ignored`` (b, m) for :func:`info_nce` where candidate i is the target of query i for i < b.

    ``targets`` (b,) and ``candidates`` (m,) are image ids as integers, or any that are equal for what is embedded the
    same. Where ``queries`` (b,) is given, rows of one number are one query: the targets of all of them are its
    positives. A further occurrence of a positive, brought by another query, would be pushed away as a negative; with
    ``mask_false_negatives`` it is ignored, as is what ``no_negatives`` (b, m) names besides. ``copies`` (b, m) are ignored in
    any case.
    """
    count = len(targets)
    positives = np.zeros((count, len(candidates)), dtype=bool)
    positives[np.arange(count), np.arange(count)] = True
    ignored = np.zeros_like(positives)
    if mask_false_negatives:
        ignored = targets[:, None] == candidates[None, :]
        if no_negatives is not None:
            ignored |= no_negatives
    if copies is not None:
        ignored |= copies
    for rows in _rows_of_one_query(queries):
        ignored[rows] |= mask_false_negatives & np.isin(candidates, targets[rows])
        for row in rows:
            others = [i for i in rows if targets[i] != targets[row]]
            _, first = np.unique(targets[others], return_index=True)
            positives[row, np.array(others, np.int64)[first]] = True
    return torch.from_numpy(positives), torch.from_numpy(ignored & ~positives)


def _rows_of_one_query(queries: np.ndarray | None) -> list[np.ndarray]:
    """Rows that share their query, for every query that has more than one."""
    if queries is None:
        return []
    order = np.argsort(queries, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(queries[order])) + 1)
    return [rows for rows in groups if len(rows) > 1]
