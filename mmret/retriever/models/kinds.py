"""What a checkpoint is, told from its files alone: the kind of model, the key of its vectors, how a query is put to it.

Needs neither torch nor transformers, whose import takes seconds, so a server can answer from kept vectors before it has the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

from mmret.encode.location import sentence_transformers_remark
from mmret.errors import UserError
from mmret.hashing import fingerprint
from mmret.retriever.models.asked import Asked, read_asked
from mmret.retriever.models.checkpoint import RECORD, model_part, weights_digest
from mmret.retriever.models.mllm_prompts import prompt_of, prompts
from mmret.retriever.models.rerank_prompts import rerank_prompts
from mmret.settings import Recipe
from mmret.tasks import COMPOSED, TASKS, Task

TEXT_INSTRUCTION = "Find me an image that matches the given caption"
"""What an MLLM is told with a query that is text alone (paper.md, section 2)."""
ADAPTER = "adapter_config.json"
CROSS_ENCODER = "mmret_cross_encoder"
"""``model_type`` of a reranker over CLIP's towers."""
REFUSED = {
    "siglip2": "it is SigLIP 2 of free resolution (NaFlex), whose pictures have no fixed shape: take one of fixed resolution, "
    "google/siglip2-base-patch16-224, say, which is of type siglip",
}
"""Why models of a ``model_type`` that one might expect are not loaded."""


def model_type(folder: str | Path) -> str:
    """``model_type`` of a checkpoint, of an adapter its base's. Raises UserError where there is no configuration."""
    if base := adapter_base(folder):
        return model_type(base)
    folder = model_part(folder)
    config = Path(folder) / "config.json"
    if config.is_file():
        try:
            return json.loads(config.read_text()).get("model_type", "")
        except (ValueError, AttributeError) as error:
            raise UserError(f"{config} is damaged ({error}): fetch the model again") from None
    if Path(folder).is_dir():
        if said := sentence_transformers_remark(folder):
            raise UserError(said)
        if (Path(folder) / "open_clip_config.json").is_file():
            raise UserError(
                f"{folder} is of open_clip alone: fetch the same model in transformers' format (config.json, "
                "model.safetensors), which most repositories of open_clip models hold as well"
            )
        raise UserError(f"cannot load a model from {folder}: it has neither config.json nor adapter_config.json")
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder)).model_type
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load a model from {folder}: {error}") from None


def is_reranker(folder: str | Path) -> bool:
    """Whether the checkpoint in ``folder`` orders pairs and embeds nothing: one that was trained here as such, or one of
    sentence-transformers that reads the logits of an answer. A stock MLLM, which may become either, is none."""
    folder = Path(folder)
    for name, says in _SAYS_RERANKER.items():
        try:
            if (folder / name).is_file() and says(json.loads((folder / name).read_text())):
                return True
        except (ValueError, AttributeError, TypeError):
            continue  # whoever loads it says what is wrong with it
    return False


def _lists_logit_score(modules: list[dict[str, str]]) -> bool:
    return any(module.get("type", "").endswith(".LogitScore") for module in modules)


_SAYS_RERANKER: dict[str, Callable[[Any], bool]] = {
    RECORD: lambda record: record.get("recipe", {}).get("kind") == "reranker",
    "config.json": lambda config: config.get("model_type") == CROSS_ENCODER,
    "modules.json": _lists_logit_score,
}


def reranker_digest(folder: str | Path) -> str:
    """16 hex digits of all that decides a reranker's scores: weights, prompt and instruction, and of an adapter its base model."""
    prompt = rerank_prompts().get(model_type(folder))
    record = Path(folder) / RECORD
    told = json.loads(record.read_text()).get("recipe", {}).get("instruction") if prompt and record.is_file() else None
    base = adapter_base(folder)
    parts = (prompt and astuple(prompt), told, weights_digest(base) if base else None)
    return fingerprint(weights_digest(folder), *parts)


