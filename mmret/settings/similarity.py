"""Settings of the models whose vectors say which pictures are alike: the encoders, and the towers a lake trains itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmret.settings.base import Settings

Pooling = Literal["class_token", "mean", "pooler", "projection"]
"""How the tokens of a vision tower become one vector (:mod:`mmret.encode.pooling`)."""


Engine = Literal["torch", "onnxruntime", "openvino"]
"""What computes a forward pass (:mod:`mmret.encode.engines`)."""

Precision = Literal["float32", "mixed"]
"""In which numbers: ``mixed`` takes bfloat16 for the products of every second MLP (:mod:`mmret.encode.engines.bfloat16`)."""


class EncoderSettings(Settings):
    """One similarity model. ``kind`` names an implementation in :mod:`mmret.encode`."""

    kind: Literal["clip", "open_clip", "siglip", "dinov2", "dinov3", "vision", "sentence_transformers", "tfidf"]
    model: str = Field(description="name on a hub, local folder, or towers/<name> for one trained by the lake itself")
    revision: str | None = None
    pooling: Pooling | None = Field(
        None, description="kinds vision and dinov3: what becomes the vector; None: the only sensible answer, where there is one"
    )
    prompt_name: str | None = Field(
        None, description="kind sentence_transformers: one of the model's own prompts; None: its default, if it has one"
    )
    prompt: str | None = Field(None, description="kind sentence_transformers: a text set before each caption")
    engine: Engine = Field(
        "torch", description="what computes the forward pass; the others on a CPU, each with the extra of docs/encoders.md"
    )
    precision: Precision = Field(
        "float32", description="of the forward pass under engine openvino; mixed: products of every second MLP in bfloat16"
    )
    batch_size: int | None = Field(None, description="None: chosen to fit memory")
    device: str = "auto"

    @model_validator(mode="after")
    def _of_this_kind(self) -> EncoderSettings:
        for name, kinds in _ONLY_FOR.items():
            if getattr(self, name) is not None and self.kind not in kinds:
                raise ValueError(f"{name} is a setting of kind {' and '.join(kinds)}, and the kind is {self.kind}: leave it out")
        if self.prompt is not None and self.prompt_name is not None:
            raise ValueError("prompt and prompt_name say the same twice: give one of them")
        if self.engine != "torch" and self.kind == "tfidf":
            raise ValueError(f"engine {self.engine} is for networks, and kind tfidf has none: leave engine out")
        if self.engine != "torch" and self.device not in ("auto", "cpu"):
            raise ValueError(f"engine {self.engine} computes on the CPU, and device is {self.device}: leave one of them out")
        if self.precision != "float32" and self.engine != "openvino":
            raise ValueError(f"precision {self.precision} is of engine openvino, and engine is {self.engine}: leave precision out")
        return self

    @property
    def compares_words(self) -> bool:
        """Whether it compares captions by their words and so cannot read an instruction."""
        return self.kind == "tfidf"


_ONLY_FOR = {"pooling": ("vision", "dinov3"), "prompt_name": ("sentence_transformers",), "prompt": ("sentence_transformers",)}


class TowerSettings(Settings):
    """Tiny CLIP and DINOv2-shaped towers trained on the corpus itself (profile ``demo``); not in the paper."""

    image_size: int = 48
    patch_size: int = 8
    width: int = 96
    layers: int = 3
    heads: int = 4
    vocabulary: int = Field(4096, ge=514, description="entries of the byte-level tokenizer, at most")
    projection: int = 64
    epochs: int = Field(3, description="of contrastive image-caption pre-training, for a corpus of plain captions")
    dino_epochs: int = 1
    max_richness: float = Field(5.0, ge=1, description="up to so many times the epochs where captions use more words")
    min_steps: int = Field(150, ge=1, description="for a small corpus")
    max_images: int = Field(20_000, description="corpus rows used, the lowest image ids first")
    max_steps: int | None = None
    batch_size: int = Field(64, ge=2, description="small on purpose: more steps for the same work")
    learning_rate: float = 1e-3
    matrix_learning_rate: float | None = Field(
        3e-3, gt=0, description="of Muon, for the matrices inside the blocks; None: AdamW trains everything"
    )
    seed: int = 0
