"""An image classifier's folder (``AutoModelForImageClassification``), such as detectors of unsafe pictures: a label's probability.

Weights are read from safetensors only, and no code of the folder is run. Cost: a decode and a forward pass a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmret.devices import device_of
from mmret.encode.location import LOAD_ERRORS, complete_weights
from mmret.encode.quiet import silence
from mmret.encode.revision import folder_revision
from mmret.errors import UserError
from mmret.paths import local_path
from mmret.settings import ScorerSettings


class Classifier:
    """The probability of one label. ``model`` names folder, weights and label.

    >>> Classifier("unsafe", settings)([picture])
    """

    def __init__(self, name: str, settings: ScorerSettings):
        import torch
        from huggingface_hub.errors import StrictDataclassError
        from safetensors import SafetensorError
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        path = local_path(settings.model or "", f"scores.{name}.model")
        where: str | Path = path if path.exists() else str(settings.model)
        options = {"revision": settings.revision, "trust_remote_code": False}
        try:
            with silence():
                self._processor = AutoImageProcessor.from_pretrained(where, **options)
                found, info = AutoModelForImageClassification.from_pretrained(
                    where, use_safetensors=True, output_loading_info=True, **options
                )
        except (*LOAD_ERRORS, SafetensorError, StrictDataclassError) as error:
            said = next(iter(str(error).splitlines()), type(error).__name__)[:300]
            raise UserError(
                f"scores.{name}.model: {where} cannot be read as an image classifier ({said}); it needs config.json, "
                "preprocessor_config.json and model.safetensors, each whole"
            ) from None
        try:
            complete_weights(str(where), info)
        except UserError as error:
            raise UserError(f"scores.{name}.model: {error}: a model that was not trained as a classifier has no head") from None
        labels = {str(label): int(at) for at, label in found.config.id2label.items()}
        by_name = {label.casefold(): at for label, at in labels.items()}
        if (settings.label or "").casefold() not in by_name:
            raise UserError(f"scores.{name}.label: {where} has no label {settings.label!r}; it has {', '.join(labels)}")
        self._at = by_name[str(settings.label).casefold()]
        self._several = found.config.problem_type == "multi_label_classification"
        self._device = device_of(settings.device, f"scores.{name}.device")
        self._model, self._torch = found.eval().to(self._device), torch
        revision = folder_revision(path) if path.exists() else settings.revision
        self.model = f"{path.name if path.exists() else settings.model}@{revision}#{settings.label}"

    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """(n,) float32 in 0 to 1 of RGB pictures."""
        pixels = self._processor(images=list(pictures), return_tensors="pt")["pixel_values"].to(self._device)
        with self._torch.inference_mode():
            logits = self._model(pixel_values=pixels).logits.float()
        found = logits.sigmoid() if self._several else logits.softmax(-1)
        return found[:, self._at].cpu().numpy()