def query_options(folder: str | Path, composed: bool = True) -> dict[str, str]:
    """Keywords of ``encode`` that make a query of the checkpoint in ``folder``: an MLLM's task instruction, nothing for CLIP.

    A query carries the instruction that the checkpoint was trained with, the model's own where it brings one
    (:mod:`mmret.retriever.models.asked`), or the paper's where neither is said; one that is not ``composed`` is text alone.
    """
    if model_type(folder) not in prompts():
        return {}
    if asked := asked_of(folder):
        return {"instruction": asked.query if composed else asked.text_query}
    trained = _recipe_of(folder)
    if not composed:
        by_caption = TASKS["text_to_image"]
        return {"instruction": by_caption.instruction if by_caption.name in trained.get("tasks", ()) else TEXT_INSTRUCTION}
    return {"instruction": trained.get("instruction") or Recipe.model_fields["instruction"].default}


def picture_options(folder: str | Path) -> dict[str, str]:
    """Keywords of ``encode`` that make a query of a picture alone: an MLLM's instruction where the checkpoint in ``folder`` was
    trained with image to image. Elsewhere none: such a query has the vector that the picture has as a candidate.
    """
    task = TASKS["image_to_image"]
    if task.name not in _recipe_of(folder).get("tasks", ()) or model_type(folder) not in prompts():
        return {}
    return {"instruction": task.instruction}


def _recipe_of(folder: str | Path) -> dict[str, Any]:
    """Settings that the checkpoint in ``folder`` was trained with, empty for one that was not trained here."""
    record = Path(folder) / RECORD
    return json.loads(record.read_text()).get("recipe", {}) if record.is_file() else {}


def task_options(folder: str | Path, task: Task) -> dict[str, str]:
    """Keywords of ``encode`` that make a query of ``task``: those of :func:`query_options` and :func:`picture_options` where search
    asks the same, else an MLLM's instruction for it.

    >>> task_options("lakes/demo/checkpoints/demo", TASKS["text_to_image"])
    {}
    """
    if task.name in (COMPOSED, "text_to_image"):
        return query_options(folder, composed=task.name == COMPOSED)
    if task.name == "image_to_image":
        return picture_options(folder)
    return {"instruction": task.instruction} if query_options(folder) else {}


def embedding_digest(folder: str | Path) -> str:
    """16 hex digits of all that decides a checkpoint's embeddings: the key under which vectors are kept.

    Of two towers those of its files; of an MLLM also of its prompts, and of an adapter of its base model.
    """
    own = weights_digest(folder)
    kind = model_type(folder)
    if kind not in prompts():
        return own
    base, asked = adapter_base(folder), asked_of(folder)
    how = asked.key() if asked else astuple(prompt_of(kind))
    return fingerprint(own, how, weights_digest(base) if base else None)


def asked_of(folder: str | Path) -> Asked | None:
    """How the model in ``folder`` is asked by its own files, of an adapter that does not say by its base's; None where the
    family's prompts are taken. Raises UserError as :func:`read_asked` does."""
    if asked := read_asked(folder):
        return asked
    trained_here = (Path(folder) / RECORD).is_file()
    base = None if trained_here else adapter_base(folder)
    return asked_of(base) if base else None


def adapter_base(folder: str | Path) -> str | None:
    """Folder or hub name of the model a peft adapter belongs to (a path may be relative to the adapter's folder); None
    for a folder that is no adapter. Raises UserError where the adapter does not name it."""
    folder = Path(folder)
    if not (folder / ADAPTER).is_file() or (folder / "config.json").is_file():
        return None
    base = json.loads((folder / ADAPTER).read_text()).get("base_model_name_or_path")
    if not base:
        raise UserError(f"{folder / ADAPTER} does not say which model it adapts: set base_model_name_or_path")
    return str(folder / base) if (folder / base).is_dir() else base
