"""Pins of what makers of models and servers put around an answer: none of it is stored as text, and none of it costs the answer."""

from __future__ import annotations

import json
import time

import pytest

from mmret.annotate.answer_json import strings
from mmret.annotate.answer_text import final_text, plain, plain_item
from mmret.annotate.backends.captions import CaptionsAnnotator
from mmret.annotate.backends.load import fingerprint_settings
from mmret.annotate.finish import finish_kind
from mmret.annotate.parse import parse
from mmret.annotate.protocol import Answer, Request
from mmret.settings import AnnotateSettings
from tests.annotate.test_parse import ASKED, DESCRIPTION, GOOD

DESCRIBE = ASKED._replace(kind="describe", description="")
D = DESCRIPTION
L = json.dumps({"instructions": GOOD})


@pytest.mark.parametrize(
    "wrapped",
    [
        "<think>{{hm}} [1]</think>\n{}",
        "I compare [both].\n</think>\n\n{}",
        "<think>\n\n</think>{}",
        "<thinking>hm</thinking>{}",
        "<Thought>hm</Thought>\n{}",
        "<reasoning>hm</reasoning>\n<answer>{}</answer>",
        "<think>a <think> b</think> c</think>{}",
        "{}\n<think>late</think>",
        "◁think▷hm◁/think▷{}",
        "[THINK]hm[/THINK]{}",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
        "<|channel|>final <|constrain|>json<|message|>{}",
        "analysisWe have two pictures.assistantfinal{}",
        "<|begin_of_thought|>hm<|end_of_thought|><|begin_of_solution|>{}<|end_of_solution|>",
        "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>{}<|END_RESPONSE|>",
        "<unused94>thought\nhm<unused95>{}",
        "<seed:think>hm</seed:think>{}",
        "<think>hm</think><|begin_of_box|>{}<|end_of_box|>",
        "{}<|im_end|>\n<|im_start|>user\nand now?",
        "<|im_start|>assistant\n{}</s>",
        "USER: look ASSISTANT: no\nASSISTANT: {}",
        "{}<end_of_turn>",
        "{}<｜end▁of▁sentence｜>",
    ],
)
def test_thoughts_channels_boxes_and_turns_are_no_part_of_a_text(wrapped: str) -> None:
    assert parse(DESCRIBE, Answer(wrapped.format(D)), "description", "English").texts == (D,)
    assert parse(ASKED, Answer(wrapped.format(L)), "instructions", "English").texts == tuple(GOOD)


@pytest.mark.parametrize("text", ["<think>I look at", "<|channel|>analysis<|message|>I look at", "[THINK]hm", "◁think▷hm"])
def test_a_thought_that_never_ends_is_no_answer(text: str) -> None:
    assert parse(DESCRIBE, Answer(text), "description", "English") == ((), "empty", None)


@pytest.mark.parametrize(
    "wrapped",
    [
        '"{}"',
        "“{}”",
        "```\n{}\n```",
        "```text\n{}\n```",
        "Assistant: {}",
        "**Description:** {}",
        "Answer: {}",
        "Sure! Here is the description:\n\n{}",
        "Here's the summary: {}",
        "\\boxed{{\\text{{{}}}}}",
        '{{"description": "{}"}}',
        "The two pictures ... Answer with that text alone.\n{}",
    ],
)
def test_labels_quotes_fences_and_echoes_are_no_part_of_a_description(wrapped: str) -> None:
    assert parse(DESCRIBE, Answer(wrapped.format(D)), "description", "English").texts == (D,)


def test_emphasis_is_no_part_of_a_description() -> None:
    marked = D.replace("Source Image", "**Source Image**").replace("white", "__white__")
    assert parse(DESCRIBE, Answer(marked), "description", "English").texts == (D,)


@pytest.mark.parametrize("form", ["Both images ... . However, the Source Image ..., whereas the Target Image ...", "Both images…"])
def test_the_prompts_form_not_filled_in_is_no_description(form: str) -> None:
    assert parse(DESCRIBE, Answer(form), "description", "English").reason == "copied_prompt"
    assert parse(ASKED, Answer('{"instructions": ["...", "...", "..."]}'), "instructions", "English").reason == "copied_prompt"


def test_the_prompts_own_examples_repeated_are_not_taken_for_the_answer() -> None:
    echo = f'Answer: {{"instructions": ["a x", "b y", "c z"]}}\nNow this description, as a JSON string:\n{json.dumps(D)}\n'
    assert parse(ASKED, Answer(echo + L), "instructions", "English").texts == tuple(GOOD)


