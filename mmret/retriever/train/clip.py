"""MMRet-CLIP under training: each distinct image and each distinct text of a batch is embedded once.

The query image is also its own hard negative, and with sum fusion the very same features serve both, so a sixth of the
paper's work goes, exactly. Cost: :mod:`mmret.retriever.train.tower` says which part of the image tower a recipe pays for in
every step. Pictures of a step wait as bytes of their pixels, a quarter of float32, many of them on disk
(:mod:`mmret.retriever.train.waiting_rows`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn.functional import normalize

from mmret.optimizer import hidden_matrices
from mmret.progress import advance
from mmret.retriever.models.clip import ClipRetriever
from mmret.retriever.models.two_towers import TwoTowerRetriever
from mmret.retriever.train.batch import NONE, Batch
from mmret.retriever.train.chunk_memory import ChunkMemory, measured
from mmret.retriever.train.chunks import Limits, by_tokens
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.embedder import Gather
from mmret.retriever.train.gradcache import Part, fitting_chunk
from mmret.retriever.train.parallel import SINGLE_PROCESS, Group
from mmret.retriever.train.tower import ImageTower, LoadImages, Pictures, frozen_features
from mmret.retriever.train.waiting_rows import WaitingRows, mapped, spooled
from mmret.settings import Recipe


class ClipEmbedder:
    """See :class:`mmret.retriever.train.embedder.Embedder`. ``chunks``: images and texts in one forward pass.

    A further family of two towers is a subclass: its retriever, its image tower, and what its text tower consists of.
    """

    retriever_class: ClassVar[type[TwoTowerRetriever]] = ClipRetriever
    tower_class: ClassVar[type[ImageTower]] = ImageTower

    def __init__(self, recipe: Recipe, retriever: TwoTowerRetriever, group: Group = SINGLE_PROCESS):
        self.recipe, self.retriever, self.group, self.model = recipe, retriever, group, retriever.model
        self.tower = self.tower_class(self.model, recipe)
        self.model.requires_grad_(False)
        for parameter in [*self.text_parameters(), *self.tower.parameters()]:
            parameter.requires_grad_(True)
        if recipe.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        if recipe.compile:
            self.retriever.whole_towers = True
            for part in (self.model.vision_model, self.model.text_model):
                part.compile(backend=recipe.compile)
        self.chunks = self._chunk_sizes()
        self.rows: Callable[[np.ndarray], torch.Tensor | WaitingRows | None] | None = None

    @classmethod
    def load(cls, recipe: Recipe, base: Path | str, group: Group = SINGLE_PROCESS) -> ClipEmbedder:
        return cls(recipe, cls.retriever_class.load(base, group.device), group)

    def text_parameters(self) -> list[torch.nn.Parameter]:
        """Those of the text tower with its projection."""
        return [*self.model.text_model.parameters(), *self.model.text_projection.parameters()]

    def parameter_groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        text_rate = self.recipe.text_learning_rate or self.recipe.learning_rate
        return [(self.text_parameters(), text_rate), (self.tower.parameters(), self.recipe.learning_rate)]

    def hidden_matrices(self) -> list[torch.nn.Parameter]:
        blocks = [*self.model.text_model.encoder.layers, *self.model.vision_model.encoder.layers]
        return [matrix for matrix in hidden_matrices(blocks) if matrix.requires_grad]

    def divide(self) -> list[torch.nn.Module]:
        self.retriever.alike = sys.maxsize  # one pass of the text tower a chunk, in every process
        return self.called_in_parts()

    def called_in_parts(self) -> list[torch.nn.Module]:
        """Blocks of which only what one token needs is computed."""
        return [tower.encoder.layers[-1] for tower in (self.model.text_model, self.model.vision_model)]

    def open(self, data: TrainingSet, load_images: LoadImages, work: Path) -> None:
        """Frozen features are computed by the first process, where they are not there yet, and read by all."""
        pictures = Pictures(data.images, load_images)
        if self.recipe.trainable == "all" or not len(pictures):

            def decode(numbers: np.ndarray) -> torch.Tensor:
                return self.retriever.raw_pixels(pictures(numbers))

            self.rows = lambda numbers: spooled(decode, numbers) if len(numbers) else None
            return
        path, total = work / "frozen.npy", len(pictures)
        if self.group.writes_to(work):
            self.model.eval()
            frozen_features(
                self.tower,
                self.retriever,
                pictures,
                path,
                lambda done: advance("checkpoints", 0, self.recipe.steps, f"image features {done:,} of {total:,}"),
            )
        self.group.wait()
        frozen = np.load(path, mmap_mode="r")
        self.rows = lambda numbers: mapped(frozen, numbers)

    def read(self, batch: Batch) -> torch.Tensor | WaitingRows | None:
        """Rows below the cut of the image tower, or pixels as uint8, of this process's share of the distinct images."""
        images = batch.images()[0]
        return self.rows(images[self.group.share(len(images))])

    def parts(self, batch: Batch, read: torch.Tensor | WaitingRows | None) -> tuple[list[Part], Gather]:
        distinct, *image = batch.images()
        texts, *text = batch.distinct_texts()
        own = self.retriever.tokens(texts[self.group.share(len(texts))])
        chunks = self._text_chunks([len(row) for row in own])
        empty = torch.empty((0, self.retriever.dim), device=self.model.device, dtype=self.model.dtype)
        parts = [
            Part(
                self.image_features,
                [] if read is None or not len(read) else read.split(self.chunks[0]),
                len(distinct),
                empty,
                fill=lambda chunk, shows: self.rows(np.zeros(1, np.int64)),
            ),
            Part(
                self.retriever.token_features,
                [[own[i] for i in chunk] for chunk in chunks],
                len(texts),
                empty,
                fill=lambda chunk, shows: self.retriever.tokens(["a"]),
                order=None if self.recipe.chunk_tokens is None else [i for chunk in chunks for i in chunk],
            ),
        ]

        def gather(images: torch.Tensor, texts: torch.Tensor) -> tuple[Any, ...]:
            queries, candidates = (_sum_of_parts((images, i), (texts, t)) for i, t in zip(image, text, strict=True))
            found = normalize(queries, dim=-1), normalize(candidates, dim=-1)
            if not self.recipe.swapped_texts:
                return found
            return *found, (_rows(images, image[0]), _rows(texts, text[0]))

        return parts, gather

    def image_features(self, rows: torch.Tensor | WaitingRows) -> torch.Tensor:
        """Un-normalised projections (n, dim) of rows below the cut, or of uint8 pixels."""
        rows = rows[:]
        return self.tower.features(self.retriever.normalise(rows) if rows.dtype == torch.uint8 else rows)

    def encode(self, images: Sequence[bytes], texts: Sequence[str] | None = None) -> np.ndarray:
        cut = self.retriever.truncated
        rows = self.retriever.encode(images, texts)
        self.retriever.truncated = cut  # of training texts only
        return rows

    def save(self, folder: Path) -> None:
        self.retriever.save(folder)

    def _text_chunks(self, lengths: Sequence[int]) -> list[Sequence[int]]:
        """Numbers of texts of ``lengths`` tokens, those of one forward pass together."""
        if self.recipe.chunk_tokens is None:
            return [range(len(lengths))[i : i + self.chunks[1]] for i in range(0, len(lengths), self.chunks[1])]
        read = [self.retriever.max_tokens] * len(lengths) if self.retriever.padded else lengths
        return by_tokens(read, Limits(self.recipe.chunk_tokens, self.recipe.chunk_size))

    def text_memory(self) -> ChunkMemory:
        """What a pass of the text tower takes, by its tokens."""
        begin, *_, end = self.retriever.tokens(["a"])[0]

        def sample(rows: int, words: int) -> tuple[list[list[int]], int]:
            longest = self.retriever.max_tokens if self.retriever.padded else words + 2
            texts = [[begin, *[begin] * (words if row < rows - 1 else 1), end] for row in range(rows)]
            return texts, longest

        return measured(self.retriever.token_features, sample, self.model)

    def _chunk_sizes(self) -> tuple[int, int]:
        if self.recipe.chunk_size is not None:
            return self.recipe.chunk_size, self.recipe.chunk_size
        vision, text = self.model.config.vision_config, self.model.config.text_config
        patches = (vision.image_size // vision.patch_size) ** 2
        trained = {"all": vision.num_hidden_layers, "text+blocks": min(self.recipe.image_blocks, vision.num_hidden_layers)}
        kept = (
            (vision, patches + 1, trained.get(self.recipe.trainable, 1)),
            (text, text.max_position_embeddings, text.num_hidden_layers),
        )
        images, texts = (
            fitting_chunk(
                self.model.device, self.model.dtype.itemsize, [(tokens, config.hidden_size, config.num_attention_heads)] * layers
            )
            for config, tokens, layers in kept
        )
        return images, texts


def _sum_of_parts(*parts: tuple[torch.Tensor, np.ndarray]) -> torch.Tensor:
    """Rows (n, dim), each the sum of the features that ``parts`` name for it: features (r, dim) and places (n,) in them, of which
    :data:`NONE` is none."""
    rows = [_rows(features, places) for features, places in parts if not (places == NONE).all()]
    return sum(rows[1:], rows[0])


def _rows(features: torch.Tensor, places: np.ndarray) -> torch.Tensor:
    """Row of ``features`` (r, dim) at each of ``places`` (n,), zeros where it is :data:`NONE`; (n, dim)."""
    if (places == NONE).any():
        features = torch.cat([features, features.new_zeros(1, features.shape[1])])
        places = np.where(places == NONE, len(features) - 1, places)
    # index_select, because its backward pass on the CPU adds in a fixed order; that of features[places] does not
    return features.index_select(0, torch.from_numpy(places).to(features.device))
