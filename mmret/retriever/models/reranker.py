"""One way to load any reranker: its kind is told by the files of its folder.

Example::

    reranker = mmret.Reranker.load("lakes/demo/checkpoints/reranker")
    reranker.score([("cat.jpg", "the same at night")] * 2, ["a.jpg", "b.jpg"])  # (2,) float32, higher is better

Costs reading the weights.
"""

from __future__ import annotations

from pathlib import Path

from mmret.errors import UserError
from mmret.retriever.models.clip_reranker import ClipReranker
from mmret.retriever.models.kinds import CROSS_ENCODER, model_type
from mmret.retriever.models.load import DTYPES
from mmret.retriever.models.mllm_reranker import MllmReranker
from mmret.retriever.models.rerank_prompts import rerank_prompts

RERANKERS: dict[str, type[ClipReranker] | type[MllmReranker]] = {
    CROSS_ENCODER: ClipReranker,
    **dict.fromkeys(rerank_prompts(), MllmReranker),
}
"""The reranker of each ``model_type``."""


class Reranker:
    """What orders candidates of a query: ``score(queries, candidates) -> (n,)``."""

    @staticmethod
    def load(folder: str | Path, device: str = "auto", dtype: str | None = None) -> ClipReranker | MllmReranker:
        """Load a reranker's folder, a peft adapter's, or a hub name.

        ``device`` ``auto`` takes a GPU where there is one. ``dtype``: None is float32 over CLIP's towers and the checkpoint's own
        for an MLLM. Raises UserError for another dtype, and for a model of a kind that is no reranker here.
        """
        if dtype not in (None, *DTYPES):
            raise UserError(f"no dtype '{dtype}': there are {', '.join(DTYPES)}")
        kind = model_type(folder)
        if kind not in RERANKERS:
            raise UserError(
                f"{folder} holds a model of type '{kind}', which is no reranker; those are of type {', '.join(RERANKERS)}. "
                "A recipe of kind 'reranker' trains one from a CLIP folder or an MLLM"
            )
        return RERANKERS[kind].load(folder, device, **({} if dtype is None else {"dtype": dtype}))
