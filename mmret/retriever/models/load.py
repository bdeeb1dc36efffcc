"""One way to load any retriever: its kind is the ``model_type`` in the checkpoint's config.json.

Example::

    retriever = mmret.Retriever.load("lakes/demo/checkpoints/demo")
    retriever.encode(images=["cat.jpg"], texts=["the same, but at night"])  # (1, dim) float32

Costs reading the weights.
"""

from __future__ import annotations

from pathlib import Path

from mmret.encode.location import sentence_transformers_remark
from mmret.errors import UserError
from mmret.retriever.models.clip import ClipRetriever
from mmret.retriever.models.kinds import REFUSED, TEXT_INSTRUCTION, embedding_digest, is_reranker, model_type, query_options
from mmret.retriever.models.mllm import MllmRetriever
from mmret.retriever.models.mllm_prompts import prompts
from mmret.retriever.models.siglip import SiglipRetriever
from mmret.retriever.models.two_towers import TwoTowerRetriever

__all__ = ["DTYPES", "KINDS", "TEXT_INSTRUCTION", "Retriever", "embedding_digest", "model_type", "query_options"]
TWO_TOWERS: dict[str, type[TwoTowerRetriever]] = {kind.kind: kind for kind in (ClipRetriever, SiglipRetriever)}
KINDS: dict[str, type[TwoTowerRetriever] | type[MllmRetriever]] = {**TWO_TOWERS, **dict.fromkeys(prompts(), MllmRetriever)}
"""The retriever of each ``model_type``."""
DTYPES = ("float32", "bfloat16", "float16")


class Retriever:
    """What embeds images, texts and composed queries: ``encode(images, texts) -> (n, dim)`` unit vectors."""

    @staticmethod
    def load(folder: str | Path, device: str = "auto", dtype: str | None = None) -> TwoTowerRetriever | MllmRetriever:
        """Load a checkpoint folder, a peft adapter folder or a hub name.

        ``device`` ``auto`` takes a GPU where there is one. ``dtype``: one of :data:`DTYPES`; None is float32
        for two towers and the checkpoint's own for an MLLM. Raises UserError for another dtype, and for a model of a kind
        that is no retriever here.
        """
        if dtype not in (None, *DTYPES):
            raise UserError(f"no dtype '{dtype}': there are {', '.join(DTYPES)}")
        if is_reranker(folder):
            raise UserError(
                f"{folder} holds a reranker, which embeds nothing: it orders what a retriever found. "
                "mmret.Reranker.load(folder) loads it, `mmret search --rerank` uses it"
            )
        kind = model_type(folder)
        if kind not in KINDS:
            if said := sentence_transformers_remark(folder):
                raise UserError(said)
            if kind in REFUSED:
                raise UserError(f"{folder} is not loaded: {REFUSED[kind]}")
            raise UserError(f"{folder} holds a model of type '{kind}'; retrievers are of type {', '.join(KINDS)}")
        return KINDS[kind].load(folder, device, **({} if dtype is None else {"dtype": dtype}))
