"""A small cross-encoder over CLIP's towers: it reads the tokens of query and candidate together and says one number.

A retriever presses a picture into one vector before it has seen the question. Here its score, the cosine of both vectors, is where
training begins: the blocks above the towers add to it, at first nothing. In them the tokens of the query (picture, text) go
through some transformer blocks of their own, and those of the candidate, with a token for the score in front, through the same
blocks, where they attend to the query's as well. The query does not attend to the candidate, so, as a language model reads a
prompt once for many answers, a query is read once however many candidates it has.

Cost: the towers once per distinct picture and text; then per pair some 50 tokens through two blocks of the tower's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, gelu, normalize, scaled_dot_product_attention
from transformers import CLIPModel

from mmret.retriever.models.kinds import CROSS_ENCODER
from mmret.settings import RerankerSettings

MODEL_TYPE = CROSS_ENCODER
"""``model_type`` in the config.json of such a folder."""

SCALE = 20.0
"""What the cosine is multiplied by at first: one over a usual temperature."""


class Read(NamedTuple):
    """What was read of n sides: ``tokens`` (n, t, width), ``there`` (n, t) bool, which of them count, and ``vectors`` (n, dim), the
    sums of their parts' projections, as a retriever embeds them."""

    tokens: torch.Tensor
    there: torch.Tensor
    vectors: torch.Tensor


class Texts(NamedTuple):
    """What the text tower gave of n texts: ``hidden`` (n, t, width of the tower), ``there`` (n, t) bool, and projections (n, d)."""

    hidden: torch.Tensor
    there: torch.Tensor
    vectors: torch.Tensor


class CrossEncoder(nn.Module):
    """``clip`` with the blocks above it. ``grid``: rows and columns that a picture's patches are averaged to."""

    def __init__(self, clip: CLIPModel, settings: RerankerSettings):
        super().__init__()
        vision, text = clip.config.vision_config, clip.config.text_config
        self.patches = vision.image_size // vision.patch_size
        self.grid = min(settings.grid, self.patches)
        self.width, self.heads, self.layers = settings.width or vision.hidden_size, settings.heads, settings.layers
        self.clip = clip
        self.image = nn.Sequential(nn.LayerNorm(vision.hidden_size), nn.Linear(vision.hidden_size, self.width))
        self.text = nn.Sequential(nn.LayerNorm(text.hidden_size), nn.Linear(text.hidden_size, self.width))
        self.places = nn.Parameter(0.02 * torch.randn(1 + self.grid**2, self.width))
        self.parts = nn.Parameter(0.02 * torch.randn(2, 2, self.width))  # query or candidate; picture or text
        self.score_token = nn.Parameter(0.02 * torch.randn(self.width))
        self.blocks = nn.ModuleList(Block(self.width, self.heads) for _ in range(self.layers))
        self.norm, self.head = nn.LayerNorm(self.width), nn.Linear(self.width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.scale = nn.Parameter(torch.tensor(SCALE))

    def above_the_towers(self) -> list[nn.Parameter]:
        """The parameters that the towers do not have."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("clip.")]

    def pooled(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, 1 + grid * grid, width of the tower) of the image tower's last hidden states (n, 1 + patches, ...)."""
        if self.grid == self.patches:
            return hidden
        patches = hidden[:, 1:].transpose(1, 2).unflatten(2, (self.patches, self.patches))
        return torch.cat([hidden[:, :1], adaptive_avg_pool2d(patches, self.grid).flatten(2).transpose(1, 2)], dim=1)

    def image_hidden(self, pixels: torch.Tensor) -> torch.Tensor:
        """:meth:`pooled` of pictures (n, 3, h, w)."""
        return self.pooled(self.clip.vision_model(pixel_values=pixels).last_hidden_state)

    def read_texts(self, ids: torch.Tensor, there: torch.Tensor) -> Texts:
        """Texts of token ids (n, t); ``there`` (n, t) is 0 where a row is padded."""
        out = self.clip.text_model(input_ids=ids, attention_mask=there)
        return Texts(out.last_hidden_state, there.bool(), self.clip.text_projection(out.pooler_output))

    def side(self, candidate: bool, images: torch.Tensor | None, with_image: torch.Tensor | None, texts: Texts | None) -> Read:
        """n queries, or candidates, from what the towers gave: ``images`` (n, 1 + grid * grid, ...), of which those of
        ``with_image`` (n,) bool count, and ``texts``, of which those do that have a token there. Either may be None."""
        tokens, masks, vectors = [], [], []
        own = self.parts[int(candidate)]
        if images is not None:
            tokens.append(self.image(images) + self.places + own[0])
            masks.append(with_image[:, None].expand(-1, images.shape[1]))
            first = self.clip.vision_model.post_layernorm(images[:, 0])
            vectors.append(self.clip.visual_projection(first) * with_image[:, None])
        if texts is not None:
            tokens.append(self.text(texts.hidden) + own[1])
            masks.append(texts.there)
            vectors.append(texts.vectors * texts.there.any(dim=1, keepdim=True))
        return Read(torch.cat(tokens, dim=1), torch.cat(masks, dim=1), torch.stack(vectors).sum(dim=0))

    def forward(self, query: Read, candidate: Read, of: torch.Tensor) -> torch.Tensor:
        """Scores (n,) of n candidates; candidate i is of query ``of[i]``."""
        asked, found = query.tokens, candidate.tokens
        found = torch.cat([self.score_token.expand(len(found), 1, -1), found], dim=1)
        found_there = torch.cat([candidate.there.new_ones(len(found), 1), candidate.there], dim=1)
        there = torch.cat([query.there.index_select(0, of), found_there], dim=1)[:, None, None]
        asked_there = query.there[:, None, None]
        for number, block in enumerate(self.blocks):
            asked, found = block(asked, found, of, asked_there, there, last=number == self.layers - 1)
        vectors = normalize(query.vectors, dim=-1).index_select(0, of)
        cosines = (vectors * normalize(candidate.vectors, dim=-1)).sum(dim=-1)
        return self.scale * cosines + self.head(self.norm(found[:, 0])).squeeze(-1)


class Block(nn.Module):
    """A pre-norm transformer block over queries and, with what these are known by, their candidates."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(
        self,
        asked: torch.Tensor,
        found: torch.Tensor,
        of: torch.Tensor,
        asked_there: torch.Tensor,
        there: torch.Tensor,
        last: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``asked`` (q, t, w) and ``found`` (n, s, w) one block on. Of the ``last`` block only the score's token is read."""
        query, key, value = self._heads(asked)
        if not last:
            asked_on = self._on(asked, scaled_dot_product_attention(query, key, value, asked_there))
        own_query, own_key, own_value = self._heads(found)
        keys = torch.cat([key.index_select(0, of), own_key], dim=2)
        values = torch.cat([value.index_select(0, of), own_value], dim=2)
        if last:
            own_query, found = own_query[:, :, :1], found[:, :1]
        found = self._on(found, scaled_dot_product_attention(own_query, keys, values, there))
        return (asked if last else asked_on), found

    def _heads(self, tokens: torch.Tensor) -> Sequence[torch.Tensor]:
        parts = self.qkv(self.norm1(tokens)).chunk(3, dim=-1)
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]

    def _on(self, tokens: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        return tokens + self.down(gelu(self.up(self.norm2(tokens))))
