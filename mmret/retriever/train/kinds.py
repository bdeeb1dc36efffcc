"""The embedder of each kind of recipe: to add a kind, write a class of :class:`Embedder` and enter it here.

Recipes of kind ``clip`` train two towers; of which family, the ``model_type`` of their base decides (:data:`TWO_TOWERS`). A
kind whose loss is no comparison of vectors has a trainer of its own. Costs the import of ``transformers``, some seconds.
"""

from __future__ import annotations

from pathlib import Path

from mmret.errors import UserError
from mmret.retriever.models.checkpoint import model_part
from mmret.retriever.models.kinds import REFUSED, model_type
from mmret.retriever.models.mllm_prompts import prompts
from mmret.retriever.train.clip import ClipEmbedder
from mmret.retriever.train.embedder import Embedder
from mmret.retriever.train.mllm import MllmEmbedder
from mmret.retriever.train.parallel import SINGLE_PROCESS, Group
from mmret.retriever.train.rerank_trainer import RerankTrainer
from mmret.retriever.train.reranker import RerankerUnderTraining
from mmret.retriever.train.siglip import SiglipEmbedder
from mmret.retriever.train.trainer import Trainer
from mmret.settings import Recipe

TWO_TOWERS: dict[str, type[ClipEmbedder]] = {embedder.retriever_class.kind: embedder for embedder in (ClipEmbedder, SiglipEmbedder)}
"""The embedder of each family of two towers, by ``model_type``."""


class TwoTowers:
    """Loads the embedder of a base of two towers, whatever its family."""

    @staticmethod
    def load(recipe: Recipe, base: Path | str, group: Group = SINGLE_PROCESS) -> ClipEmbedder:
        """Raises UserError for a base of another kind."""
        base = model_part(base)
        kind = model_type(base)
        if kind not in TWO_TOWERS:
            also = "; set the recipe's kind to mllm" if kind in prompts() else f": {REFUSED[kind]}" if kind in REFUSED else ""
            raise UserError(
                f"{base} holds a model of type '{kind}', and recipes of kind clip start from {' or '.join(TWO_TOWERS)}{also}"
            )
        return TWO_TOWERS[kind].load(recipe, base, group)


class Mllms:
    """Loads the embedder of a multimodal LLM."""

    @staticmethod
    def load(recipe: Recipe, base: Path | str, group: Group = SINGLE_PROCESS) -> MllmEmbedder:
        """Raises UserError for a base of another kind."""
        kind = model_type(base)
        if kind not in prompts():
            also = "; set the recipe's kind to clip" if kind in TWO_TOWERS else ""
            raise UserError(
                f"{base} holds a model of type '{kind}', and recipes of kind mllm start from {', '.join(prompts())}{also}"
            )
        return MllmEmbedder.load(recipe, base, group)


EMBEDDERS: dict[str, type[Embedder] | type[TwoTowers] | type[Mllms]] = {
    "clip": TwoTowers,
    "mllm": Mllms,
    "reranker": RerankerUnderTraining,
}
"""What loads the model of a recipe, by ``Recipe.kind``."""

TRAINERS: dict[str, type[Trainer]] = {"reranker": RerankTrainer}
"""The trainer of the kinds that have their own; :class:`Trainer` trains the others."""
