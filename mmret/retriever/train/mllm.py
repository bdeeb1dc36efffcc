"""MMRet-MLLM under training: LoRA adapters on the vision and language parts of a stock multimodal LLM, through peft.

A query (instruction, text, picture) and a candidate (text, picture) are different prompts, so nothing but a repeated row is
shared: each distinct query and each distinct candidate of a batch is embedded once. The checkpoint is the adapter, as
peft saves it, with the processor: some 0.5 % of the model's size (:mod:`mmret.retriever.models.merge` makes a whole model
of it). Cost: as many forward passes of the LLM as there are distinct rows, twice with GradCache.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch.nn.functional import normalize
from transformers import AutoModelForImageTextToText, PreTrainedModel

from mmret.errors import UserError
from mmret.retriever.models.asked import Asked
from mmret.retriever.models.engine_files import write_engine_files
from mmret.retriever.models.kinds import adapter_base, asked_of
from mmret.retriever.models.mllm import MllmRetriever, load_processor
from mmret.retriever.models.stock_weights import damaged, load_stock
from mmret.retriever.train.batch import NONE, Batch
from mmret.retriever.train.chunk_memory import ChunkMemory, measured
from mmret.retriever.train.chunks import Limits, by_tokens, cut
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.embedder import Gather
from mmret.retriever.train.gradcache import Part, fitting_chunk
from mmret.retriever.train.mllm_layers import mllm_layers
from mmret.retriever.train.parallel import SINGLE_PROCESS, Group
from mmret.retriever.train.shared_pictures import SharedPictures
from mmret.retriever.train.tower import LoadImages, Pictures
from mmret.settings import LoraSettings, Recipe
from mmret.tasks import COMPOSED, TASKS, TaskName

Row = tuple[str | None, Any, str | None]
"""A text, a picture, and a query's instruction; None for what is not there."""
Chunk = tuple[list[str], list[Any]]
"""Prompts and their pictures, None for a prompt without one."""


