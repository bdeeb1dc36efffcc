"""Loads the back-end that the settings name, and says which settings its rows depend on.

A new back-end is a line of ``BACKENDS``. Its libraries are imported when it is chosen, so loading costs nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmret.annotate.kinds import TABLES, AnnotationTable, backend_of, engine_of, request_kind, uses_judge
from mmret.annotate.parse import parser_version
from mmret.annotate.protocol import Annotator, Kind
from mmret.errors import UserError
from mmret.settings import AnnotateSettings

_NOT_IN_ROWS = {
    "urls",
    "api_key_variable",
    "concurrency",
    "timeout_s",
    "deadline_s",
    "tries",
    "max_answer_bytes",
    "engine",
    "price_in",
    "price_out",
}
"""Settings of an engine that change no answer: addresses, time limits, number of tries, prices."""


def _captions(settings: AnnotateSettings) -> Annotator:
    from mmret.annotate.backends.captions import CaptionsAnnotator

    return CaptionsAnnotator(settings.wordings == "varied")


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
"""Back-ends by the name that settings ``annotate.backend``, ``.describe`` and ``.instruct`` give them."""


def load_annotator(settings: AnnotateSettings, table: AnnotationTable) -> Annotator:
    """The back-end that ``settings`` name for the texts of ``table``.

    >>> load_annotator(AnnotateSettings(), "descriptions").model_for("describe")
    'captions@4'
    """
    return BACKENDS[backend_of(table, settings)](settings)


def load_annotators(settings: AnnotateSettings) -> dict[AnnotationTable, Annotator]:
    """The back-end of each step; one object where both have the same."""
    loaded = {name: BACKENDS[name](settings) for name in {backend_of(table, settings) for table in TABLES}}
    return {table: loaded[backend_of(table, settings)] for table in TABLES}


def load_candidate_judge(settings: AnnotateSettings) -> Annotator:
    """The back-end that judges candidates, by the VLM of ``settings``. Raises UserError where they name none."""
    if settings.vision is None:
        raise UserError(
            "judging candidates needs a vision-language model: name it in annotate.vision.model, and its server in "
            "annotate.vision.urls or annotate.judge_backend=vllm"
        )
    return BACKENDS[settings.candidate_judge](settings)


def sampling_settings(kind: Kind, settings: AnnotateSettings) -> dict[str, Any]:
    """The settings of the model that answers ``kind`` which its answers depend on."""
    return engine_of(kind, settings).model_dump(exclude=_NOT_IN_ROWS)


def fingerprint_settings(settings: AnnotateSettings, table: AnnotationTable) -> dict[str, Any]:
    """What the rows of ``table`` depend on besides the tables they are computed from: versions of prompt and parser, the model and
    its sampling. It is part of the partition's fingerprint.

    Addresses, numbers of tries and prices are not in it, and what only the instructions depend on is not in that of the
    descriptions.
    """
    annotator = load_annotator(settings, table)
    kind = request_kind(table, settings, annotator)
    parts: dict[str, Any] = {
        "prompt": annotator.prompt_version(kind),
        "parser": parser_version(annotator.uses_model),
        "seed": settings.seed,
        "model": annotator.model_for(kind),
    }
    if kind != "describe":
        parts["count"] = settings.instructions_per_pair
    if not annotator.uses_model:
        return parts
    parts["sampling"] = sampling_settings(kind, settings)
    parts["asked"] = settings.model_dump(include={"language", "words", "attempts"})
    if table == "instructions" and uses_judge(settings, annotator):
        parts["judge"] = [annotator.prompt_version("judge"), annotator.model_for("judge"), settings.judge_minimum]
    return parts
