"""Files by which stock engines make our vectors of an MLLM checkpoint: sentence-transformers 6 and vLLM's pooling runner.

They lie beside the weights and decide none: which state is pooled, that it is normalised, and a chat template that
writes the very characters of :mod:`mmret.retriever.models.mllm_prompts`. None of them enters the digest of a checkpoint.
Pictures are the caller's to squash to the prompt's square: no stock image processor does. Costs nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from mmret.encode.quiet import silence
from mmret.errors import UserError
from mmret.retriever.models.asked import OUR_TEMPLATE, Asked
from mmret.retriever.models.kinds import TEXT_INSTRUCTION, adapter_base, asked_of, model_type, query_options
from mmret.retriever.models.mllm import load_processor
from mmret.retriever.models.mllm_prompts import Prompt, prompt_of, prompts

TEMPLATE = "chat_template.jinja"
OLD_TEMPLATE = "chat_template.json"
_MODULES = "sentence_transformers.base.modules"
_POOLING = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"


def write_engine_files(folder: str | Path, instruction: str | None = None, text_instruction: str | None = None) -> None:
    """Write the files into ``folder``, a whole model or an adapter of a family in ``mllm_prompts.yaml``.

    ``instruction`` is that of composed queries, ``text_instruction`` that of queries of text alone; by default the one that the
    checkpoint was trained with, its own or the paper's. Of a model that brings its own prompts they are those, with its own chat
    template.
    An adapter's base model must be at hand for its configuration. Raises UserError for a model of another kind, and where
    an old template would be read instead of ours.

    Example: ``write_engine_files("lakes/l/checkpoints/mllm")`` for a checkpoint from before there were such files.
    """
    folder = Path(folder)
    kind = model_type(folder)
    if kind not in prompts():
        raise UserError(f"{folder} holds a model of type '{kind}': these files are for {', '.join(prompts())}")
    if (folder / OLD_TEMPLATE).is_file():
        raise UserError(f"{folder / OLD_TEMPLATE} would be read instead of our {TEMPLATE}: delete it, or move it away")
    base = adapter_base(folder)
    with silence():
        dimensions = AutoConfig.from_pretrained(base or str(folder)).get_text_config().hidden_size
    own = asked_of(folder)
    said = query_options(folder)["instruction"] if instruction is None else instruction
    said_of_text = query_options(folder, composed=False)["instruction"] if text_instruction is None else text_instruction
    files = json_files(dimensions, said, base is not None, said_of_text)
    if own:
        files = _asked_files(files, own.asking(said))
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    template = own.template if own else chat_template(prompt_of(kind), load_processor(folder).all_special_multimodal_tokens)
    (folder / TEMPLATE).write_text(template, encoding="utf-8")


def _asked_files(files: dict[str, Any], own: Asked) -> dict[str, Any]:
    """``files`` of a model that brings its own prompts, pooling and lengths."""
    module, config = files["sentence_bert_config.json"], files["config_sentence_transformers.json"]
    processing = {**module["processing_kwargs"], "chat_template": {"add_generation_prompt": own.generation_prompt}}
    prompts = {"query": own.query, "text_query": own.text_query, "document": own.candidate}
    return files | {
        "1_Pooling/config.json": files["1_Pooling/config.json"] | {"pooling_mode": own.pooling},
        "sentence_bert_config.json": module | {"processing_kwargs": processing | ({"image": own.images} if own.images else {})},
        "config_sentence_transformers.json": config
        | {"prompts": prompts, "default_prompt_name": "document"}
        | ({"truncate_dim": own.dimensions} if own.dimensions else {}),
    }


def json_files(dimensions: int, instruction: str, adapter: bool, text_instruction: str = TEXT_INSTRUCTION) -> dict[str, Any]:
    """Contents of the JSON files, by name.

    An adapter is loaded into the model it was trained on, whose hidden states are asked for; a whole one without its head.
    """
    output = ["hidden_states", -1] if adapter else "last_hidden_state"
    entry = {"method": "forward", "method_output_name": output}
    return {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": f"{_MODULES}.transformer.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": _POOLING},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{_MODULES}.normalize.Normalize"},
        ],
        "1_Pooling/config.json": {"embedding_dimension": dimensions, "pooling_mode": "lasttoken", "include_prompt": True},
        "2_Normalize/config.json": {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"},
        "sentence_bert_config.json": {
            "transformer_task": "any-to-any" if adapter else "feature-extraction",
            "modality_config": {"text": entry, "image": entry, "message": {**entry, "format": "structured"}},
            "module_output_name": "token_embeddings",
            "processing_kwargs": {"text": {"padding_side": "left"}},
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": {"query": instruction, "text_query": text_instruction, "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }


def chat_template(prompt: Prompt, placeholders: list[str]) -> str:
    """A Jinja template that writes :meth:`Prompt.fill`: a system message is the task instruction of a query; user messages bring
    the text and the picture, in any order. As in :meth:`MllmRetriever.cut`, a text's own image placeholders are dropped."""
    before, after = prompt.query.split("{instruction}")
    text_before, text_after = prompt.text.split("{text}")
    shortest = min(len(token) for token in placeholders)
    lines = [
        OUR_TEMPLATE,
        "{%- for message in messages -%}",
        "{%- if message.content is string -%}{%- set seen.said = message.content -%}",
        "{%- else -%}",
        "{%- set seen.said = '' -%}",
        "{%- for part in message.content -%}",  # in these words vLLM sees that a message comes in parts
        "{%- if part.type in ('image', 'image_url') -%}{%- set seen.image = true -%}",
        "{%- else -%}{%- set seen.said = seen.said + part.text -%}",
        "{%- endif -%}",
        "{%- endfor -%}",
        "{%- endif -%}",
        "{%- if message.role == 'system' -%}{%- set seen.instruction = (seen.instruction or '') + seen.said -%}",
        "{%- else -%}{%- set seen.text = seen.text + seen.said -%}",
        "{%- endif -%}",
        "{%- endfor -%}",
        f"{{%- for _ in range(seen.text | length // {shortest}) -%}}",
        *(
            f"{{%- {'elif' if i else 'if'} {_literal(token)} in seen.text -%}}"
            f"{{%- set seen.text = seen.text | replace({_literal(token)}, '') -%}}"
            for i, token in enumerate(placeholders)
        ),
        "{%- endif -%}",
        "{%- endfor -%}",
        f"{{{{- {_literal(prompt.candidate)} if seen.instruction is none else {_literal(before)} + seen.instruction + "
        f"{_literal(after)} -}}}}",
        f"{{{{- {_literal(text_before)} + seen.text + {_literal(text_after)} if seen.text or not seen.image else '' -}}}}",
        f"{{{{- {_literal(prompt.image)} if seen.image else '' -}}}}",
        f"{{{{- {_literal(prompt.end)} -}}}}",
    ]
    return "\n".join(lines) + "\n"


def _literal(text: str) -> str:
    """A Jinja string. The newline after a tag is part of a template, one inside a string never is."""
    return "'" + json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"
