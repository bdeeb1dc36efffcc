"""SigLIP and SigLIP 2 of one resolution, from a folder or the hub: image tower for ``clip_image``, text tower for ``caption``.

Texts are cut at the tower's positions (64) and padded to them, as in training: the tower takes its vector from the last place. They
are lower-cased as in training, too: SigLIP's tokenizer does so itself, that of SigLIP 2's fixed resolutions (Gemma's) does not.
Pictures are stretched to a square.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, SiglipModel

from mmret.encode.base import TorchEncoder, transformer_bytes
from mmret.encode.location import PROCESSOR, TOKENIZER, Location, complete_weights, configuration, loading, transformers_folder
from mmret.encode.pixels import from_processor
from mmret.errors import UserError
from mmret.settings import EncoderSettings

FILES = ("*.json", "*.txt", "*.model")


class SiglipEncoder(TorchEncoder):
    """Both towers of a ``SiglipModel`` folder."""

    has_text = True

    def __init__(self, network: SiglipModel, tokenizer: Any, processor: Any, location: Location, settings: EncoderSettings):
        vision = network.config.vision_config
        tokens = (vision.image_size // vision.patch_size) ** 2
        super().__init__(
            network,
            from_processor(processor),
            location,
            settings,
            width=vision.hidden_size,
            activation_bytes=transformer_bytes(tokens, vision.hidden_size, vision.image_size**2),
        )
        self.tokenizer = tokenizer
        self.positions = network.config.text_config.max_position_embeddings
        self._one_at_a_time = Lock()  # the tokenizer's padding and truncation are its state

    @classmethod
    def load(cls, settings: EncoderSettings, signal: str, location: Location) -> SiglipEncoder:
        """Raises UserError where the folder is not a SigLIP model's, lacks a file, or is one of any resolution (NaFlex)."""
        location = transformers_folder(location, FILES, PROCESSOR, TOKENIZER)
        kind = configuration(location.path).get("model_type")
        if kind == "siglip2":
            raise UserError(
                f"{location.name} is a SigLIP 2 model for pictures of any shape (NaFlex), and pictures of one size are needed "
                "here: take one of a fixed resolution, such as google/siglip2-base-patch16-224"
            )
        if kind != "siglip":
            raise UserError(f"the model '{location.path}' could not be loaded: config.json is of a model '{kind}', not of SigLIP")
        with loading(location):
            network, info = SiglipModel.from_pretrained(location.path, dtype=torch.float32, output_loading_info=True)
            complete_weights(str(location.path), info)
            try:
                tokenizer = AutoTokenizer.from_pretrained(location.path)
            except ImportError as error:  # the first SigLIP's is a sentencepiece model
                raise UserError(
                    f"the tokenizer of {location.name} needs the extra 'siglip': pip install 'mmret[siglip]'"
                ) from error
            processor = AutoImageProcessor.from_pretrained(location.path, backend="pil")
        return cls(network, tokenizer, processor, location, settings)

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.network.get_image_features(pixels).pooler_output

    def tokens(self, texts: list[str]) -> dict[str, Any]:
        texts, length = [text.lower() for text in texts], {"max_length": self.positions}
        with self._one_at_a_time:
            return dict(self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt", **length))

    def text_features(self, **tokens: Any) -> Tensor:
        return self.network.get_text_features(**tokens).pooler_output

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        with self._one_at_a_time:
            rows = self.tokenizer([text.lower() for text in texts], verbose=False).input_ids if len(texts) else []
        return [len(row) > self.positions for row in rows]
