"""DINOv2 of transformers, from a folder or the hub: the visual-pattern signal ``dino_image``.

The vector is the class token after the last norm; the paper does not publish its pooling.
"""

from __future__ import annotations

from torch import Tensor
from transformers import AutoImageProcessor, Dinov2Model

from mmret.encode.base import TorchEncoder, transformer_bytes
from mmret.encode.location import PROCESSOR, Location, load_error, transformers_folder
from mmret.encode.pixels import from_image_processor
from mmret.encode.quiet import silence
from mmret.settings import EncoderSettings

FILES = ("*.json",)


class Dinov2Encoder(TorchEncoder):
    """The visual-pattern signal. Pictures only."""

    def __init__(self, network: Dinov2Model, processor: AutoImageProcessor, location: Location, settings: EncoderSettings):
        config = network.config
        preprocessing = from_image_processor(processor.to_dict())
        side = processor.to_dict().get("crop_size", {}).get("height") or config.image_size
        needs = transformer_bytes((side // config.patch_size) ** 2 + 1, config.hidden_size, side**2)
        super().__init__(network, preprocessing, location, settings, config.hidden_size, needs)

    @classmethod
    def load(cls, settings: EncoderSettings, signal: str, location: Location) -> Dinov2Encoder:
        """Raises UserError where the folder is not a DINOv2 model's or lacks a file, and for signal ``caption``."""
        cls.check(settings, signal)
        location = transformers_folder(location, FILES, PROCESSOR)
        try:
            with silence():
                return cls(
                    Dinov2Model.from_pretrained(location.path),
                    AutoImageProcessor.from_pretrained(location.path),
                    location,
                    settings,
                )
        except (OSError, ValueError) as error:
            raise load_error(str(location.path), error) from error

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.network(pixels).pooler_output
