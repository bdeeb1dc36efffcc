"""What the training loop needs of a model, whatever its kind: the :class:`Embedder` protocol.

The loop knows batches, features, a loss and an optimiser. An embedder says which parameters are trained, reads a
batch's pictures (in a thread, while the step before runs), and says which features are computed from it, chunk by chunk.
One class per kind of recipe, in :mod:`mmret.retriever.train.clip` and :mod:`mmret.retriever.train.mllm`; a further
kind is a further class and a line in :mod:`mmret.retriever.train.kinds`. Costs nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mmret.retriever.train.data import Batch, TrainingSet
from mmret.retriever.train.gradcache import Part
from mmret.retriever.train.parallel import Group
from mmret.retriever.train.tower import LoadImages
from mmret.settings import Recipe

Gather = Callable[..., tuple[Any, ...]]
"""Takes the features of every part; gives what :class:`mmret.retriever.train.objective.Objective` is called with: unit vectors of
the batch's queries (b, d) and candidates (m, d), and with ``swapped_texts`` what the queries are sums of."""


class Embedder(Protocol):
    """A model under training. Parameters with ``requires_grad`` are those a state keeps.

    ``retriever`` encodes as at inference, and its ``truncated`` counts the texts that were cut;
    ``chunks`` are the rows in one forward pass, one number per part.
    """

    model: torch.nn.Module
    chunks: tuple[int, ...]
    retriever: Any

    @classmethod
    def load(cls, recipe: Recipe, base: Path | str, group: Group) -> Embedder:
        """The model a recipe starts from. Raises UserError where there is none of the recipe's kind."""

    def parameter_groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        """The parameters that are trained, with their peak learning rates."""

    def hidden_matrices(self) -> list[torch.nn.Parameter]:
        """Those of them that Muon may train: weights of linear layers inside transformer blocks; none of adapters."""

    def divide(self) -> list[torch.nn.Module]:
        """Called once where the model is about to be divided among the processes (``parallel: fsdp``): from then on every chunk
        is one pass through the same blocks in all of them. Gives the blocks of which the embedder calls the inside."""

    def open(self, data: TrainingSet, load_images: LoadImages, work: Path) -> None:
        """Prepare what :meth:`read` reads from; ``work`` is a folder of this run alone."""

    def read(self, batch: Batch) -> Any:
        """This process's share of a batch's pictures and texts, on the CPU; called from another thread."""

    def parts(self, batch: Batch, read: Any) -> tuple[list[Part], Gather]:
        """The features to compute from what was read, and how queries and candidates are gathered from them."""

    def encode(self, images: Sequence[bytes], texts: Sequence[str] | None = None) -> np.ndarray:
        """Unit vectors (n, d) float32 of candidates, or with ``texts`` of composed queries, as at inference."""

    def save(self, folder: Path) -> None:
        """Write the checkpoint's files."""
