"""Pins of prompts and demonstrations: what the paper's rules ask of the pool holds for each entry; what a model is
asked is the same in every run, and depends on nothing but the pair, the settings and the texts."""

from __future__ import annotations

import pytest

from mmret.annotate import prompts
from mmret.annotate.answer_text import without_echo
from mmret.annotate.backends.chat import messages
from mmret.annotate.compose import IMAGES, Question, compose, question_key
from mmret.annotate.parse import parse
from mmret.annotate.protocol import Answer, Kind, Request
from mmret.settings import AnnotateSettings, EngineSettings

ENGINE = EngineSettings(model="vlm")
SETTINGS = AnnotateSettings(backend="openai", vision=ENGINE)


def _ask(kind: Kind, pair: str = "p1", **changes: object) -> Request:
    return Request(kind, pair, "a" * 32, "b" * 32, description="Both images show x.", instructions=("be blue",))._replace(**changes)


def test_fifty_demonstrations_in_the_frame_each_with_three_concise_and_different_queries() -> None:
    pool = prompts.demonstrations()
    assert len(pool) == len({d.topic for d in pool}) == len({d.description for d in pool}) == 50
    for d in pool:
        assert d.description.startswith("Both images ") and "However, the Source Image " in d.description
        assert ", whereas the Target Image " in d.description and 20 <= len(d.description.split()) <= 100
        assert len({t.casefold() for t in d.instructions}) == len(d.instructions) == 3
        assert all(2 <= len(t.split()) <= 25 and t[0].islower() or t.startswith("Brandenburg") for t in d.instructions), d
    assert len({t for d in pool for t in d.instructions}) == 150


def test_our_own_demonstrations_pass_our_own_parser() -> None:
    import json

    for d in prompts.demonstrations():
        answer = Answer(json.dumps(list(d.instructions)))
        request = Request("instruct", "p", "a", "b", description=d.description)
        assert parse(request, answer, "instructions", "English").texts == d.instructions, d.topic


@pytest.mark.parametrize("kind", ["describe", "instruct", "both", "judge", "candidate"])
def test_a_question_is_the_same_in_every_run_and_no_slot_is_left(kind: Kind) -> None:
    first, again = compose(_ask(kind), SETTINGS), compose(_ask(kind), SETTINGS)
    assert first == again and question_key(first, ENGINE) == question_key(again, ENGINE)
    assert (first.system + first.user).count("{{") == (first.system + first.user).count(IMAGES) == bool(first.images)
    assert prompts.prompt(kind).version == f"{kind}.v1"


def test_words_demonstrations_and_seed_vary_by_pair_and_attempt() -> None:
    assert len({compose(_ask("describe", str(i)), SETTINGS).user for i in range(200)}) > 20  # WORD_NUM 60 to 100
    questions = [compose(_ask("instruct", str(i)), SETTINGS) for i in range(200)]
    shown = {d.description for d in prompts.demonstrations() for q in questions if d.description[:60] in q.user}
    assert len(shown) == 50 and all(q.user.count("Description: ") == 5 for q in questions)
    assert compose(_ask("describe"), SETTINGS).seed != compose(_ask("describe", attempt=1), SETTINGS).seed


def test_a_key_depends_on_all_that_decides_the_answer() -> None:
    def key(request: Request, settings: AnnotateSettings = SETTINGS, **engine: object) -> str:
        return question_key(compose(request, settings), ENGINE.model_copy(update=engine))

    base = key(_ask("describe"))
    same = [
        key(_ask("describe", query_caption="other")),
        key(_ask("describe"), urls=("http://other/v1",), tries=9, deadline_s=1),
    ]
    assert same == [base] * 2
    others = [
        key(_ask("describe", target_id="c" * 32)),
        key(_ask("describe", attempt=1)),
        key(_ask("describe"), model="x"),
        key(_ask("describe"), revision="2"),
        key(_ask("describe"), temperature=0),
        key(_ask("describe"), image_size=300),
        key(_ask("describe"), SETTINGS.model_copy(update={"language": "French"})),
        key(_ask("both")),
        key(_ask("judge")),
        key(_ask("candidate")),
    ]
    assert len({base, *others}) == len(others) + 1


