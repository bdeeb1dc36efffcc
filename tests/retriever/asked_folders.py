"""Tiny published embedders with random weights that bring their own prompts, in the files in which real ones say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.retriever.mllm_folders import qwen2_vl, qwen3_vl

DEFAULT = "Represent the user's input."
TEMPLATE = """{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content if messages[0].content is string else messages[0].content[0].text %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = "Represent the user's input." %}
    {%- set rest = messages %}
{%- endif %}
{{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}
{%- for message in rest %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for content in message.content %}
            {%- if content.type == 'image' or 'image' in content %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif 'text' in content %}
                {{- content.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""What the chat template of Qwen3-VL-Embedding writes of a system and a user message."""


def qwen3_vl_embedding(folder: Path) -> Path:
    return with_modules(qwen3_vl(folder), pooling={"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False})


def with_modules(folder: Path, pooling: dict[str, Any], config: dict[str, Any] | None = None, further: Any = ()) -> Path:
    """The files by which sentence-transformers loads ``folder``; ``pooling``: how its configuration says so."""
    entry = {"method": "forward", "method_output_name": "last_hidden_state"}
    files = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
            *further,
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": 32, **pooling},
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": entry, "image": entry, "message": {**entry, "format": "structured"}},
            "module_output_name": "token_embeddings",
            "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": {"default": DEFAULT},
            "default_prompt_name": "default",
            "similarity_fn_name": "cosine",
            **(config or {}),
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    (folder / "2_Normalize").mkdir(exist_ok=True)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def by_hand(folder: Path, asked: dict[str, Any]) -> Path:
    """A Qwen2-VL whose prompts are published as code, written down in ``asked.json``."""
    qwen2_vl(folder)
    (folder / "asked.json").write_text(json.dumps(asked))
    return folder
