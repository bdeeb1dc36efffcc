"""Rerankers under training: the cross-encoder over CLIP's towers, and an MLLM with LoRA adapters; the base's files say which.

Cost: see :mod:`mmret.retriever.train.rerank_trainer`. Below the part of the image tower that a recipe trains nothing changes during
a run, so its output for every distinct picture is kept on disk, as for a retriever; so do many pictures of a step wait on disk
(:mod:`mmret.retriever.train.waiting_rows`), those of an MLLM, which are of any size, in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText

from mmret.errors import UserError
from mmret.optimizer import hidden_matrices
from mmret.progress import advance
from mmret.retriever.models.clip_reranker import ClipReranker
from mmret.retriever.models.kinds import CROSS_ENCODER, adapter_base, model_type
from mmret.retriever.models.mllm import load_processor
from mmret.retriever.models.mllm_reranker import MllmReranker
from mmret.retriever.models.pairs import Side
from mmret.retriever.models.rerank_prompts import rerank_prompts
from mmret.retriever.models.stock_weights import load_stock
from mmret.retriever.train.chunks import Limits, by_tokens
from mmret.retriever.train.data import Batch, TrainingSet
from mmret.retriever.train.gradcache import Part, fitting_chunk
from mmret.retriever.train.mllm import add_adapters, load_adapters
from mmret.retriever.train.mllm_layers import mllm_layers
from mmret.retriever.train.pairs import Pairs
from mmret.retriever.train.parallel import SINGLE_PROCESS, Group
from mmret.retriever.train.tower import LoadImages, Pictures, frozen_features
from mmret.retriever.train.waiting_rows import WaitingRows, mapped, spooled
from mmret.settings import Recipe


class RerankerUnderTraining:
    """What both have in common. A subclass gives :meth:`read` and :meth:`score_part`."""

    retriever: Any
    model: torch.nn.Module
    chunks: tuple[int, ...]

    def __init__(self, recipe: Recipe, group: Group):
        self.recipe, self.group = recipe, group
        self.pictures: Pictures | None = None

    @staticmethod
    def load(recipe: Recipe, base: Path | str, group: Group = SINGLE_PROCESS) -> RerankerUnderTraining:
        """Over the model in ``base``: CLIP's towers, a cross-encoder over them whose training goes on, an MLLM or an adapter of
        one. Raises UserError for a model of another kind."""
        kind = model_type(base)
        if kind not in UNDER_TRAINING:
            raise UserError(
                f"{base} holds a model of type '{kind}': a reranker is trained from one of type {', '.join(UNDER_TRAINING)}"
            )
        return UNDER_TRAINING[kind].begin(recipe, base, group)

    def hidden_matrices(self) -> list[torch.nn.Parameter]:
        return []

    def open(self, data: TrainingSet, load_images: LoadImages, work: Path) -> None:
        self.pictures = Pictures(data.images, load_images)

    def own_pairs(self, pairs: Pairs) -> np.ndarray:
        """Numbers of the pairs that this process scores."""
        return np.arange(len(pairs))[self.group.share(len(pairs))]

    def numbers(self, batch: Batch, pairs: Pairs) -> np.ndarray:
        """Distinct pictures of this process's pairs, ascending."""
        own = self.own_pairs(pairs)
        return np.unique(np.concatenate([batch.queries[pairs.rows[own]], pairs.candidates[own]]))

    def chunked(self, pairs: Pairs, lengths: Callable[[], dict[int, int]]) -> tuple[list[np.ndarray], list[int] | None]:
        """This process's pairs, those of one forward pass together, and their order where it is not that of ``pairs``. ``lengths``:
        tokens of a pair of each of their rows, asked for where the recipe has a budget of tokens."""
        own, size = self.own_pairs(pairs), self.chunks[0]
        if self.recipe.chunk_tokens is None:
            return [own[start : start + size] for start in range(0, len(own), size)], None
        of_row = lengths()
        read = [of_row[row] for row in pairs.rows[own].tolist()]
        chunks = by_tokens(read, Limits(self.recipe.chunk_tokens, self.recipe.chunk_size))
        return [own[chunk] for chunk in chunks], [number for chunk in chunks for number in chunk]

    def score(self, queries: Sequence[Side], candidates: Sequence[Side]) -> np.ndarray:
        cut = self.retriever.truncated
        scores = self.retriever.score(queries, candidates)
        self.retriever.truncated = cut  # of training texts only
        return scores


