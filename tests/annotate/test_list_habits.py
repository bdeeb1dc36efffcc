"""Pins of how models write lists without JSON, describe around a text, and refuse: read without marks, or refused."""

from __future__ import annotations

import json

import pytest

from mmret.annotate.answer_json import json_value, strings
from mmret.annotate.answer_lists import listed
from mmret.annotate.answer_text import final_text, plain
from mmret.annotate.checks import is_refusal
from mmret.annotate.parse import parse
from mmret.annotate.protocol import Answer
from tests.annotate.test_parse import ASKED, DESCRIPTION, GOOD

MARKS = (
    ["1️⃣ ", "2️⃣ ", "3️⃣ "],
    ["① ", "② ", "③ "],
    ["１．", "２．", "３．"],
    ["1、", "2、", "3、"],
    ["a) ", "b) ", "c) "],
    ["i. ", "ii. ", "iii. "],
    ["#1 ", "#2: ", "#3 "],
    ["1 - ", "2 - ", "3 - "],
    ["Q1: ", "Q2: ", "Q3: "],
    ["First: ", "Second: ", "Third: "],
    ["Step 1: ", "Step 2: ", "Step 3: "],
    ["### Instruction 1\n", "### Instruction 2\n", "### Instruction 3\n"],
    ["**Instruction 1**\n", "\n**Instruction 2**\n", "\n**Instruction 3**\n"],
    *([sign] * 3 for sign in ("✅ ", "→ ", "— ", "+ ", "-", "👉 ", "o ")),
)


@pytest.mark.parametrize("marks", MARKS, ids=repr)
@pytest.mark.parametrize("around", ["{}", "Here you are:\n\n{}", "Sure! These are they.\n{}\n\nI hope this helps!"])
def test_whatever_marks_a_list_they_are_no_part_of_its_texts(marks: list[str], around: str) -> None:
    text = around.format("\n".join(mark + each for mark, each in zip(marks, GOOD, strict=True)))
    assert parse(ASKED, Answer(text), "instructions", "English").texts == tuple(GOOD)


@pytest.mark.parametrize(
    "text",
    [
        "1. {0} 2. {1} 3. {2}",
        "(1) {0} (2) {1} (3) {2}",
        "{0}; {1}; {2}",
        "{0} | {1} | {2}",
        '"{0}", "{1}", "{2}"',
        '"{0}"; "{1}" and "{2}"',
        "{0}\n{1}\n{2}",
        "Here are the instructions:\n{0}\n{1}\n{2}",
        "| # | Instruction |\n|---|---|\n| 1 | {0} |\n| 2 | {1} |\n| 3 | {2} |",
        "<ul><li>{0}</li><li>{1}</li>\n<li>{2}</li></ul>",
        "<instruction_1>{0}</instruction_1><instruction_2>{1}</instruction_2><instruction_3>{2}</instruction_3>",
        '{{"instruction": "{0}"}}\n{{"instruction": "{1}"}}\n{{"instruction": "{2}"}}',
        '["{0}"]\n["{1}"]\n["{2}"]',
        '{{"first": "{0}", "second": "{1}", "third": "{2}"}}',
        "('{0}', '{1}', '{2}')",
        "[`{0}`, `{1}`, `{2}`]",
        "[«{0}», «{1}», «{2}»]",
        '["Here are three:", "{0}", "{1}", "{2}"]',
        '["{0}", "{1}", "{2}"]\n\nThey lead [from blue to red].',
        'I compared [source] and {{target}}:\n["{0}", "{1}", "{2}"]',
        r"[\n\"{0}\",\n\"{1}\",\n\"{2}\"\n]",
        '1. "{0}" - because it differs\n2. "{1}" (a colour)\n3. "{2}": the place',
        "1. {0}\n   - Focus: colour\n2. {1}\n   - Focus: place\n3. {2}\n   - Focus: light",
        '<think>a</think>\n<think>b</think>\n["{0}", "{1}", "{2}"]<think>c</think>',
    ],
)
def test_lists_without_json_are_read(text: str) -> None:
    assert parse(ASKED, Answer(text.format(*GOOD)), "instructions", "English").texts == tuple(GOOD)


@pytest.mark.parametrize(
    "text",
    [
        "The mug in the source is blue.\nThe table is gone.\nThere is grass now.",
        "Could you tell me more?\nWhich picture do you mean?\nShould I write in English?",
        "Okay, the user wants texts.\nThe first picture shows a mug\nThe second shows grass",
        "## Source\na blue mug\n## Target\na red mug",
        "Source: a blue mug\nTarget: a red mug\nDifference: colour",
    ],
)
def test_prose_is_no_list(text: str) -> None:
    assert strings(text) is None


