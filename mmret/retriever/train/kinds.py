"""The embedder of each kind of recipe: to add a kind, write a class of :class:`Embedder` and enter it here.

A kind whose loss is no comparison of vectors has a trainer of its own as well.

Costs the import of ``transformers``, some seconds.
"""

from __future__ import annotations

from mmret.retriever.train.clip import ClipEmbedder
from mmret.retriever.train.embedder import Embedder
from mmret.retriever.train.mllm import MllmEmbedder
from mmret.retriever.train.rerank_trainer import RerankTrainer
from mmret.retriever.train.reranker import RerankerUnderTraining
from mmret.retriever.train.trainer import Trainer

EMBEDDERS: dict[str, type[Embedder]] = {"clip": ClipEmbedder, "mllm": MllmEmbedder, "reranker": RerankerUnderTraining}
"""The class that trains a recipe, by ``Recipe.kind``."""

TRAINERS: dict[str, type[Trainer]] = {"reranker": RerankTrainer}
"""The trainer of the kinds that have their own; :class:`Trainer` trains the others."""
