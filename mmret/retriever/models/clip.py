"""MMRet-CLIP: a stock ``transformers.CLIPModel`` that embeds an image, a text, or both as one query.

See :mod:`mmret.retriever.models.two_towers`. Upstream's BGE-VL class loads the checkpoints as well; published BGE-VL-base and
-large are such models, and load without the code that lies beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import CLIPModel, CLIPProcessor

from mmret.encode.last_block import picture_token, text_token
from mmret.encode.quiet import silence
from mmret.retriever.models.pictures import Picture, decode_images, flatten_transparency, require_list, to_rgb
from mmret.retriever.models.two_towers import SENTENCE_TRANSFORMERS, TwoTowerRetriever, feature_tensor

__all__ = [
    "SENTENCE_TRANSFORMERS",
    "ClipRetriever",
    "Picture",
    "decode_images",
    "feature_tensor",
    "flatten_transparency",
    "require_list",
    "to_rgb",
]


class ClipRetriever(TwoTowerRetriever):
    """Embeds images, texts and composed queries into one space of ``dim`` dimensions.

    ``truncated`` counts the texts that were cut at the text tower's limit (77 tokens for published CLIP, 248 for Long-CLIP) since
    loading.
    """

    kind = "clip"
    model_class = CLIPModel
    processor_class = CLIPProcessor
    alike = 32
    """Texts of like length that go through the tower together, at least."""
    whole_towers = False
    """Whether the stock model computes every token of the last block, as a compiled tower has to."""

    @property
    def dim(self) -> int:
        return self.model.projection_dim

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        limit, tokenizer = self.max_tokens, self.processor.tokenizer
        with silence():  # else a warning for every text over the limit
            ids = tokenizer(list(texts))["input_ids"] if len(texts) else []
        self.truncated += sum(len(row) > limit for row in ids)
        return [row if len(row) <= limit else [*row[: limit - 1], tokenizer.eos_token_id] for row in ids]

    def token_features(self, ids: Sequence[list[int]]) -> torch.Tensor:
        """Un-normalised projections (n, dim) of :meth:`tokens`. Texts of like length go through the tower together, so
        little of it is padding."""
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        groups = [order[start:end] for start, end in _like_lengths([len(ids[i]) for i in order], self.alike)]
        parts = []
        for group in groups:
            with silence():
                padded = self.processor.tokenizer.pad({"input_ids": [ids[i] for i in group]}, return_tensors="pt")
            parts.append(self._text_features(**padded.to(self.device)))
        place = torch.empty(len(ids), dtype=torch.long)
        place[order] = torch.arange(len(ids))
        return torch.cat(parts).index_select(0, place.to(self.device))

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.whole_towers:
            return super().image_features(pixels)
        pixels = pixels.to(self.device, self.model.dtype)
        return self.model.visual_projection(picture_token(self.model.vision_model, pixels))

    def _text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        if self.whole_towers:
            return feature_tensor(self.model.get_text_features(input_ids, attention_mask))
        return self.model.text_projection(text_token(self.model.text_model, input_ids, attention_mask))


def _like_lengths(lengths: Sequence[int], fewest: int = ClipRetriever.alike) -> list[tuple[int, int]]:
    """Cut ascending ``lengths`` into runs of at least ``fewest``: a new one begins where a length is 1.3 times its
    run's first."""
    cuts = [0]
    for i, length in enumerate(lengths):
        if i - cuts[-1] >= fewest and length > 1.3 * lengths[cuts[-1]]:
            cuts.append(i)
    if len(cuts) > 1 and len(lengths) - cuts[-1] < fewest:
        cuts.pop()
    return list(zip(cuts, [*cuts[1:], len(lengths)], strict=True))
