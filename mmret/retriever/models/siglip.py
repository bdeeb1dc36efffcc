"""SigLIP and SigLIP 2 of fixed resolution as a retriever: a stock ``transformers.SiglipModel``.

See :mod:`mmret.retriever.models.two_towers`; a composed query is the normalised sum of both features, as with CLIP. The text
tower pools its last position, padding or not, and saw every text padded to its limit (64 tokens) and in lower case: so texts
are given to it, whether or not the tokenizer lower-cases by itself (that of published SigLIP 2 does not). Cost: all texts are
as long as the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, ProcessorMixin, SiglipModel

from mmret.encode.quiet import silence
from mmret.errors import UserError
from mmret.retriever.models.two_towers import SENTENCE_TRANSFORMERS, TwoTowerRetriever, feature_tensor


class SiglipRetriever(TwoTowerRetriever):
    """Embeds images, texts and composed queries into one space of ``dim`` dimensions.

    ``truncated`` counts the texts that were cut at the text tower's limit (64 tokens for published SigLIP) since loading.
    """

    kind = "siglip"
    model_class = SiglipModel
    processor_class = AutoProcessor
    padded = True

    def __init__(self, model: SiglipModel, processor: ProcessorMixin):
        vision, text = model.config.vision_config, model.config.text_config
        if not model.vision_model.use_head or text.projection_size != vision.hidden_size:
            raise UserError(
                "this SigLIP has no pooling head of the text tower's width, so pictures and texts have no common space: it is a "
                "vision encoder, and may be one of `encoders`"
            )
        super().__init__(model, processor)

    @classmethod
    def load_processor(cls, folder: str | Path) -> ProcessorMixin:
        try:
            return super().load_processor(folder)
        except ImportError as error:  # the first SigLIP's tokenizer is a sentencepiece model
            raise UserError(f"the tokenizer of {folder} needs sentencepiece: pip install 'mmret[siglip]' ({error})") from None

    @property
    def dim(self) -> int:
        return self.model.config.vision_config.hidden_size

    @property
    def masks_padding(self) -> bool:
        """Only where the tokenizer says so: published ones have the tower attend to padding."""
        return "attention_mask" in self.processor.tokenizer.model_input_names

    def engine_files(self) -> dict[str, Any]:
        padded = {"padding": "max_length", "max_length": self.max_tokens, "truncation": True}
        module = SENTENCE_TRANSFORMERS["sentence_bert_config.json"]
        return SENTENCE_TRANSFORMERS | {
            "sentence_bert_config.json": module | {"do_lower_case": True, "processing_kwargs": {"text": padded}}
        }

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with its end, in lower case, cut at the tower's limit; counts what was cut."""
        limit, tokenizer = self.max_tokens, self.processor.tokenizer
        lowered = [text.lower() for text in texts]
        with silence():
            ids = tokenizer(lowered)["input_ids"] if lowered else []
            for row, tokens in enumerate(ids):
                if len(tokens) > limit:
                    self.truncated += 1
                    ids[row] = tokenizer(lowered[row], truncation=True, max_length=limit)["input_ids"]
        return ids

    def token_features(self, ids: Sequence[list[int]]) -> torch.Tensor:
        """Un-normalised features (n, dim) of :meth:`tokens`, padded to the limit."""
        with silence():
            padded = self.processor.tokenizer.pad(
                {"input_ids": list(ids)},
                padding="max_length",
                max_length=self.max_tokens,
                return_attention_mask=self.masks_padding,
                return_tensors="pt",
            ).to(self.device)
        return feature_tensor(self.model.get_text_features(padded["input_ids"], padded.get("attention_mask")))