@pytest.mark.parametrize(
    "text",
    [
        '["{0}", "{1}", "{2}",]',
        "['{0}', '{1}', '{2}']",
        "{{'instructions': ['{0}', '{1}', '{2}',]}}",
        "{{“instructions”: [“{0}”, “{1}”, “{2}”]}}",
        '["{0}" "{1}"\n"{2}"]',
        '["{0}", // first\n"{1}", "{2}" /* last */]',
        '"{0}"\n"{1}"\n"{2}"',
        '"{0}",\n"{1}",\n"{2}",',
        '1. "{0}"\n2. "{1}"\n3. "{2}"',
        '- "{0}"\n- "{1}"\n- "{2}"',
        "1) {0}\n2) {1}\n3) {2}",
        "**Query 1:** {0}\n**Query 2:** {1}\n**Query 3:** {2}",
        '{{"1": "{0}", "2": "{1}", "3": "{2}"}}',
        '{{"query_1": "{0}", "query_2": "{1}", "query_3": "{2}"}}',
        '{{"instructions": {{"a": 1, "list": ["{0}", "{1}", "{2}"]}}}}',
        '[{{"id": 1, "query": "{0}"}}, {{"id": 2, "query": "{1}"}}, {{"id": 3, "query": "{2}"}}]',
        '{{"instructions": "1. {0}\\n2. {1}\\n3. {2}"}}',
        '{{"instructions": ["1. {0}", "\\"{1}\\"", "- {2}"]}}',
        '[NaN, "{0}", null, "{1}", "{2}"]',
        '{{"instructions": ["{0}", "{1}", "{2}"',
        '{{"instructions": ["{0}", "{1}", "{2}", "and a cut o',
        '```json\n["{0}",\n"{1}",\n"{2}",\n```',
        "Here are [three] queries:\n1. {0}\n2. {1}\n3. {2}",
    ],
)
def test_lists_as_models_write_them_are_read_without_marks(text: str) -> None:
    assert parse(ASKED, Answer(text.format(*GOOD)), "instructions", "English").texts == tuple(GOOD)


@pytest.mark.parametrize("depth", [1, 2])
def test_json_within_json_strings_is_read(depth: int) -> None:
    text = L
    for _ in range(depth):
        text = json.dumps(text)
    assert parse(ASKED, Answer(text), "instructions", "English").texts == tuple(GOOD)


def test_apostrophes_and_quotes_within_a_text_neither_cut_nor_lose_it() -> None:
    assert strings("{'instructions': ['it's blue', 'the same, but it's red', 'b']}") == ["it's blue", "the same, but it's red", "b"]
    assert strings('{"instructions": ["a "big" one", "b"]}') == ['a "big" one', "b"]
    assert [plain_item(t) for t in ('"Stop" sign instead of "Go"', "'70s style", "1.5 times larger", "3 cats", "10) blue,")] == [
        '"Stop" sign instead of "Go"',
        "'70s style",
        "1.5 times larger",
        "3 cats",
        "blue",
    ]


@pytest.mark.parametrize(
    "word, kind",
    [
        *[(w, "finished") for w in ("stop", "eos_token", "end_turn", "eos", "stop_sequence", "STOP", "COMPLETE", "", "null")],
        *[(w, "finished") for w in ("{'type': 'stop', 'matched': 2}", "FINISH_REASON_STOP", "endTurn", "tool_calls")],
        *[(w, "truncated") for w in ("length", "max_tokens", "MAX_TOKENS", "{'type': 'length'}", "maxTokens", "model_length")],
        *[(w, "filtered") for w in ("content_filter", "SAFETY", "refusal", "RECITATION", "FinishReason.SAFETY")],
        ("identical_captions", "identical_captions"),
    ],
)
def test_each_makers_finish_reason_is_one_of_four_kinds(word: str, kind: str) -> None:
    assert finish_kind(word) == kind


@pytest.mark.parametrize("word", ["eos_token", "end_turn", "STOP", "", "a word of 2027"])
def test_no_word_of_a_server_spoils_a_good_answer(word: str) -> None:
    assert parse(DESCRIBE, Answer(D, word), "description", "English").texts == (D,)


@pytest.mark.parametrize(
    "text", ["{'fidelity': 4, 'discretion': 5,}", "Fidelity: 4/5, discretion: 5", '{"Fidelity": "4/5", "Discretion": 5.0}']
)
def test_scores_are_read_as_judges_write_them(text: str) -> None:
    assert parse(ASKED._replace(kind="judge"), Answer(text), "scores", "English").scores == (4, 5)


def test_texts_that_rules_wrote_stay_as_they_are() -> None:
    """The embedded back-end's texts quote captions, which may look like anything: an existing lake stays current."""
    assert fingerprint_settings(AnnotateSettings(), "descriptions")["parser"] == "1"
    captions = {"query_caption": '1. "a" <think>', "target_caption": "2. **b** </think> c"}
    for kind, part in (("describe", "description"), ("instruct", "instructions")):
        request = Request(kind, "p", "a", "b", **captions)
        ((_, answer),) = CaptionsAnnotator().answers([request])
        if answer.finish_reason == "stop":
            wrote = [answer.text] if kind == "describe" else json.loads(answer.text)
            assert list(parse(request, answer, part).texts) == wrote


@pytest.mark.parametrize(
    "piece", ["<think>", "</think>", '["', "{", "'", "\\boxed{", "<|channel|>final<|message|>", "1. \n", '"', "**"]
)
def test_no_answer_takes_long_or_raises(piece: str) -> None:
    began = time.monotonic()
    for text in (piece * 3000, "x" + piece * 1000 + "y", piece * 10 + "a" * 15_000):
        for request, part in ((DESCRIBE, "description"), (ASKED, "instructions"), (ASKED._replace(kind="judge"), "scores")):
            parse(request, Answer(text), part, "English")
        final_text(text), plain(text)
    assert time.monotonic() - began < 20
