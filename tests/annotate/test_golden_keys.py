"""A key is what a stored answer is found by: it must stay as it is while prompts, settings and rules do."""

from __future__ import annotations

import heapq

import pytest

from mmret.annotate import prompts
from mmret.annotate.backends.captions import CaptionsAnnotator
from mmret.annotate.backends.openai_server import OpenAIAnnotator
from mmret.annotate.compose import demonstrations_of
from mmret.annotate.protocol import Annotator, Kind, Request
from mmret.hashing import uniform
from mmret.settings import AnnotateSettings, EngineSettings

VISION = EngineSettings(model="m", revision="r", urls=("http://x/v1",))
LANGUAGE = EngineSettings(model="n", urls=("http://x/v1",), temperature=0.5)
BOTH = OpenAIAnnotator(AnnotateSettings(backend="openai", vision=VISION, language_model=LANGUAGE, judge=True))
LLM_ALONE = OpenAIAnnotator(AnnotateSettings(describe="captions", instruct="openai", language_model=LANGUAGE))
GOLDEN = {
    "describe": ("832790fcad21b648e0cb64ca19dfd7be", "ce259131105696148d0108128177a250"),
    "instruct": ("fe08a4a2c5a50c97fd87e7529ce885aa", "a8f246d8879678c586cca28fb6bdf4f8"),
    "both": ("a25ba8737b9e346b473386c063d46a05", "a34a70c4e3961d92bb50e0c209c9cf95"),
    "judge": ("b3135fd0beeda203676ee66f5c35ad7b", "554b29ceaf48a956535a297dd5eba81e"),
    "caption": ("1a14c9288baf2d62a321f8d76359de22", "d06bb5fdb4ad2ab649f4065386362b74"),
    "candidate": ("2f19abfa8c73b70316bbad9e282801c5", "c7f3cf9eeb5469df14a975004a468b3f"),
}
"""Keys of the first attempt and of one with another seed."""


def _request(kind: Kind, query: str = "small cup", target: str = "big cup", description: str = "") -> Request:
    instructions = ("make it blue", "é")
    return Request(kind, "p" * 32, "q" * 32, "t" * 32, query, target, description, 4, 3, instructions=instructions)


@pytest.mark.parametrize("kind", GOLDEN)
def test_keys_of_questions_to_models_stay(kind: Kind) -> None:
    request = _request(kind, description="Both images show {{count}}.")
    assert (BOTH.key(request), BOTH.key(request._replace(attempt=2))) == GOLDEN[kind]


@pytest.mark.parametrize(
    ("annotator", "kind", "query", "description", "key"),
    [
        (CaptionsAnnotator(), "describe", "odd", "", "0b132eb2cc88b7685cb23203945cc702"),
        (CaptionsAnnotator(), "instruct", "odd", "", "daac95312ce5dee9eee9c88b38de3e31"),
        (LLM_ALONE, "instruct", "red", "x", "69ecfd714b09d66c9aac840559a57dd0"),
    ],
)
def test_keys_of_what_goes_by_captions_stay(annotator: Annotator, kind: Kind, query: str, description: str, key: str) -> None:
    source = "A “small” red café \u2028 {{images}}"
    target = "ein \U0001f642 A big blue \ud800 cup" if query == "odd" else "big cup"
    assert annotator.key(_request(kind, source, target, description)) == key


@pytest.mark.parametrize("pair", ["a", "b", "é", "c" * 32])
def test_demonstrations_are_drawn_as_by_one_hash_at_a_time(pair: str) -> None:
    settings = AnnotateSettings(backend="openai", vision=VISION, demonstrations=7, seed=5)
    pool = prompts.demonstrations()
    request = Request("instruct", pair, "q", "t", attempt=1)
    drawn = heapq.nsmallest(7, range(len(pool)), key=lambda i: uniform("demonstration", i, 5, pair, 1))
    assert demonstrations_of(request, settings) == [pool[i] for i in drawn]
