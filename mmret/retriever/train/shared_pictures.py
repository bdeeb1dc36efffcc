"""Several prompts of one picture through an MLLM, with the picture computed once (as MuCo, arXiv 2602.06393, does its texts).

The vision tower sees each distinct picture of a pass once, whatever the prompt. Where the prompts of a picture begin alike up to
and with it, as those of a chat template that puts the picture before the text, the language model reads that beginning once too:
their ends follow it in one sequence, each with the positions it has in its own prompt and a mask by which it sees the beginning and
itself alone. Both are exact. Where the text stands before the picture, as in the paper's prompt, what the language model makes of a
picture depends on the text, so that the tower alone is shared.

Cost, of k texts of t tokens with a picture of p: p + k t tokens instead of k (p + t), but a mask of (p + k t)^2 bytes a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmret.retriever.models.mllm import POOL, MllmRetriever
from mmret.retriever.train.chunks import Limits, Together

BEGINNING, PADDING = 0, -1
"""Segments of a sequence: what all its prompts begin with, their ends (1, 2, ...), and what pads it."""


@dataclass(frozen=True)
class OneSequence:
    """What the language model reads as one: the tokens of ``rows``, of which the first ``shared`` are read once."""

    rows: list[int]
    shared: int

    def length(self, ids: Sequence[list[int]]) -> int:
        return self.shared + sum(len(ids[row]) - self.shared for row in self.rows)


@dataclass(frozen=True)
class OnePass:
    """The tokens of each prompt, the number of its picture among those that are ``read`` (None: it has none), and what the language
    model reads as one."""

    ids: list[list[int]]
    pictures: list[int | None]
    sequences: list[OneSequence]
    read: dict[str, torch.Tensor]

    def shown(self, rows: Sequence[int]) -> list[int]:
        """Numbers of the pictures of ``rows``, those without one left out."""
        return [number for row in rows if (number := self.pictures[row]) is not None]


class SharedPictures:
    """Pictures are those of :meth:`MllmRetriever.pictures`, the same one the same object, None for a prompt without one."""

    def __init__(self, retriever: MllmRetriever):
        self.retriever = retriever
        self.core, text = retriever.model.model, retriever.model.config.get_text_config()
        self.pooling = retriever.asked.pooling if retriever.asked else "lasttoken"
        kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
        # others look at less than a mask lets them see, or carry a state along the sequence whatever it says
        self.in_one_sequence = self.pooling == "lasttoken" and text._attn_implementation == "sdpa" and kinds == {"full_attention"}
        # which a mask of our own would undo, so that no prompt may be longer
        self.window = None if getattr(text, "layer_types", None) else getattr(text, "sliding_window", None)
        self.image_token = retriever.model.config.image_token_id

    @staticmethod
    def repeated(pictures: Sequence[Any]) -> bool:
        """Whether several prompts have the same picture."""
        shown = [id(picture) for picture in pictures if picture is not None]
        return len(set(shown)) < len(shown)

    def ids(self, prompts: Sequence[str], pictures: Sequence[Any]) -> list[list[int]]:
        """Token ids of each prompt with those that stand for its picture."""
        return self.retriever.tokens(prompts, [self.retriever.picture_tokens(picture) for picture in pictures])

    def together(self, prompts: Sequence[str], pictures: Sequence[Any], limits: Limits) -> list[Together]:
        """The rows of each picture, in as many pieces as ``limits`` of a pass ask for."""
        ids = self.ids(prompts, pictures)
        units = []
        for group in _by_picture(pictures):
            piece: list[int] = []
            for row in group:
                if piece and not limits.hold(len(piece) + 1, *self._size([*piece, row], ids)):
                    units.append(self._together(piece, ids))
                    piece = []
                piece.append(row)
            units.append(self._together(piece, ids))
        return units

    def features(self, prompts: Sequence[str], pictures: Sequence[Any]) -> torch.Tensor:
        """Hidden states (n, dim) of the last position of each prompt, as :meth:`MllmRetriever.hidden` gives them."""
        ids = self.ids(prompts, pictures)
        groups = _by_picture(pictures)
        shown = [group[0] for group in groups if pictures[group[0]] is not None]
        number = {id(pictures[row]): n for n, row in enumerate(shown)}
        read = self._read([prompts[row] for row in shown], [pictures[row] for row in shown])
        sequences = [made for group in groups for made in self._sequences(group, ids)]
        asked = OnePass(ids, [None if picture is None else number[id(picture)] for picture in pictures], sequences, read)
        seen = self.core.get_image_features(**read, return_dict=True)
        _repeat(seen, asked.shown([sequence.rows[0] for sequence in sequences]))
        packed = any(len(sequence.rows) > 1 for sequence in sequences)
        return (self._packed if packed else self._padded)(asked, seen)

    def _sequences(self, group: list[int], ids: Sequence[list[int]]) -> list[OneSequence]:
        inside = self.window is None or max(len(ids[row]) for row in group) <= self.window
        if self.in_one_sequence and inside and len(group) > 1:
            shared = _common(ids, group)
            if self.image_token not in ids[group[0]][shared:]:
                return [OneSequence(group, shared)]
        return [OneSequence([row], len(ids[row])) for row in group]

    def _size(self, group: list[int], ids: Sequence[list[int]]) -> tuple[int, int]:
        """How many sequences they are, and the longest one's tokens."""
        made = self._sequences(group, ids)
        return len(made), max(sequence.length(ids) for sequence in made)

    def _together(self, group: list[int], ids: Sequence[list[int]]) -> Together:
        sequences, longest = self._size(group, ids)
        return Together(tuple(group), longest, sequences)

    def _read(self, prompts: list[str], pictures: list[Any]) -> dict[str, torch.Tensor]:
        """What the vision tower takes of the pictures."""
        device, dtype = self.retriever.device, self.retriever.model.dtype
        made = self.retriever.inputs(prompts, pictures)
        return {
            name: value.to(device, dtype if value.is_floating_point() else None)
            for name, value in made.items()
            if name in ("pixel_values", "image_grid_thw", "image_sizes")
        }

    def _padded(self, asked: OnePass, seen: Any) -> torch.Tensor:
        """Each prompt a sequence, padded on the left as everywhere."""
        order = [sequence.rows[0] for sequence in asked.sequences]
        tokens, mask = (made.to(self.retriever.device) for made in _matrix([asked.ids[row] for row in order], left=True))
        states = self.core(
            input_ids=tokens,
            attention_mask=mask,
            mm_encoder_outputs={"image": seen},
            use_cache=False,
            **self._of_rope(asked, tokens, order),
        ).last_hidden_state
        rows = POOL[self.pooling](states, mask)[:, : self.retriever.dim]
        return rows.index_select(0, torch.tensor(order, device=rows.device).argsort())

    def _packed(self, asked: OnePass, seen: Any) -> torch.Tensor:
        """The prompts of a picture in one sequence, padded on the right."""
        device, ids = self.retriever.device, asked.ids
        positions = self._positions(asked)
        tokens = torch.zeros(len(asked.sequences), max(sequence.length(ids) for sequence in asked.sequences), dtype=torch.long)
        segments, placed = torch.full_like(tokens, PADDING), positions.new_zeros(len(positions), *tokens.shape)
        ends = torch.zeros(len(ids), dtype=torch.long)
        for number, sequence in enumerate(asked.sequences):
            at = 0
            for segment, row in enumerate(sequence.rows, 1):
                begin, end = (0 if segment == 1 else sequence.shared), len(ids[row])
                here = slice(at, at + end - begin)
                tokens[number, here] = torch.tensor(ids[row][begin:])
                placed[:, number, here] = positions[:, row, begin:end]
                segments[number, here] = segment
                at = here.stop
                ends[row] = number * tokens.shape[1] + at - 1
            segments[number, : sequence.shared] = BEGINNING
        sees = (segments[:, None] == BEGINNING) | (segments[:, None] == segments[:, :, None])
        states = self.core(
            input_ids=tokens.to(device),
            attention_mask=sees.tril()[:, None].to(device),
            position_ids=(placed if len(placed) > 1 else placed[0]).to(device),
            mm_encoder_outputs={"image": seen},
            use_cache=False,
        ).last_hidden_state
        return states.flatten(0, 1).index_select(0, ends.to(device))[:, : self.retriever.dim]

    def _positions(self, asked: OnePass) -> torch.Tensor:
        """(axes, rows, longest) int64: where each token of each prompt stands, along three axes where a picture has two."""
        tokens, mask = _matrix(asked.ids, left=False)
        told = self._of_rope(asked, tokens, range(len(asked.ids)))
        if not told:
            return torch.arange(tokens.shape[1]).expand(1, *tokens.shape)
        told["image_grid_thw"] = told["image_grid_thw"].cpu()
        return self.core.get_rope_index(tokens, attention_mask=mask, **told)[0]

    def _of_rope(self, asked: OnePass, tokens: torch.Tensor, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """What a model whose positions have three axes is told of the pictures of ``rows``; nothing where it has one."""
        if not hasattr(self.core, "get_rope_index"):
            return {}
        grid = asked.read["image_grid_thw"][asked.shown(rows)]
        return {"image_grid_thw": grid, "mm_token_type_ids": (tokens == self.image_token).long()}


def _by_picture(pictures: Sequence[Any]) -> list[list[int]]:
    """Numbers of the rows of each picture, and of each row without one, in the order in which they first come."""
    groups: dict[Any, list[int]] = {}
    for row, picture in enumerate(pictures):
        groups.setdefault(("row", row) if picture is None else id(picture), []).append(row)
    return list(groups.values())


def _common(ids: Sequence[list[int]], rows: Sequence[int]) -> int:
    """How many tokens all ``rows`` begin with, leaving each at least its last one."""
    longest = min(len(ids[row]) for row in rows) - 1
    first = ids[rows[0]]
    return next((n for n in range(longest) if any(ids[row][n] != first[n] for row in rows)), longest)


def _matrix(ids: Sequence[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (n, longest) padded on one side, and which of them are there."""
    longest = max(map(len, ids))
    tokens = torch.zeros(len(ids), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, own in enumerate(ids):
        here = slice(longest - len(own), None) if left else slice(len(own))
        tokens[row, here], mask[row, here] = torch.tensor(own), 1
    return tokens, mask


def _repeat(seen: Any, numbers: Sequence[int]) -> None:
    """Have ``seen``, what a vision tower gives of pictures, hold those of ``numbers``, in this order and as often."""
    seen.pooler_output = [seen.pooler_output[number] for number in numbers]
    if getattr(seen, "deepstack_features", None) is not None:
        seen.deepstack_features = [[of_layer[number] for number in numbers] for of_layer in seen.deepstack_features]
