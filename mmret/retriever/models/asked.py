"""How a published embedder is asked: its own prompts, pooling and lengths, read from the files beside its weights.

A folder says it in the files of sentence-transformers (``modules.json`` and its like, with a chat template, as Qwen3-VL-Embedding
does), or in ``asked.json``, which training writes into a checkpoint that started from such a folder, and which anyone may write
by hand for a model whose prompts are published as code alone. A folder with neither is asked by its family's prompts
(:mod:`mmret.retriever.models.mllm_prompts`). Needs neither torch nor transformers; nothing of a folder is executed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from mmret.errors import UserError
from mmret.retriever.models.checkpoint import RECORD

ASKED = "asked.json"
OUR_TEMPLATE = "{%- set seen = namespace(instruction=none, text='', said='', image=false) -%}"
"""First line of a chat template that writes the prompts of a family: such a folder brings none of its own."""
POOLINGS = ("lasttoken", "mean", "cls")
MOST_PIXELS = 1800 * 32 * 32
"""Of a picture, which is made smaller above it: what the published code of Qwen3-VL-Embedding takes."""
_MODULES, _TEMPLATES = "modules.json", ("chat_template.json", "chat_template.jinja", "tokenizer_config.json")


@dataclass(frozen=True)
class Asked:
    """``template``: a Jinja chat template; ``query``, ``text_query`` and ``candidate``: the system message of a composed query, of
    one that is text alone and of a candidate, none where empty. ``dimensions``: vectors have the first so many of all; None: all.
    ``images``: settings of the image processor beside those of its own file.
    """

    template: str
    query: str = ""
    text_query: str = ""
    candidate: str = ""
    generation_prompt: bool = True
    pooling: str = "lasttoken"
    dimensions: int | None = None
    max_pixels: int = MOST_PIXELS
    images: dict[str, Any] = field(default_factory=dict)

    def key(self) -> list[Any]:
        """All that decides a vector, as plain values."""
        return [[f.name, getattr(self, f.name)] for f in fields(self)]

    def asking(self, query: str, text_query: str | None = None) -> Asked:
        """The same with ``query`` as what composed queries are told, and queries of text alone ``text_query`` where it is given."""
        return replace(self, query=query, text_query=self.text_query if text_query is None else text_query)

    def save(self, folder: str | Path) -> None:
        """Write :data:`ASKED` into ``folder``."""
        (Path(folder) / ASKED).write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_asked(folder: str | Path) -> Asked | None:
    """How the model in ``folder`` (or of a hub name) is asked by its own files; None where they do not say.

    Raises UserError where a file is damaged, and where they ask for what is not built: modules of a folder's own code, layers
    behind the pooling, another pooling than :data:`POOLINGS`.
    """
    if (written := _json(folder, ASKED)) is not None:
        return _checked(folder, written)
    if _is_local(folder) and (Path(folder) / RECORD).is_file():  # trained here, by the family's prompts
        return None
    modules = _json(folder, _MODULES)
    if modules is None:
        return None
    template = _template(folder)
    if template is not None and template.startswith(OUR_TEMPLATE):
        return None
    return _of_sentence_transformers(folder, modules, template)


def _of_sentence_transformers(folder: str | Path, modules: list[dict[str, Any]], template: str | None) -> Asked:
    pooling, include_prompt = "lasttoken", True
    for module in modules:
        whole = str(module.get("type", ""))
        kind = whole.rpartition(".")[2]
        if not whole.startswith("sentence_transformers."):
            raise UserError(
                f"{folder} embeds by code of its own ({whole}), which is not executed: write how it is asked into {ASKED} beside "
                "its weights (docs/training.md, Start from what is published)"
            )
        if kind == "Pooling":
            settings = _json(folder, f"{module['path']}/config.json")
            if settings is None:
                raise UserError(f"{folder} lacks {module['path']}/config.json, which {_MODULES} names: fetch the model again")
            pooling, include_prompt = _pooling(settings), settings.get("include_prompt", True)
        elif kind not in ("Transformer", "Normalize"):
            raise UserError(f"{folder} has a module {kind} behind its model: such folders are not loaded")
    if template is None:
        raise UserError(f"{folder} has {_MODULES} and no chat template (chat_template.jinja), so nothing says how it is asked")
    if not include_prompt and pooling == "mean":
        raise UserError(f"{folder} leaves its prompt out of the mean it pools: such folders are not loaded")
    own, module = _json(folder, "config_sentence_transformers.json") or {}, _json(folder, "sentence_bert_config.json") or {}
    prompts, processing = own.get("prompts") or {}, module.get("processing_kwargs") or {}
    default = prompts.get(own.get("default_prompt_name")) or ""
    query = default if prompts.get("query") is None else prompts["query"]
    candidate = next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name) is not None), default)
    return _checked(
        folder,
        {
            "template": template,
            "query": query,
            "text_query": prompts.get("text_query", query),
            "candidate": candidate,
            "generation_prompt": (processing.get("chat_template") or {}).get("add_generation_prompt", False),
            "pooling": pooling,
            "dimensions": own.get("truncate_dim"),
            "images": processing.get("image") or {},
        },
    )


def _pooling(settings: dict[str, Any]) -> str:
    """``pooling_mode`` of today's files, or what the switches of older ones say."""
    if "pooling_mode" in settings:
        mode = settings["pooling_mode"]
        return mode if isinstance(mode, str) else "+".join(mode)
    on = [name.removeprefix("pooling_mode_") for name, value in settings.items() if name.startswith("pooling_mode_") and value]
    return "+".join({"cls_token": "cls", "mean_tokens": "mean"}.get(name, name) for name in on) or "mean"


def _checked(folder: str | Path, values: dict[str, Any]) -> Asked:
    known = {f.name for f in fields(Asked)}
    if unknown := sorted(set(values) - known):
        raise UserError(f"{folder}/{ASKED} has {unknown[0]}, which means nothing there: it may have {', '.join(sorted(known))}")
    if not isinstance(values.get("template"), str):
        raise UserError(f"{folder}/{ASKED} has no template: the chat template that writes the model's prompts")
    asked = Asked(**values)
    if asked.pooling not in POOLINGS:
        raise UserError(f"{folder} pools by '{asked.pooling}': there are {', '.join(POOLINGS)}")
    return asked


def _template(folder: str | Path) -> str | None:
    for name in _TEMPLATES:
        if name.endswith(".jinja"):
            found: Any = _text(folder, name)
        else:
            found = (_json(folder, name) or {}).get("chat_template")
        if isinstance(found, str) and found:
            return found
    return None


def _json(folder: str | Path, name: str) -> Any:
    text = _text(folder, name)
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise UserError(f"{folder}/{name} is damaged ({error}): fetch the model again") from None


def _text(folder: str | Path, name: str) -> str | None:
    """Content of a small file of a folder or of a hub name; None where there is none, or where the hub cannot be asked."""
    path = Path(folder) / name if _is_local(folder) else _from_hub(str(folder), name)
    try:
        return path.read_text(encoding="utf-8") if path is not None and path.is_file() else None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged ({error}): fetch the model again") from None


@cache  # the hub is asked once a process
def _from_hub(name: str, file: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(name, file))
    except (OSError, ValueError, EntryNotFoundError):  # no such file, no network and not in the cache, no such name
        return None


def _is_local(folder: str | Path) -> bool:
    return Path(folder).is_dir()
