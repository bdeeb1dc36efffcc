"""Any vision tower of transformers with a named pooling (kind ``vision``), and DINOv3 (kind ``dinov3``): pictures only.

A tower is what ``AutoModel`` loads, ViT, DINOv2 with registers, DINOv3 as ViT and as ConvNeXt, Swin, BEiT, I-JEPA, the vision
towers of CLIP and SigLIP, ConvNeXt, ResNet, models of timm, or the image side of a model of two towers. All is computed in float32.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel

from mmret.devices import device_of
from mmret.encode.base import TorchEncoder, transformer_bytes
from mmret.encode.location import PROCESSOR, Location, complete_weights, configuration, loading, require, transformers_folder
from mmret.encode.pixels import from_processor, probe
from mmret.encode.pooling import poolings
from mmret.errors import UserError
from mmret.settings import EncoderSettings

FILES = ("*.json",)
_UNUSED = ("pooler", "mask_token", "text_model")  # what may be missing: not offered, not called
_PATCH = 16  # assumed for the memory of networks whose last output is coarser than their first


class VisionEncoder(TorchEncoder):
    """A vision tower and how its tokens become one vector."""

    types: ClassVar[tuple[str, ...]] = ()
    """Model types of this kind, by config.json; empty: any."""

    def __init__(self, network: nn.Module, processor: Any, missing: set[str], location: Location, settings: EncoderSettings):
        preprocessing = from_processor(processor)
        device = device_of(settings.device, "encoders.*.device")
        network = network.eval().to(device)
        pixels = preprocessing.normalise(preprocessing.pixels(probe())[None].to(device))
        found = poolings(network, pixels, missing)
        pooling = found.choose(settings.pooling)
        self._run = getattr(network, "get_image_features", network)
        self._pool = found.offered[pooling]
        with torch.inference_mode():
            width = self._vectors(pixels).shape[1]
        side = max(pixels.shape[2:])
        needs = transformer_bytes((side // _PATCH) ** 2 + 1, width, side**2)
        super().__init__(network, preprocessing, location, settings, width, needs, [pooling])

    @classmethod
    def load(cls, settings: EncoderSettings, signal: str, location: Location) -> VisionEncoder:
        """Raises UserError where the folder is not such a model's or lacks a file, where the pooling is none that it offers or has
        to be chosen, and for signal ``caption``."""
        cls.check(settings, signal)
        location = transformers_folder(location, FILES)
        config = configuration(location.path)
        if "pretrained_cfg" not in config:  # in which timm's models have their preprocessing
            require(location.path, PROCESSOR)
        kind = config.get("model_type")
        if cls.types and kind not in cls.types:
            raise UserError(
                f"the model '{location.path}' could not be loaded: config.json is of a model '{kind}', and kind "
                f"{settings.kind} is for {' and '.join(cls.types)}; kind vision takes any"
            )
        with loading(location):
            network, info = AutoModel.from_pretrained(location.path, dtype=torch.float32, output_loading_info=True)
            missing = complete_weights(str(location.path), info, _UNUSED)
            processor = AutoImageProcessor.from_pretrained(location.path, backend="pil")
            try:
                return cls(network, processor, missing, location, settings)
            except UserError as error:
                raise UserError(f"the model '{location.name}' of encoders.{signal}: {error}") from None

    def _vectors(self, pixels: Tensor) -> Tensor:
        return self._pool(self._run(pixel_values=pixels))

    def image_features(self, pixels: Tensor) -> Tensor:
        return self._vectors(pixels)


class Dinov3Encoder(VisionEncoder):
    """DINOv3, as ViT and as ConvNeXt: the class token, which in a ConvNeXt is the mean of the last map after the norm."""

    types = ("dinov3_vit", "dinov3_convnext")
