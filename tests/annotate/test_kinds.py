"""Which requests fill which table: one answer for both tables only where a model writes it and the settings ask for it."""

from __future__ import annotations

import pytest

from mmret.annotate.backends.load import load_annotators
from mmret.annotate.kinds import TABLES, request_kind, request_kinds
from mmret.settings import AnnotateSettings, EngineSettings

MODEL = {"backend": "openai", "vision": EngineSettings(model="m")}


@pytest.mark.parametrize(
    "settings, kinds",
    [
        ({}, ["describe", "instruct"]),
        ({"one_step": True, "judge": True}, ["describe", "instruct"]),
        (MODEL, ["describe", "instruct"]),
        (MODEL | {"judge": True}, ["describe", "instruct", "judge"]),
        (MODEL | {"one_step": True}, ["both"]),
        (MODEL | {"one_step": True, "judge": True}, ["both", "judge"]),
    ],
)
def test_only_a_model_writes_both_texts_in_one_answer_or_is_judged(settings: dict, kinds: list[str]) -> None:
    chosen = AnnotateSettings(**settings)
    annotators = load_annotators(chosen)
    assert request_kinds(chosen, annotators) == kinds
    tables = [request_kind(table, chosen, annotators[table]) for table in TABLES]
    assert tables == (kinds[:2] if "both" not in kinds else ["both", "both"])