@pytest.mark.parametrize(
    "wrapped",
    [
        "**Description**\n\n{}",
        "# Comparison of the images\n{}",
        "<text>{}</text>",
        "Certainly! {}",
        "{}\n\nI hope this helps! Let me know if you need more.",
        "*{}*",
        "<image>\n{}",
        "{}<eoa>",
        "<details><summary>Reasoning</summary>hm</details>\n{}",
        "Thinking Process:\n1. Look.\n\nFinal Answer: {}",
        "**Thinking**\nI see...\n\n**Answer**\n{}",
        "USER: <image>\nDescribe. ASSISTANT: {}",
        '[{{"description": "{}"}}]',
    ],
)
def test_headings_tags_and_chat_are_no_part_of_a_description(wrapped: str) -> None:
    request = ASKED._replace(kind="describe", description="")
    assert parse(request, Answer(wrapped.format(DESCRIPTION)), "description", "English").texts == (DESCRIPTION,)


def test_markup_and_escapes_within_a_description_become_what_they_stand_for() -> None:
    assert plain(r"A cup &amp; a mug.<br>Both are blue.\n\nOne is old.") == "A cup & a mug. Both are blue. One is old."


@pytest.mark.parametrize("text", ["N/A", "None", "null", "OK."])
def test_a_word_for_nothing_is_no_description(text: str) -> None:
    request = ASKED._replace(kind="describe", description="")
    assert parse(request, Answer(text), "description", "English").reason == "empty"


@pytest.mark.parametrize(
    "text",
    [
        "As a text-based AI, I cannot see: 1. a 2. b 3. c",
        "I don't see any images in your message.",
        "It seems that no images were provided.",
        "There is no image attached.",
        "Please provide the two images so that I can compare them.",
        "I won't be able to help with that.",
        "抱歉，我无法查看图片。",
    ],
)
def test_a_refusal_is_told_from_an_answer(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", ["No image of a dog, a cat instead", "please find one with the two cats", "as a drawing"])
def test_what_only_sounds_like_a_refusal_is_an_answer(text: str) -> None:
    assert not is_refusal(text)


def test_the_largest_of_several_json_values_is_the_answer() -> None:
    assert json_value('Format: {"a": 1}. Mine: {"fidelity": 4, "discretion": 5} [as asked]') == {"fidelity": 4, "discretion": 5}


def test_of_several_stretches_outside_of_thoughts_the_last_is_the_answer() -> None:
    assert final_text("<think>a</think>I look.<think>b</think>A mug.") == "A mug."
    assert final_text("<think>a</think>A mug.<think>b</think>") == "A mug."


def test_a_mark_with_nothing_behind_it_is_no_item() -> None:
    assert listed("- make it blue\n- **\n- a blue one\n- :") == ["make it blue", "a blue one"]
    assert listed("1. **\n2. make it blue\n3. a blue one") == ["make it blue", "a blue one"]


@pytest.mark.parametrize("around", ["{}", "{}.", "Here: {}", "Here: {} (done).", "```json\n{}\n```"])
@pytest.mark.parametrize("value", [[*range(3000)], {"a" * 9000: [1]}, [None, ["x" * 9000]], [[n] for n in range(100)]], ids=len)
def test_json_that_is_valid_is_read_as_it_stands_however_long_and_whatever_stands_around_it(value: object, around: str) -> None:
    assert json_value(around.format(json.dumps(value))) == value


def test_the_text_of_an_item_is_the_one_that_is_called_so_or_the_only_one() -> None:
    assert strings('[{"id": "1", "query": "make it blue"}, {"id": "2", "query": "a blue one"}]') == ["make it blue", "a blue one"]
    assert strings('[{"n": 1, "said": "make it blue"}, {"n": 2, "said": "a blue one"}]') == ["make it blue", "a blue one"]
    assert strings('[{"id": 1, "query": "make it blue", "tags": ["blue"]}]') == ["make it blue"]
    assert strings('[{"from": "red", "to": "blue"}, {"from": "a", "to": "b"}]') is None  # which of the two is not told


def test_a_few_plain_lines_are_a_list_and_many_or_long_ones_are_a_text() -> None:
    def lines(count: int, last: str = "a blue one") -> list[str]:
        return [*(f"make it blue {chr(97 + n)}" for n in range(count - 1)), last]

    assert listed("\n".join(lines(12))) == lines(12) and listed("\n".join(lines(13))) is None
    assert listed("\n".join(lines(3, "b" * 200))) == lines(3, "b" * 200) and listed("\n".join(lines(3, "b" * 201))) is None


@pytest.mark.parametrize("behind", ['\n{"n": 2}', '\nMore:\n{"n": 2}\n{"m": [1]}'])
def test_a_list_of_one_is_read_although_other_json_stands_behind_it(behind: str) -> None:
    assert strings('{"instructions": ["make it blue"]}' + behind) == ["make it blue"]


def test_a_list_of_one_whole_answer_is_that_answer() -> None:
    answer = {"description": "The target is blue.", "instructions": ["make it blue", "a blue one"]}
    assert json_value(json.dumps([answer])) == json_value(json.dumps(answer)) == answer
    assert strings(json.dumps([answer])) == strings(json.dumps(answer)) == answer["instructions"]
    assert json_value('[{"fidelity": 4, "discretion": 5}]') == {"fidelity": 4, "discretion": 5}
    assert json_value('[{"id": 1}, {"id": 2}]') == [{"id": 1}, {"id": 2}]
