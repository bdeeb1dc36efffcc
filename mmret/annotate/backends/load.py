"""From settings to a back-end, and to what its rows depend on.

A back-end's own libraries are imported when it is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from mmret.annotate.compose import engine_of
from mmret.annotate.parse import PARSER_VERSION
from mmret.annotate.protocol import Annotator, Kind
from mmret.settings import AnnotateSettings

_TRANSPORT = {
    "urls",
    "api_key_variable",
    "concurrency",
    "timeout_s",
    "deadline_s",
    "tries",
    "max_answer_bytes",
    "engine",
}
_TRANSPORT |= {"price_in", "price_out"}


def _captions(settings: AnnotateSettings) -> Annotator:
    from mmret.annotate.backends.captions import CaptionsAnnotator

    return CaptionsAnnotator()


def _openai(settings: AnnotateSettings) -> Annotator:
    from mmret.annotate.backends.openai_server import OpenAIAnnotator

    return OpenAIAnnotator(settings)


def _vllm(settings: AnnotateSettings) -> Annotator:
    from mmret.annotate.backends.vllm_engine import VLLMAnnotator

    return VLLMAnnotator(settings)


BACKENDS: dict[str, Callable[[AnnotateSettings], Annotator]] = {
    "captions": _captions,
    "openai": _openai,
    "vllm": _vllm,
}


def load_annotator(settings: AnnotateSettings) -> Annotator:
    """The back-end that ``settings.backend`` names."""
    return BACKENDS[settings.backend](settings)


def depends_on(settings: AnnotateSettings, table: Literal["descriptions", "instructions"]) -> dict[str, Any]:
    """All that the rows of ``table`` depend on besides their inputs, for a fingerprint: versions of prompt and parser,
    the model and its sampling.

    Where a server stands, how often it is asked and what it costs are not in it, and a prompt or setting of the
    instructions is not in that of the descriptions.
    """
    annotator = load_annotator(settings)
    first: Kind = "describe" if table == "descriptions" else "instruct"
    kind: Kind = "both" if settings.one_step and annotator.sampled else first
    found: dict[str, Any] = {
        "prompt": annotator.prompt_version(kind),
        "parser": PARSER_VERSION,
        "seed": settings.seed,
        "model": annotator.model_for(kind),
    }
    if kind != "describe":
        found["count"] = settings.instructions_per_pair
    if not annotator.sampled:
        return found
    found["sampling"] = engine_of(kind, settings).model_dump(exclude=_TRANSPORT)
    found["asked"] = settings.model_dump(include={"language", "words", "attempts"})
    if table == "instructions" and settings.judge:
        found["judge"] = [annotator.prompt_version("judge"), annotator.model_for("judge"), settings.judge_minimum]
    return found
