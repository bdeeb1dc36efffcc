"""From settings to a back-end. A back-end's own libraries are imported when it is chosen."""

from __future__ import annotations

from collections.abc import Callable

from mmret.annotate.protocol import Annotator
from mmret.settings import AnnotateSettings


def _captions(settings: AnnotateSettings) -> Annotator:
    from mmret.annotate.captions import CaptionsAnnotator

    return CaptionsAnnotator()


def _openai(settings: AnnotateSettings) -> Annotator:
    from mmret.annotate.openai_server import OpenAIAnnotator

    return OpenAIAnnotator(settings)


def _vllm(settings: AnnotateSettings) -> Annotator:
    from mmret.annotate.vllm_engine import VLLMAnnotator

    return VLLMAnnotator(settings)


BACKENDS: dict[str, Callable[[AnnotateSettings], Annotator]] = {
    "captions": _captions,
    "openai": _openai,
    "vllm": _vllm,
}


def load_annotator(settings: AnnotateSettings) -> Annotator:
    """The back-end that ``settings.backend`` names."""
    return BACKENDS[settings.backend](settings)