class ClipRerankerUnderTraining(RerankerUnderTraining):
    """``trainable``: ``above`` what is above the towers, ``text`` also the text tower, ``text+blocks`` also the last
    ``image_blocks`` of the image tower and its projection, ``all`` everything."""

    def __init__(self, recipe: Recipe, reranker: ClipReranker, group: Group = SINGLE_PROCESS):
        super().__init__(recipe, group)
        self.retriever, self.model = reranker, reranker.model
        clip = self.model.clip
        layers = list(clip.vision_model.encoder.layers)
        trained = {"all": len(layers), "text+blocks": min(recipe.image_blocks, len(layers))}.get(recipe.trainable, 0)
        self.blocks = layers[len(layers) - trained :]
        self.below = layers[: len(layers) - trained]
        ends = (clip.vision_model.post_layernorm, clip.visual_projection)  # of the cosine, where scores begin
        parts = {"all": (clip.vision_model, clip.visual_projection), "text+blocks": (*self.blocks, *ends)}
        self.image = [p for part in parts.get(recipe.trainable, ()) for p in part.parameters()]
        text = [*clip.text_model.parameters(), *clip.text_projection.parameters()]
        self.text = [] if recipe.trainable == "above" else text
        self.above = self.model.above_the_towers()
        self.model.requires_grad_(False)
        for parameter in (*self.image, *self.text, *self.above):
            parameter.requires_grad_(True)
        if recipe.gradient_checkpointing:
            clip.gradient_checkpointing_enable({"use_reentrant": False})
        self.chunks = (self._chunk_size(),)
        self.rows: Any = None

    @classmethod
    def begin(cls, recipe: Recipe, base: Path | str, group: Group) -> ClipRerankerUnderTraining:
        if model_type(base) == CROSS_ENCODER:
            return cls(recipe, ClipReranker.load(base, group.device), group)
        return cls(recipe, ClipReranker.begin(base, recipe.reranker, recipe.seed, group.device), group)

    def parameter_groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        text_rate = self.recipe.text_learning_rate or self.recipe.learning_rate
        return [(self.above, self.recipe.learning_rate), (self.text, text_rate), (self.image, self.recipe.learning_rate)]

    def hidden_matrices(self) -> list[torch.nn.Parameter]:
        blocks = [*self.model.blocks, *self.model.clip.text_model.encoder.layers, *self.blocks]
        return [matrix for matrix in hidden_matrices(blocks) if matrix.requires_grad]

    def open(self, data: TrainingSet, load_images: LoadImages, work: Path) -> None:
        super().open(data, load_images, work)
        pictures, towers = self.pictures, self.retriever.towers
        if self.recipe.trainable == "all":
            self.rows = lambda numbers: spooled(lambda some: towers.raw_pixels(pictures(some)), numbers)
            return
        path, total = work / "frozen.npy", len(pictures)
        if self.group.writes_to(work):
            self.model.eval()
            frozen_features(
                self,
                towers,
                pictures,
                path,
                lambda done: advance("checkpoints", 0, self.recipe.steps, f"image features {done:,} of {total:,}"),
            )
        self.group.wait()
        frozen = np.load(path, mmap_mode="r")
        self.rows = lambda numbers: mapped(frozen, numbers)

    @torch.no_grad()
    def lower_layers(self, pixels: torch.Tensor) -> torch.Tensor:
        """What is kept of pictures (n, 3, h, w): hidden states below the blocks that are trained, pooled where there are none."""
        vision = self.model.clip.vision_model
        hidden = vision.pre_layrnorm(vision.embeddings(pixels.to(self.model.clip.device, self.model.clip.dtype)))
        for block in self.below:
            hidden = block(hidden, None)
        return hidden if self.blocks else self.model.pooled(hidden)

    def image_hidden(self, kept: torch.Tensor) -> torch.Tensor:
        """What the cross-encoder reads of pictures, from what was kept of them, or from uint8 pixels."""
        if kept.dtype == torch.uint8:
            return self.model.image_hidden(self.retriever.towers.normalise(kept).to(self.model.clip.dtype))
        hidden = kept.to(self.model.clip.device, self.model.clip.dtype)
        for block in self.blocks:
            hidden = block(hidden, None)
        return self.model.pooled(hidden) if self.blocks else hidden

    def read(self, batch: Batch) -> tuple[np.ndarray, torch.Tensor | WaitingRows | None]:
        numbers = self.numbers(batch, Pairs.of(batch, self.recipe))
        return numbers, self.rows(numbers) if len(numbers) else None

    def score_part(self, batch: Batch, pairs: Pairs, read: tuple[np.ndarray, torch.Tensor | WaitingRows | None]) -> Part:
        numbers, kept = read
        if self.image:  # which this step changes
            self.retriever.forget_pictures()
        own_rows = np.unique(pairs.rows[self.own_pairs(pairs)])
        tokens = dict(zip(own_rows.tolist(), self.retriever.towers.tokens([batch.texts[row] for row in own_rows]), strict=True))
        device = self.model.clip.device

        def scores(chunk: np.ndarray) -> torch.Tensor:
            rows, of = np.unique(pairs.rows[chunk], return_inverse=True)
            shown, where = np.unique(np.concatenate([batch.queries[rows], pairs.candidates[chunk]]), return_inverse=True)
            places = np.searchsorted(numbers, shown)
            hidden = self.image_hidden(kept.take(places) if isinstance(kept, WaitingRows) else kept[torch.from_numpy(places)])
            where = torch.from_numpy(where).to(device)
            asked, found = hidden.index_select(0, where[: len(rows)]), hidden.index_select(0, where[len(rows) :])
            texts = self.model.read_texts(*self.retriever.padded([tokens[row] for row in rows.tolist()]))
            query = self.model.side(False, asked, asked.new_ones(len(asked), dtype=torch.bool), texts)
            candidate = self.model.side(True, found, found.new_ones(len(found), dtype=torch.bool), None)
            return self.model(query, candidate, torch.from_numpy(of).to(device))[:, None]

        empty = torch.empty((0, 1), device=device, dtype=self.model.clip.dtype)
        of_pictures = 2 * (1 + self.model.grid**2)
        chunks, order = self.chunked(pairs, lambda: {row: of_pictures + len(text) for row, text in tokens.items()})
        return Part(scores, chunks, len(pairs), empty, order=order)

    def save(self, folder: Path) -> None:
        self.retriever.save(folder)

    def _chunk_size(self) -> int:
        if self.recipe.chunk_size is not None:
            return self.recipe.chunk_size
        vision, model = self.model.clip.config.vision_config, self.model
        trained = [(self.model.patches**2 + 1, vision.hidden_size, vision.num_attention_heads)] * len(self.blocks)
        own = [(2 + model.grid**2, model.width, 2 * model.heads)] * model.layers  # twice the keys, the query's among them
        return fitting_chunk(model.clip.device, model.clip.dtype.itemsize, [*trained, *own])


