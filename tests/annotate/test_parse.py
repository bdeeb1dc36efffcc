"""Pins of the parser: one reason code for each way an answer can be unusable, tolerance where it is well meant."""

from __future__ import annotations

import json

import pytest

from mmret.annotate.checks import in_wrong_language, tells_source
from mmret.annotate.parse import Part, parse
from mmret.annotate.protocol import Answer, Request

DESCRIPTION = (
    "Both images show a mug on a table. However, the Source Image has a white porcelain mug with rising steam, "
    "whereas the Target Image has a blue mug beside a spoon."
)
ASKED = Request(
    "instruct",
    "p",
    "a",
    "b",
    "a white porcelain mug with steam on a table",
    "a blue mug beside a spoon on a table",
    DESCRIPTION,
)
CHINESE = json.dumps(["把它变成蓝色", "同样的,但是蓝色", "蓝色的,旁边有勺子"], ensure_ascii=False)
GOOD = ["make it blue", "the same one in blue, with a spoon", "replace the white porcelain with blue"]


def _reason(text: str, want: Part = "instructions", finish: str = "stop", language: str = "English") -> str:
    request = ASKED if want == "instructions" else ASKED._replace(kind="describe", description="")
    return parse(request, Answer(text, finish), want, language).reason


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        json.dumps({"instructions": GOOD}),
        json.dumps({"queries": GOOD, "n": 3}),
        f"Here you are:\n```json\n{json.dumps(GOOD)}\n```\nGood luck!",
        f"Sure! {json.dumps({'instructions': GOOD})} I hope it helps.",
        "<think>a [list] of {things}</think>\n" + json.dumps(GOOD),
        "\n".join(f"{i}. {t}" for i, t in enumerate(GOOD, 1)),
        "\n".join(f"- {t}" for t in GOOD),
        json.dumps([*GOOD, GOOD[0] + ".", "  "]),
    ],
)
def test_well_meant_answers_are_read(text: str) -> None:
    assert parse(ASKED, Answer(text), "instructions", "English").texts == tuple(GOOD)


@pytest.mark.parametrize(
    "text, finish, reason",
    [
        ("", "stop", "empty"),
        (" \n", "stop", "empty"),
        ("<think>hm</think>", "stop", "empty"),
        ('["make it blue", "the sa', "length", "truncated"),
        ("x", "content_filter", "refusal"),
        ("I'm sorry, but I cannot help with that request.", "stop", "refusal"),
        ("I can’t identify people in images.", "stop", "refusal"),
        ("As an AI language model, I do not see pictures.", "stop", "refusal"),
        ("make it blue", "stop", "not_json"),
        ('["make it blue", ', "stop", "too_few"),
        ('{"instructions": "make it blue"}', "stop", "not_json"),
        ("[1, 2, 3]", "stop", "not_json"),
        ("[" * 5000, "stop", "not_json"),
        ("x" * 30_000, "stop", "too_long"),
        (json.dumps(GOOD[:2]), "stop", "too_few"),
        (json.dumps([GOOD[0], "Make it blue.", "make it BLUE!"]), "stop", "duplicate"),
        (json.dumps(["mach es blau und leg einen Löffel daneben", "die gleiche Tasse in blau und mit einem Löffel",
                     "eine blaue anstatt der weißen"]), "stop", "wrong_language"),
        (CHINESE, "stop", "wrong_language"),
        (json.dumps(["a white porcelain mug", "porcelain with rising steam", "the same white one with steam"]), "stop",
         "leaked_source"),
        (json.dumps([ASKED.target_caption, "on a table a blue mug beside a spoon",
                     "beside a spoon a mug on a blue table"]), "stop", "copied_caption"),
    ],
)  # fmt: skip
def test_each_unusable_answer_has_its_reason(text: str, finish: str, reason: str) -> None:
    assert _reason(text, finish=finish) == reason


def test_one_leaking_instruction_among_enough_others_is_left_out() -> None:
    texts = parse(ASKED, Answer(json.dumps([*GOOD, "a white porcelain mug"])), "instructions", "English").texts
    assert texts == tuple(GOOD)


def test_one_copied_caption_among_good_texts_is_left_out_and_counts_for_none() -> None:
    for caption in (ASKED.query_caption, ASKED.target_caption):
        texts = parse(ASKED, Answer(json.dumps([*GOOD, caption])), "instructions", "English").texts
        assert texts == tuple(GOOD)
        assert _reason(json.dumps([*GOOD[:2], caption])) == "leaked_source"


def test_a_back_ends_own_reason_and_a_transport_error_are_kept() -> None:
    assert _reason("", finish="identical_captions") == "identical_captions"
    assert parse(ASKED, Answer(error="timeout"), "instructions").reason == "timeout"


@pytest.mark.parametrize(
    "text, reason",
    [
        (DESCRIPTION, ""),
        ('"' + DESCRIPTION + '"', ""),
        ("I cannot compare these pictures.", "refusal"),
        (ASKED.query_caption, "copied_caption"),
        ("Auf beiden Bildern ist eine Tasse zu sehen und auf dem Tisch liegt ein Löffel, aber nicht gleich.",
         "wrong_language"),
    ],
)  # fmt: skip
def test_descriptions(text: str, reason: str) -> None:
    assert _reason(text, "description") == reason


def test_other_languages_are_taken_where_they_are_asked_for() -> None:
    assert _reason(CHINESE, language="Chinese") == "" and _reason(json.dumps(GOOD), language="Chinese") == "wrong_language"
    assert _reason(CHINESE, language="Klingon") == ""  # not known here: not judged


@pytest.mark.parametrize("text", ["make it blue", "no steam", "with a spoon", "OK", "12 34", "un café à emporter", "Qipao"])
def test_short_english_is_never_called_foreign(text: str) -> None:
    assert not in_wrong_language(text, "English")


@pytest.mark.parametrize(
    "text, leak",
    [("a white porcelain mug", True), ("change the white porcelain to blue", False),
     ("a blue mug beside a spoon", False), ("blue instead of white porcelain", False),
     ("without the rising steam", False), ("a mug on a table", False)],
)  # fmt: skip
def test_a_leak_is_source_detail_outside_an_edit(text: str, leak: bool) -> None:
    assert tells_source(text, DESCRIPTION, "English") is leak


@pytest.mark.parametrize(
    "text, scores",
    [('{"fidelity": 4, "discretion": 5}', (4, 5)), ('so: {"fidelity": "2", "discretion": 1}.', (2, 1)),
     ('{"fidelity": 9, "discretion": 1}', None), ("[4, 5]", None), ("good", None),
     ('{"fidelity": null, "discretion": 1}', None), ('{"fidelity": 1e999, "discretion": 1}', None)],
)  # fmt: skip
def test_scores(text: str, scores: tuple[int, int] | None) -> None:
    assert parse(ASKED._replace(kind="judge"), Answer(text), "scores", "English").scores == scores