def test_a_changed_instruction_prompt_leaves_the_keys_of_descriptions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = (
        question_key(compose(_ask("describe"), SETTINGS), ENGINE),
        question_key(compose(_ask("instruct"), SETTINGS), ENGINE),
    )
    original = prompts.prompt

    def edited(kind: str) -> prompts.Prompt:
        found = original(kind)
        return found._replace(system=found.system + " Be brief.") if kind == "instruct" else found

    monkeypatch.setattr(prompts, "prompt", edited)
    after = (
        question_key(compose(_ask("describe"), SETTINGS), ENGINE),
        question_key(compose(_ask("instruct"), SETTINGS), ENGINE),
    )
    assert after[0] == before[0] and after[1] != before[1]


def test_what_fills_a_slot_is_never_read_as_a_slot() -> None:
    assert prompts.fill("{{a}} {{b}}", {"a": "{{b}}", "b": "x"}) == "{{b}} x"
    with pytest.raises(KeyError, match="c"):
        prompts.fill("{{c}}", {})


def test_the_schema_asks_for_what_the_parser_reads_and_for_nothing_else() -> None:
    def asked(kind: Kind) -> object:
        return compose(Request(kind, "p", "a", "b", description="d", count=4), AnnotateSettings()).schema

    text, score = {"type": "string"}, {"type": "integer", "minimum": 1, "maximum": 5}
    texts = {"type": "array", "items": text, "minItems": 4, "maxItems": 7}
    whole = {"type": "object", "additionalProperties": False}
    assert asked("describe") is None
    assert asked("instruct") == {**whole, "properties": {"instructions": texts}, "required": ["instructions"]}
    both = {"description": text, "instructions": texts}
    assert asked("both") == {**whole, "properties": both, "required": ["description", "instructions"]}
    scores = {"fidelity": score, "discretion": score}
    assert asked("judge") == {**whole, "properties": scores, "required": ["fidelity", "discretion"]}


def test_a_message_has_the_pictures_where_the_prompt_has_them_each_behind_its_label() -> None:
    question = Question("be brief", f"Look:\n{IMAGES}\nWhat changed?", ("a", "b"), None, 0)
    assert messages(question, ["data:1", "data:2"]) == [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look:"},
                {"type": "text", "text": "Source Image:"},
                {"type": "image_url", "image_url": {"url": "data:1"}},
                {"type": "text", "text": "Target Image:"},
                {"type": "image_url", "image_url": {"url": "data:2"}},
                {"type": "text", "text": "What changed?"},
            ],
        },
    ]
    assert messages(question._replace(images=(), user="only words"), [])[1] == {"role": "user", "content": "only words"}


@pytest.mark.parametrize("kind", ["describe", "instruct", "both", "judge"])
def test_a_prompt_that_is_repeated_before_the_answer_is_no_part_of_it(kind: Kind) -> None:
    """Whatever lists and forms a prompt shows, what is read is what the model wrote behind it."""
    request = Request(kind, "p", "a", "b", description="Both images show a mug. However, it is blue." * (kind == "instruct"))
    question = compose(request, AnnotateSettings())
    answers = {
        "describe": ("description", "Both images show a hat. However, the Target Image has a red one."),
        "instruct": ("instructions", '["make it red", "a red one"]'),
        "both": ("instructions", '{"description": "d", "instructions": ["make it red", "a red one"]}'),
        "judge": ("scores", '{"fidelity": 2, "discretion": 3}'),
    }
    part, text = answers[kind]
    request = request._replace(count=2)
    plain = parse(request, Answer(text), part, "English")
    assert not plain.reason and parse(request, Answer(f"{question.user}\n{text}"), part, "English") == plain
    asked_nothing = request._replace(description="")
    assert parse(asked_nothing, Answer(text), part, "English") == plain


def test_an_echo_ends_with_its_last_repetition_and_no_text_is_cut_without_one() -> None:
    assert [without_echo("abc", asked) for asked in ("", "x", "a", "c")] == ["abc", "abc", "bc", ""]
    assert without_echo("ask: a ask: b", "ask:") == "b"


def test_a_description_is_put_into_a_prompt_up_to_the_bound() -> None:
    user = compose(Request("instruct", "p", "a", "b", description="q" * 7000), AnnotateSettings()).user
    assert "q" * 6000 in user and "q" * 6001 not in user