class MllmRerankerUnderTraining(RerankerUnderTraining):
    """LoRA adapters, as kind ``mllm`` has them; the checkpoint is the adapter with the processor."""

    def __init__(self, recipe: Recipe, reranker: MllmReranker, peft_model: Any, group: Group = SINGLE_PROCESS):
        super().__init__(recipe, group)
        self.retriever, self.model, self.peft_model = reranker, reranker.model, peft_model
        if recipe.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.chunks = (self._chunk_size(),)

    @classmethod
    def begin(cls, recipe: Recipe, base: Path | str, group: Group) -> MllmRerankerUnderTraining:
        for name in ("trainable", "matrix_learning_rate"):
            if getattr(recipe, name) != Recipe.model_fields[name].default:
                raise UserError(
                    f"{name} is of a reranker over a clip, and {base} is an MLLM, of which adapters are trained: leave it out; "
                    "lora.target_modules says where they are"
                )
        adapter = adapter_base(base)
        precision = getattr(torch, recipe.precision)
        model = load_stock(AutoModelForImageTextToText, adapter or base, precision, "an MLLM", unused=())
        torch.manual_seed(recipe.seed)  # of the adapters
        peft_model = load_adapters(model, base) if adapter else add_adapters(model, recipe.lora)
        peft_model.peft_config["default"].base_model_name_or_path = adapter or str(base)
        return cls(recipe, MllmReranker(model.to(group.device), load_processor(base), recipe.instruction), peft_model, group)

    def parameter_groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        return [([p for p in self.model.parameters() if p.requires_grad], self.recipe.learning_rate)]

    def read(self, batch: Batch) -> dict[int, Any]:
        numbers = self.numbers(batch, Pairs.of(batch, self.recipe))
        return dict(zip(numbers.tolist(), self.retriever.pictures(self.pictures(numbers)), strict=True))

    def score_part(self, batch: Batch, pairs: Pairs, read: dict[int, Any]) -> Part:
        rows = np.unique(pairs.rows[self.own_pairs(pairs)]).tolist()
        prompts = {row: self.retriever.fill(Side(True, batch.texts[row]), Side(True)) for row in rows}

        def scores(chunk: np.ndarray) -> torch.Tensor:
            shown = [
                (prompts[row], [read[int(batch.queries[row])], read[candidate]])
                for row, candidate in zip(pairs.rows[chunk].tolist(), pairs.candidates[chunk].tolist(), strict=True)
            ]
            return self.retriever.scores(shown)[:, None]

        dtype = torch.promote_types(self.model.dtype, torch.float32)
        chunks, order = self.chunked(pairs, lambda: self._lengths(batch, pairs, prompts, read))
        empty = torch.empty((0, 1), device=self.model.device, dtype=dtype)
        return Part(scores, chunks, len(pairs), empty, order=order)

    def _lengths(self, batch: Batch, pairs: Pairs, prompts: dict[int, str], read: dict[int, Any]) -> dict[int, int]:
        """Tokens of a pair of each row, with the largest of the pictures that are its candidates."""
        reader = self.retriever.reader
        shown = {number: reader.picture_tokens(picture) for number, picture in read.items()}
        largest = dict.fromkeys(prompts, 0)
        for pair in self.own_pairs(pairs).tolist():
            row = int(pairs.rows[pair])
            largest[row] = max(largest[row], shown[int(pairs.candidates[pair])])
        written = reader.tokens(list(prompts.values()), [1] * len(prompts))
        of_pictures = (largest[row] + shown[int(batch.queries[row])] - 2 for row in prompts)  # two are written as a token each
        return {row: len(ids) + count for row, ids, count in zip(prompts, written, of_pictures, strict=True)}

    def save(self, folder: Path) -> None:
        self.peft_model.save_pretrained(folder)
        self.retriever.reader.processor.save_pretrained(folder)

    def _chunk_size(self) -> int:
        if self.recipe.chunk_size is not None:
            return self.recipe.chunk_size
        blank = self.retriever.blank(True, True)
        tokens = blank["input_ids"].shape[1] + 64  # and a text of usual length
        layers = mllm_layers(self.model, tokens, blank["pixel_values"], 2, self.recipe.gradient_checkpointing)
        return fitting_chunk(self.model.device, self.model.dtype.itemsize, layers)


UNDER_TRAINING: dict[str, Any] = {
    "clip": ClipRerankerUnderTraining,
    CROSS_ENCODER: ClipRerankerUnderTraining,
    **dict.fromkeys(rerank_prompts(), MllmRerankerUnderTraining),
}
"""What trains a reranker from a base, by the base's ``model_type``."""
