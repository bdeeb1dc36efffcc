"""Settings of captions that no person wrote: where they come from, and which of those there are are too poor to keep."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from mmret.settings.annotation import AnnotateSettings, EngineSettings
from mmret.settings.base import Settings


class PoorCaptions(Settings):
    """Captions of a source that a model writes anew; the old one is kept beside the new."""

    min_words: int = Field(3, ge=0, description="fewer words are too few; two signs of a script without spaces count as a word")
    names: bool = Field(True, description="a caption that is no more than the picture's file name is poor")
    patterns: tuple[str, ...] = Field((), description="regular expressions; a caption in which one is found is poor, in any case")

    @field_validator("patterns")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        if not patterns:
            return patterns
        import regex  # not for those without patterns

        for pattern in patterns:
            try:
                regex.compile(pattern, regex.I)  # with which they are looked for: it has signs that `re` lacks, such as \p{L}
            except regex.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns


class CaptionSettings(Settings):
    """``names``: a picture without a caption takes what its file, its file name or its folder's name says; ``model``: a
    vision-language model writes it; ``reject``: the picture is not used."""

    missing: Literal["names", "model", "reject"] = "names"
    embedded: bool = Field(True, description="a description in the file itself (XMP, IPTC, EXIF, PNG) comes before names and model")
    poor: PoorCaptions | None = Field(None, description="captions that the model writes anew; None: those given are kept")
    engine: EngineSettings | None = Field(None, description="the vision-language model; None: annotate.vision")
    backend: Literal["openai", "vllm"] | None = Field(None, description="None: that of annotate, or openai where rules write there")

    @property
    def asks_model(self) -> bool:
        """Whether a model writes captions."""
        return self.missing == "model" or self.poor is not None


class CaptioningSettings(AnnotateSettings):
    """Settings of annotation with which the back-ends are asked for captions; built by :func:`captioning`."""

    named: str = "annotate.vision"

    @property
    def vision_setting(self) -> str:
        return self.named


def captioning(captions: CaptionSettings, annotate: AnnotateSettings) -> CaptioningSettings:
    """How the model that writes captions is asked: language, seed, attempts and retries are those of annotation.

    Raises ValueError where no model is named.
    """
    engine = captions.engine or annotate.vision
    if engine is None:
        wanted = "captions.missing=model" if captions.missing == "model" else "captions.poor"
        raise ValueError(f"captions: {wanted} needs captions.engine.model, the vision-language model that writes captions")
    backend = captions.backend or (annotate.describer if annotate.describer != "captions" else "openai")
    kept = annotate.model_dump(include={"seed", "language", "attempts", "retries"})
    return CaptioningSettings(
        backend=backend, vision=engine, named="captions.engine" if captions.engine else "annotate.vision", **kept
    )
