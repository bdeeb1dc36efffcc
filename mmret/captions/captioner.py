"""The back-end that writes captions, how it is asked, and what its captions depend on. Loads no library before it is used."""

from __future__ import annotations

from typing import Any

from mmret.annotate.backends.load import BACKENDS, sampling_settings
from mmret.annotate.parse import MODEL_PARSER_VERSION
from mmret.annotate.protocol import Annotator
from mmret.settings import CaptioningSettings, Profile, captioning

FINDER_VERSION = "1"
"""Of what finds captions in files and names; raised where it finds others."""


def load_captioner(settings: CaptioningSettings) -> Annotator:
    """The back-end that writes captions."""
    return BACKENDS[settings.backend](settings)


def captioning_of(profile: Profile) -> CaptioningSettings:
    """How the model is asked; the profile's validator has seen to it that one is named."""
    return captioning(profile.captions, profile.annotate)


def caption_settings(profile: Profile) -> dict[str, Any]:
    """What written captions depend on besides the manifest: part of the partition's fingerprint."""
    settings = profile.captions
    parts: dict[str, Any] = settings.model_dump(include={"missing", "embedded", "poor"}) | {"finder": FINDER_VERSION}
    if settings.asks_model:
        asked = captioning_of(profile)
        captioner = load_captioner(asked)
        parts |= {
            "prompt": captioner.prompt_version("caption"),
            "parser": MODEL_PARSER_VERSION,
            "model": captioner.model_for("caption"),
            "sampling": sampling_settings("caption", asked),
            "asked": asked.model_dump(include={"language", "seed", "attempts"}),
        }
    return parts