class MllmEmbedder:
    """See :class:`mmret.retriever.train.embedder.Embedder`. ``chunks``: queries and candidates in one forward pass.

    ``base`` may itself be an adapter: its training goes on, from the same base model.
    """

    def __init__(self, recipe: Recipe, retriever: MllmRetriever, peft_model: Any, group: Group = SINGLE_PROCESS):
        self.recipe, self.retriever, self.peft_model, self.group = recipe, retriever, peft_model, group
        self.model = retriever.model
        self.shared = SharedPictures(retriever)
        self.composed_instruction = query_instruction(recipe, retriever.asked)
        if recipe.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        if recipe.compile:
            self.model.model.compile(backend=recipe.compile)
        self.chunks = self._chunk_sizes()
        self.pictures: Pictures | None = None

    @classmethod
    def load(cls, recipe: Recipe, base: Path | str, group: Group = SINGLE_PROCESS) -> MllmEmbedder:
        adapter = adapter_base(base)
        model = load_stock(AutoModelForImageTextToText, adapter or base, getattr(torch, recipe.precision), "an MLLM")
        torch.manual_seed(recipe.seed)  # of the adapters
        peft_model = load_adapters(model, base) if adapter else add_adapters(model, recipe.lora)
        peft_model.peft_config["default"].base_model_name_or_path = adapter or str(base)
        # what is divided is brought to the device block by block: it need not fit there whole
        device = "cpu" if recipe.parallel == "fsdp" and group.size > 1 else group.device
        retriever = MllmRetriever(model.to(device), load_processor(base), asked=asked_of(base))
        return cls(recipe, retriever, peft_model, group)

    def parameter_groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        return [([p for p in self.model.parameters() if p.requires_grad], self.recipe.learning_rate)]

    def hidden_matrices(self) -> list[torch.nn.Parameter]:
        return []

    def divide(self) -> list[torch.nn.Module]:
        return []

    def open(self, data: TrainingSet, load_images: LoadImages, work: Path) -> None:
        self.pictures = Pictures(data.images, load_images)

    def read(self, batch: Batch) -> tuple[list[Row], list[Row]]:
        """This process's share of the distinct queries and candidates, with decoded pictures."""
        queries, query = batch.distinct_queries()
        tasks, (_, first) = batch.task_names(), np.unique(query, return_index=True)
        told = [self.instruction(tasks[row]) for row in first]
        own, (candidates, _) = self.group.share(len(queries)), batch.distinct_candidates()
        queries, candidates = queries[own], candidates[self.group.share(len(candidates))]
        needed = sorted({image for image, _ in (*queries, *candidates)} - {NONE})
        shown = dict(zip(needed, self.retriever.pictures(self.pictures(np.array(needed, np.int64))), strict=True))
        asked = [(text, shown.get(image), instruction) for (image, text), instruction in zip(queries, told[own], strict=True)]
        return asked, [(text, shown.get(image), None) for image, text in candidates]

    def instruction(self, task: TaskName) -> str:
        """What a query of ``task`` is told: the recipe's own instruction where it is composed, or its base's."""
        return self.composed_instruction if task == COMPOSED else TASKS[task].instruction

    def parts(self, batch: Batch, read: tuple[list[Row], list[Row]]) -> tuple[list[Part], Gather]:
        (queries, query), (candidates, candidate) = batch.distinct_queries(), batch.distinct_candidates()
        query, candidate = (torch.from_numpy(i).to(self.model.device) for i in (query, candidate))
        query_rows, candidate_rows = (self.prompts(rows) for rows in read)
        dtype = torch.promote_types(self.model.dtype, torch.float32)
        empty = torch.empty((0, self.retriever.dim), device=self.model.device, dtype=dtype)
        parts = [
            self._part(rows, size, total, empty)
            for rows, size, total in zip((query_rows, candidate_rows), self.chunks, (len(queries), len(candidates)), strict=True)
        ]

        def gather(query_rows: torch.Tensor, candidate_rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            query_rows, candidate_rows = normalize(query_rows, dim=-1), normalize(candidate_rows, dim=-1)
            return query_rows.index_select(0, query), candidate_rows.index_select(0, candidate)

        return parts, gather

    def _part(self, rows: list[tuple[str, Any]], size: int, total: int, empty: torch.Tensor) -> Part:
        prompts, pictures = [prompt for prompt, _ in rows], [picture for _, picture in rows]
        limits = Limits(rows=size) if self.recipe.chunk_tokens is None else Limits(self.recipe.chunk_tokens, self.recipe.chunk_size)
        encode = self.features
        if self.recipe.texts_at_once != "one" and self.shared.repeated(pictures):
            units, encode = cut(self.shared.together(prompts, pictures, limits), limits), self.shared_features
            chosen = [[row for unit in chunk for row in unit.rows] for chunk in units]
        elif self.recipe.chunk_tokens is None:
            return Part(encode, _chunks(rows, size), total, empty, _shows, self.filled)
        else:
            chosen = by_tokens([len(ids) for ids in self.shared.ids(prompts, pictures)], limits)
        chunks = [([prompts[row] for row in chunk], [pictures[row] for row in chunk]) for chunk in chosen]
        return Part(encode, chunks, total, empty, _shows, self.filled, [row for chunk in chosen for row in chunk])

    def filled(self, chunk: Chunk | None, shows: bool) -> Chunk:
        """``chunk`` with a row more, with a picture where ``shows``; see :class:`mmret.retriever.train.part.Part`."""
        prompts, pictures = chunk or ([], [])
        blank = [np.zeros((self.retriever.prompt.image_size,) * 2 + (3,), np.uint8)]
        shown = self.retriever.pictures(blank)[0] if shows else None
        return [*prompts, self.retriever.prompt.fill("a", shows, None)], [*pictures, shown]

    def prompts(self, rows: Sequence[Row]) -> list[tuple[str, Any]]:
        """Each row's prompt, its text cut where there is no room for more, and its picture."""
        texts: list[str | None] = [None] * len(rows)
        kinds: dict[tuple[bool, str | None], list[int]] = {}
        for place, (text, shown, instruction) in enumerate(rows):
            if text is not None:
                kinds.setdefault((shown is not None, instruction), []).append(place)
        for kind, places in kinds.items():
            for place, text in zip(places, self.retriever.cut([rows[i][0] for i in places], *kind), strict=True):
                texts[place] = text
        filled = (
            self.retriever.prompt.fill(text, shown is not None, told) for text, (_, shown, told) in zip(texts, rows, strict=True)
        )
        return [(prompt, shown) for prompt, (_, shown, _) in zip(filled, rows, strict=True)]

    def features(self, chunk: Chunk) -> torch.Tensor:
        """Hidden states (n, dim) of the last position; pixels are made here, for they are larger than their picture."""
        prompts, pictures = chunk
        return self.retriever.hidden(self.retriever.inputs(prompts, [p for p in pictures if p is not None] or None))

    def shared_features(self, chunk: Chunk) -> torch.Tensor:
        """:meth:`features`, each picture computed once for all its prompts."""
        return self.shared.features(*chunk) if self.shared.repeated(chunk[1]) else self.features(chunk)

    def encode(self, images: Sequence[bytes], texts: Sequence[str] | None = None) -> np.ndarray:
        cut, instruction = self.retriever.truncated, None if texts is None else self.composed_instruction
        rows = self.retriever.encode(images, texts, batch_size=self.chunks[0], instruction=instruction)
        self.retriever.truncated = cut  # of training texts only
        return rows

    def save(self, folder: Path) -> None:
        self.peft_model.save_pretrained(folder)
        self.retriever.processor.save_pretrained(folder)
        text_query = self.instruction("text_to_image") if "text_to_image" in self.recipe.tasks else None
        if self.retriever.asked:
            self.retriever.asked.asking(self.composed_instruction, text_query).save(folder)
        write_engine_files(folder, self.composed_instruction, text_query)

    def prompt_memory(self, pictures: bool = True) -> ChunkMemory:
        """What a pass of queries takes by its tokens, of those with a picture besides by the pictures, as large as any."""
        side = self.retriever.prompt.image_size

        def sample(rows: int, words: int) -> tuple[Chunk, int]:
            shown = [np.zeros((side, side, 3), np.uint8)] * rows if pictures else []
            texts = [" ".join(["a"] * (words if row < rows - 1 else 1)) for row in range(rows)]
            prompts = [self.retriever.prompt.fill(text, pictures, self.composed_instruction) for text in texts]
            seen = self.retriever.pictures(shown) if pictures else [None] * rows
            return (prompts, seen), max(map(len, self.shared.ids(prompts, seen)))

        return measured(self.features, sample, self.model, pictures)

    def _chunk_sizes(self) -> tuple[int, int]:
        if self.recipe.chunk_size is not None:
            return self.recipe.chunk_size, self.recipe.chunk_size
        tokens = self.retriever.overhead(True, self.composed_instruction) + 64  # a text of usual length
        pixels = self.retriever.inputs(*self.filled(None, shows=True))["pixel_values"]
        layers = mllm_layers(self.model, tokens, pixels, 1, self.recipe.gradient_checkpointing)
        rows = fitting_chunk(torch.device(self.group.device), self.model.dtype.itemsize, layers)
        return rows, rows


def query_instruction(recipe: Recipe, asked: Asked | None) -> str:
    """The instruction of composed queries: the recipe's where it sets one, else that of a base with prompts of its own, or the
    paper's."""
    by_default = recipe.instruction == Recipe.model_fields["instruction"].default
    return asked.query if asked and by_default else recipe.instruction


def _shows(chunk: Chunk) -> bool:
    return any(picture is not None for picture in chunk[1])


def _chunks(rows: list[tuple[str, Any]], size: int) -> list[Chunk]:
    return [tuple(map(list, zip(*rows[i : i + size], strict=True))) for i in range(0, len(rows), size)]


def add_adapters(model: PreTrainedModel, lora: LoraSettings) -> Any:
    peft = _peft()
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    try:
        return peft.get_peft_model(
            model,
            peft.LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=targets,
                exclude_modules=lora.exclude_modules,
            ),
        )
    except ValueError as error:
        raise UserError(f"LoRA does not fit the model: {error}; see the recipe's lora.target_modules") from None


def load_adapters(model: PreTrainedModel, adapter: Path | str) -> Any:
    try:
        return _peft().PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    except SafetensorError as error:
        raise damaged(adapter, error) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"the adapter in {adapter} does not fit its base model: {error}") from None


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise UserError("recipes of kind mllm train LoRA adapters, which needs peft: pip install 'mmret[mllm]'") from None
    return peft
