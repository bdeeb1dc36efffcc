"""Settings of scores of pictures: what computes each, and between which values a picture is used."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmret.settings.base import Settings


class ScorerSettings(Settings):
    """One score (table ``scores``). Outside of ``minimum`` and ``maximum`` a picture is kept out of pairs; it stays in the lake."""

    kind: Literal["measured", "head", "classifier"] = Field(
        "measured", description="from the pixels; a head on the clip_image vectors; an image classifier's folder"
    )
    measure: Literal["sharpness", "brightness", "contrast", "side", "aspect"] | None = Field(
        None, description="kind measured: which"
    )
    model: str | None = Field(None, description="head: a .safetensors file; classifier: a folder, or a name on a hub")
    revision: str | None = None
    label: str | None = Field(None, description="classifier: the label whose probability is the score")
    column: int = Field(0, ge=0, description="head: which of its outputs")
    activation: Literal["none", "relu"] = Field(
        "none", description="head: between its layers; LAION's aesthetic predictor has none"
    )
    output: Literal["value", "sigmoid", "softmax"] = Field("value", description="head: what is made of its output")
    minimum: float | None = None
    maximum: float | None = None
    batch_size: int = Field(32, ge=1)
    device: str = "auto"

    @model_validator(mode="after")
    def _of_this_kind(self) -> ScorerSettings:
        needed = {"measured": ("measure",), "head": ("model",), "classifier": ("model", "label")}[self.kind]
        if missing := [name for name in needed if getattr(self, name) is None]:
            raise ValueError(f"a scorer of kind {self.kind} needs {' and '.join(missing)}")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}: no picture would be used")
        return self
