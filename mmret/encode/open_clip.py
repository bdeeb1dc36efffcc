"""open_clip models: EVA02-CLIP as in the paper, and any other the library knows by name, folder or hub repository.

``model`` is an architecture of open_clip (``EVA02-B-16``; ``revision`` is then its pretrained tag or a checkpoint
file), a folder with ``open_clip_config.json``, or ``hf-hub:organisation/repository`` (``revision`` is then a commit
or branch).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn

from mmret.encode.base import TorchEncoder, transformer_bytes
from mmret.encode.location import Location, from_hub, load_error
from mmret.encode.pixels import from_open_clip
from mmret.encode.revision import folder_revision
from mmret.errors import UserError
from mmret.settings import EncoderSettings

FILES = ("open_clip_config.json", "tokenizer*", "special_tokens_map.json", "vocab*", "merges*", "*.model")
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
_WIDEST = 1024  # assumed where the vision tower is timm's and does not say


class OpenClipEncoder(TorchEncoder):
    """Both towers of an open_clip model."""

    has_text = True

    def __init__(self, network: nn.Module, tokenizer: Any, location: Location, settings: EncoderSettings):
        config = open_clip.get_model_preprocess_cfg(network)
        side = max(config["size"]) if isinstance(config["size"], (tuple, list)) else config["size"]
        transform = image_transform_v2(PreprocessCfg(**config), is_train=False)
        super().__init__(
            network,
            from_open_clip(transform, config),
            location,
            settings,
            width=_width(network, side),
            activation_bytes=transformer_bytes((side // 14) ** 2 + 1, _WIDEST, side**2),
        )
        self.tokenizer = tokenizer
        self._one_at_a_time = Lock()

    @classmethod
    def load(cls, settings: EncoderSettings, signal: str, location: Location) -> OpenClipEncoder:
        """Load the model. Raises UserError for an unknown architecture or tag (listing those there are) and for weights that are
        neither in the cache nor can be downloaded."""
        if location.path is None and (location.name.startswith("hf-hub:") or "/" in location.name):
            location = from_hub(location, FILES, WEIGHTS)
        source, pretrained = f"local-dir:{location.path}", None
        if location.path is None:
            source, pretrained, location = location.name, location.revision, _known(location)
        try:
            network = open_clip.create_model(source, pretrained=pretrained, require_pretrained=True)
            return cls(network, open_clip.get_tokenizer(source), location, settings)
        except (OSError, ValueError, RuntimeError) as error:
            raise load_error(settings.model, error) from error

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.network.encode_image(pixels)

    def tokens(self, texts: list[str]) -> dict[str, Any]:
        with self._one_at_a_time:
            return {"text": self.tokenizer(texts)}

    def text_features(self, **tokens: Any) -> Tensor:
        return self.network.encode_text(tokens["text"])

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        with self._one_at_a_time:
            return [_token_count(self.tokenizer, text) > self.tokenizer.context_length for text in texts]


def _known(location: Location) -> Location:
    """A named architecture with a pretrained tag or a checkpoint file, whose digest is then the revision."""
    if location.name not in open_clip.list_models():
        raise UserError(
            f"open_clip has no model '{location.name}', and there is no such folder: "
            "see open_clip.list_models(), or give hf-hub:organisation/repository, or a folder with "
            "open_clip_config.json"
        )
    tags = open_clip.list_pretrained_tags_by_model(location.name)
    if location.revision is None:
        raise UserError(
            f"encoders.*.revision is missing: which weights of {location.name}? One of {', '.join(tags)}, or a checkpoint file"
        )
    if location.revision in tags:
        return location
    if not Path(location.revision).is_file():
        raise UserError(
            f"{location.name} has no weights '{location.revision}': there are {', '.join(tags)}, "
            "or give the path of a checkpoint file"
        )
    return Location(location.name, None, folder_revision(Path(location.revision)))


def _width(network: nn.Module, side: int) -> int:
    with torch.inference_mode():
        return network.eval().encode_image(torch.zeros(1, 3, side, side)).shape[1]


def _token_count(tokenizer: Any, text: str) -> int:
    """Tokens of ``text`` with start and end, before any cut, for open_clip's own tokenizer and for Hugging Face's inside it."""
    wrapped = getattr(tokenizer, "tokenizer", None)
    if wrapped is None:
        return len(tokenizer.encode(text)) + 2
    clean = getattr(tokenizer, "clean_fn", str)
    return len(wrapped(clean(text), verbose=False).input_ids)
