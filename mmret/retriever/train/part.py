"""What an embedder has computed in a step, chunk by chunk: a :class:`Part`. Costs nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Part:
    """Features to compute: ``encode(chunk)`` gives (rows of the chunk, dim); the features are those of all chunks in
    order. With several processes ``chunks`` are this one's share of ``total`` rows, and ``empty`` (0, dim) stands for
    the features of a process that has none. ``order``: the chunks' rows are those numbers of the share, where they are not in its
    order.

    Where the model itself is divided, a pass has to go through the same blocks in every process: ``shows(chunk)`` says whether it
    goes through those of pictures, and ``fill(chunk, shows)`` gives ``chunk`` (None: a new one) with a last row more, such that it
    does.
    """

    encode: Callable[[Any], torch.Tensor]
    chunks: Sequence[Any]
    total: int = 0
    empty: torch.Tensor | None = None
    shows: Callable[[Any], bool] = lambda chunk: True
    fill: Callable[[Any | None, bool], Any] | None = None
    order: Sequence[int] | None = None

    def in_order(self, rows: torch.Tensor) -> torch.Tensor:
        """``rows`` (n, dim) of the chunks, one after the other, as the share has them."""
        return rows if self.order is None else rows.index_select(0, self._numbers(rows).argsort())

    def of_chunks(self, rows: torch.Tensor) -> torch.Tensor:
        """``rows`` (n, dim) of the share as the chunks have them, one after the other."""
        return rows if self.order is None else rows.index_select(0, self._numbers(rows))

    def _numbers(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.order, dtype=torch.long, device=rows.device)
