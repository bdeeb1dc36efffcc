"""The embedder of each kind of recipe: to add a kind, write a class of :class:`Embedder` and enter it here.

Costs the import of ``transformers``, some seconds.
"""

from __future__ import annotations

from mmret.retriever.train.clip import ClipEmbedder
from mmret.retriever.train.embedder import Embedder
from mmret.retriever.train.mllm import MllmEmbedder

EMBEDDERS: dict[str, type[Embedder]] = {"clip": ClipEmbedder, "mllm": MllmEmbedder}
"""The class that trains a recipe, by ``Recipe.kind``."""
