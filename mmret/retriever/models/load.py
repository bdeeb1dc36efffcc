"""One way to load any retriever: its kind is the ``model_type`` in the checkpoint's config.json.

Example::

    retriever = mmret.Retriever.load("lakes/demo/checkpoints/demo")
    retriever.encode(images=["cat.jpg"], texts=["the same, but at night"])  # (1, dim) float32

Costs reading the weights.
"""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path

from mmret.encode.location import sentence_transformers_remark
from mmret.errors import UserError
from mmret.hashing import fingerprint
from mmret.retriever.models.checkpoint import RECORD, weights_digest
from mmret.retriever.models.clip import ClipRetriever
from mmret.retriever.models.mllm import MllmRetriever, adapter_base
from mmret.retriever.models.mllm_prompts import prompt_of, prompts
from mmret.settings import Recipe

KINDS: dict[str, type[ClipRetriever] | type[MllmRetriever]] = {"clip": ClipRetriever, **dict.fromkeys(prompts(), MllmRetriever)}
"""The retriever of each ``model_type``."""
DTYPES = ("float32", "bfloat16", "float16")
TEXT_INSTRUCTION = "Find me an image that matches the given caption"
"""What an MLLM is told with a query that is text alone (paper.md, section 2)."""


class Retriever:
    """What embeds images, texts and composed queries: ``encode(images, texts) -> (n, dim)`` unit vectors."""

    @staticmethod
    def load(folder: str | Path, device: str = "auto", dtype: str | None = None) -> ClipRetriever | MllmRetriever:
        """Load a checkpoint folder, a peft adapter folder or a hub name.

        ``device`` ``auto`` takes a GPU where there is one. ``dtype``: one of :data:`DTYPES`; None is float32
        for CLIP and the checkpoint's own for an MLLM. Raises UserError for another dtype, and for a model of a kind
        that is no retriever here.
        """
        if dtype not in (None, *DTYPES):
            raise UserError(f"no dtype '{dtype}': there are {', '.join(DTYPES)}")
        kind = model_type(folder)
        if kind not in KINDS:
            if said := sentence_transformers_remark(folder):
                raise UserError(said)
            raise UserError(f"{folder} holds a model of type '{kind}'; retrievers are of type {', '.join(KINDS)}")
        from safetensors import SafetensorError

        try:
            return KINDS[kind].load(folder, device, **({} if dtype is None else {"dtype": dtype}))
        except SafetensorError as error:
            raise UserError(
                f"cannot load a model from {folder}: its weights are damaged ({error}); fetch or train it again"
            ) from None


def model_type(folder: str | Path) -> str:
    """``model_type`` of a checkpoint, of an adapter its base's. Raises UserError where there is no configuration."""
    if base := adapter_base(folder):
        return model_type(base)
    config = Path(folder) / "config.json"
    if config.is_file():
        try:
            return json.loads(config.read_text()).get("model_type", "")
        except (ValueError, AttributeError) as error:
            raise UserError(f"{config} is damaged ({error}): fetch the model again") from None
    if Path(folder).is_dir():
        if said := sentence_transformers_remark(folder):
            raise UserError(said)
        raise UserError(f"cannot load a model from {folder}: it has neither config.json nor adapter_config.json")
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder)).model_type
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load a model from {folder}: {error}") from None


def query_options(folder: str | Path, composed: bool = True) -> dict[str, str]:
    """Keywords of ``encode`` that make a query of the checkpoint in ``folder``: an MLLM's task instruction, nothing for CLIP.

    Composed queries carry the instruction that the checkpoint was trained with, or the paper's where it does not say.
    """
    if KINDS.get(model_type(folder)) is not MllmRetriever:
        return {}
    if not composed:
        return {"instruction": TEXT_INSTRUCTION}
    record = Path(folder) / RECORD
    trained = json.loads(record.read_text()).get("recipe", {}) if record.is_file() else {}
    return {"instruction": trained.get("instruction") or Recipe.model_fields["instruction"].default}


def embedding_digest(folder: str | Path) -> str:
    """16 hex digits of all that decides a checkpoint's embeddings: the key under which vectors are kept.

    Of a CLIP checkpoint those of its files; of an MLLM also of its prompt, and of an adapter of its base model.
    """
    own = weights_digest(folder)
    kind = model_type(folder)
    if KINDS.get(kind) is not MllmRetriever:
        return own
    base = adapter_base(folder)
    return fingerprint(own, astuple(prompt_of(kind)), weights_digest(base) if base else None)
