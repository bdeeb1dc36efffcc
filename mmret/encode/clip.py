"""A stock transformers CLIP, from a folder or the hub: image tower for ``clip_image``, text tower for ``caption``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from threading import Lock
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

from mmret.encode.base import TorchEncoder, transformer_bytes
from mmret.encode.location import PROCESSOR, TOKENIZER, Location, load_error, transformers_folder
from mmret.encode.pixels import from_image_processor
from mmret.encode.quiet import silence
from mmret.settings import EncoderSettings

FILES = ("*.json", "*.txt")


class ClipEncoder(TorchEncoder):
    """Both towers of a ``CLIPModel`` folder."""

    has_text = True

    def __init__(
        self,
        network: CLIPModel,
        tokenizer: AutoTokenizer,
        processor: CLIPImageProcessor,
        location: Location,
        settings: EncoderSettings,
    ):
        vision = network.config.vision_config
        tokens = (vision.image_size // vision.patch_size) ** 2 + 1
        super().__init__(
            network,
            from_image_processor(processor.to_dict()),
            location,
            settings,
            width=network.config.projection_dim,
            activation_bytes=transformer_bytes(tokens, vision.hidden_size, vision.image_size**2),
        )
        self.tokenizer = tokenizer
        self.positions = network.config.text_config.max_position_embeddings
        self._one_at_a_time = Lock()  # the tokenizer's padding and truncation are its state

    @classmethod
    def load(cls, settings: EncoderSettings, signal: str, location: Location) -> ClipEncoder:
        """Raises UserError where the folder is not a CLIP model's or lacks a file."""
        location = transformers_folder(location, FILES, PROCESSOR, TOKENIZER)
        try:
            with silence():
                return cls(
                    CLIPModel.from_pretrained(location.path),
                    AutoTokenizer.from_pretrained(location.path),
                    CLIPImageProcessor.from_pretrained(location.path),
                    location,
                    settings,
                )
        except (OSError, ValueError, json.JSONDecodeError) as error:
            raise load_error(str(location.path), error) from error

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.network.get_image_features(pixels).pooler_output

    def tokens(self, texts: list[str]) -> dict[str, Any]:
        with self._one_at_a_time:
            return dict(self.tokenizer(texts, padding=True, truncation=True, max_length=self.positions, return_tensors="pt"))

    def text_features(self, **tokens: Any) -> Tensor:
        return self.network.get_text_features(**tokens).pooler_output

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        with self._one_at_a_time:
            rows = self.tokenizer(list(texts), verbose=False).input_ids if len(texts) else []
        return [len(row) > self.positions for row in rows]
