"""Which kinds of request fill which table, and which back-end and model answer each: the only place where this is decided.

Descriptions and instructions are two requests a pair, each to the back-end of its step. With ``annotate.one_step`` a model writes
both texts in one answer, kind ``both``, and with ``annotate.judge`` a further request scores the instructions. Back-ends without a
model know neither. Costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from mmret.annotate.protocol import Annotator, Kind
from mmret.settings import AnnotateSettings, BackEnd, EngineSettings

AnnotationTable = Literal["descriptions", "instructions"]
TABLES: tuple[AnnotationTable, AnnotationTable] = ("descriptions", "instructions")
"""In the order they are filled in."""


def backend_of(table: AnnotationTable, settings: AnnotateSettings) -> BackEnd:
    """The back-end that writes the texts of ``table``."""
    return settings.describer if table == "descriptions" else settings.instructor


def table_of(kind: Kind) -> AnnotationTable:
    """The table whose step sends requests of ``kind``; those of ``both`` are sent for the descriptions."""
    return "descriptions" if kind in ("describe", "both") else "instructions"


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


def request_kinds(settings: AnnotateSettings, annotators: Mapping[AnnotationTable, Annotator]) -> list[Kind]:
    """The kinds of request that one pair takes, in the order they are sent. ``annotators``: of each step."""
    kinds: list[Kind] = [request_kind(table, settings, annotators[table]) for table in TABLES]
    if uses_judge(settings, annotators["instructions"]):
        kinds.append("judge")
    return list(dict.fromkeys(kinds))


def engine_of(kind: Kind, settings: AnnotateSettings) -> EngineSettings:
    """The model that answers ``kind``: the language model writes instructions, the vision model does the rest."""
    engine = settings.language_model if kind == "instruct" and settings.language_model else settings.vision
    assert engine is not None  # the settings' own validator sees to it
    return engine


def engine_asked(table: AnnotationTable, settings: AnnotateSettings) -> EngineSettings | None:
    """The model whose answers fill ``table``; None where rules write them."""
    if backend_of(table, settings) == "captions":
        return None
    return engine_of("both" if settings.one_step else "describe" if table == "descriptions" else "instruct", settings)


def prompt_name(kind: Kind, settings: AnnotateSettings) -> str:
    """The prompt that asks for ``kind``. An LLM whose descriptions rules wrote, which see captions alone, reads the captions too.

    >>> prompt_name("instruct", AnnotateSettings(instruct="openai", language_model=EngineSettings(model="m")))
    'instruct_captions'
    """
    return "instruct_captions" if kind == "instruct" and settings.describer == "captions" else kind


def engine_setting(kind: Kind, settings: AnnotateSettings) -> str:
    """The name of the settings that :func:`engine_of` returns, as a person writes it."""
    return "annotate.language_model" if kind == "instruct" and settings.language_model else settings.vision_setting
