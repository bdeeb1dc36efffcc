"""Which kinds of request fill which table, and which model answers each: the only place where this is decided.

Descriptions and instructions are two requests a pair. With ``annotate.one_step`` a model writes both texts in one answer, kind
``both``, and with ``annotate.judge`` a further request scores the instructions. Back-ends without a model know neither. Costs
nothing.
"""

from __future__ import annotations

from typing import Literal

from mmret.annotate.protocol import Annotator, Kind
from mmret.settings import AnnotateSettings, EngineSettings

AnnotationTable = Literal["descriptions", "instructions"]


def request_kind(table: AnnotationTable, settings: AnnotateSettings, annotator: Annotator) -> Kind:
    """The kind of request whose answers fill ``table``.

    >>> request_kind("instructions", AnnotateSettings(), CaptionsAnnotator())
    'instruct'
    """
    if settings.one_step and annotator.uses_model:
        return "both"
    return "describe" if table == "descriptions" else "instruct"


def uses_judge(settings: AnnotateSettings, annotator: Annotator) -> bool:
    """Whether instructions are scored by a further request."""
    return settings.judge and annotator.uses_model


def request_kinds(settings: AnnotateSettings, annotator: Annotator) -> list[Kind]:
    """The kinds of request that one pair takes, in the order they are sent."""
    kinds: list[Kind] = [request_kind(table, settings, annotator) for table in ("descriptions", "instructions")]
    if uses_judge(settings, annotator):
        kinds.append("judge")
    return list(dict.fromkeys(kinds))


def engine_of(kind: Kind, settings: AnnotateSettings) -> EngineSettings:
    """The model that answers ``kind``: the language model writes instructions, the vision model does the rest."""
    engine = settings.language_model if kind == "instruct" and settings.language_model else settings.vision
    assert engine is not None  # the settings' own validator sees to it
    return engine


def engine_setting(kind: Kind, settings: AnnotateSettings) -> str:
    """The name of the settings that :func:`engine_of` returns, as a person writes it."""
    return "annotate.language_model" if kind == "instruct" and settings.language_model else "annotate.vision"
