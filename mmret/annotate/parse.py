"""Reads texts from a raw answer, or finds the reason why it cannot be used.

The parser's version is separate from the prompts' versions: a changed parser reads the stored answers again and asks nothing. What
a model's maker puts around its answers is taken off first (``answer_text``, ``answer_json``); then they are checked for what cannot
be used: refusals, the wrong language, instructions that give the source picture away, texts that only copy a caption. Costs about
20 us an answer; never raises on what a model wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

from mmret.annotate import checks
from mmret.annotate.answer_json import json_value, strings
from mmret.annotate.answer_text import final_text, plain, without_echo
from mmret.annotate.finish import finish_kind
from mmret.annotate.protocol import Answer, Request

PARSER_VERSION = "1"
"""Of what rules wrote: JSON and text as they stand."""
MODEL_PARSER_VERSION = "3"  # 2: each maker's marks, finish reasons and broken JSON; 3: a list of one whole answer
"""Of what models wrote."""
MAX_ANSWER_CHARACTERS = 20_000
"""A longer answer is no list of instructions, and is not parsed."""
RETRY_REASONS = frozenset(
    {
        "refusal",
        "truncated",
        "empty",
        "too_long",
        "not_json",
        "too_few",
        "duplicate",
        "wrong_language",
        "leaked_source",
        "copied_caption",
        "copied_prompt",
    }
)
"""Reasons for which the same model is asked again with another seed."""

MAX_CAPTION_CHARACTERS = 600
"""A longer text is no caption of one sentence."""
_SHOWN = re.compile(
    r"(?:this|the)\s+(?:image|picture|photo(?:graph)?)\s+(?:shows|depicts|features|displays|portrays|is\s+of|contains)\s+(?=\S)",
    re.I,
)

Part = Literal["description", "instructions", "scores", "caption", "score"]
"""What is read from an answer; one of kind ``both`` holds a description and instructions."""

_SCORE = re.compile(r"\s*(\d)(?:\.0)?(?:\s*/\s*5)?\s*")
_SAID_SCORES = [re.compile(rf"{name}\W{{1,12}}(\d\S*?)(?:[\s,;]|\.?\s|\.?$)", re.I) for name in ("fidelity", "discretion")]
_SAID_SCORE = re.compile(r"\bscore(?:\W{1,12}|\s+is\s+)(\d\S*?)(?:[\s,;]|\.?\s|\.?$)", re.I)
_FORM = re.compile(r"both images\W*(?:\.\.\.|…)", re.IGNORECASE)
"""The form that the prompt gives for a description, not filled in."""
_NOTHING = frozenset(("n/a", "none", "null", "nil", "na", "ok", "okay", "undefined", "done", "yes", "no"))
_JSON_STARTS = re.compile(r"(?:```\w*)?\s*[\[{]")
_ECHO_ENDS = {
    "describe": "Answer with that text alone.",
    "both": '{"description": "...", "instructions": ["...", "...", "..."]}',
    "judge": '{"fidelity": 5, "discretion": 5}',
    "candidate": '{"score": 3}',
    "caption": "Answer with that sentence alone.",
}
"""What the prompts end in, apart from that of the instructions, which ends in the description."""


_DECODE = json.JSONDecoder().decode


class Parsed(NamedTuple):
    """``texts``: one for a description; empty with a ``reason``. ``scores``: fidelity and discretion of a
    judge, the score alone of part ``score``; 1 to 5."""

    texts: tuple[str, ...] = ()
    reason: str = ""
    scores: tuple[int, ...] | None = None


def parser_version(uses_model: bool) -> str:
    """Stamped on every row, and part of the fingerprint."""
    return MODEL_PARSER_VERSION if uses_model else PARSER_VERSION


def parse(request: Request, answer: Answer, part: Part, language: str | None = None, examples: Collection[str] = ()) -> Parsed:
    """The ``part`` of ``answer`` to ``request``, or the reason why it cannot be used. ``language``: of a model's texts, in English
    ("French"); None takes the answer as it stands and leaves out the checks, as for texts that rules wrote. ``examples``: texts of
    the prompt that are about other pairs; an instruction that repeats one is left out.

    Reasons: a transport error as it is, a finish reason that only the back-end gives, refusal, truncated, empty, too_long,
    not_json, too_few, duplicate, wrong_language, leaked_source, copied_caption, copied_prompt.

    >>> parse(request, Answer("<think>hm</think> ['make it blue', 'a blue one', 'in blue']"), "instructions", "English").texts
    ('make it blue', 'a blue one', 'in blue')
    """
    if answer.error:
        return Parsed(reason=answer.error)
    if language is None:
        return _as_it_stands(request, answer, part)
    finish = finish_kind(answer.finish_reason)
    if finish == "filtered":
        return Parsed(reason="refusal")
    if finish == "truncated":
        return Parsed(reason="truncated")
    text = _said(request, answer.text)
    if not text:
        return Parsed(reason="empty" if finish == "finished" else finish)
    if len(text) > MAX_ANSWER_CHARACTERS:
        return Parsed(reason="too_long")
    if checks.is_refusal(text):
        return Parsed(reason="refusal")
    if part == "scores":
        return _scores(text)
    if part == "score":
        return _one_score(text)
    if part == "caption":
        return _caption(text, language)
    parsed = _description(text, request.kind) if part == "description" else _instructions(strings(text), request.count)
    if parsed.reason:
        return parsed
    parsed = _check(parsed, request, text, part, language)
    return _without_examples(parsed, examples, request.count) if examples and not parsed.reason else parsed


def _as_it_stands(request: Request, answer: Answer, part: Part) -> Parsed:
    """Texts that rules wrote: a description on one line, instructions as a JSON list."""
    if answer.finish_reason not in ("stop", ""):
        return Parsed(reason=answer.finish_reason)
    if len(answer.text) > MAX_ANSWER_CHARACTERS:
        return Parsed(reason="too_long")
    if part == "description":
        text = " ".join(answer.text.split()).strip('"“” ')
        return Parsed((text,)) if text else Parsed(reason="empty")
    try:
        found = _DECODE(answer.text)
    except (ValueError, RecursionError):
        found = None
    return _instructions(found if isinstance(found, list) else None, request.count)


def _said(request: Request, raw: str) -> str:
    """What the model said, without its thoughts and a repetition of the prompt."""
    text = final_text(raw)
    if request.kind == "instruct":
        return without_echo(text, json.dumps(request.description, ensure_ascii=False) if request.description else "")
    return without_echo(text, _ECHO_ENDS[request.kind]) or text


def _check(parsed: Parsed, request: Request, raw: str, part: Part, language: str) -> Parsed:
    if checks.in_wrong_language(" ".join(parsed.texts), language):
        return Parsed(reason="wrong_language")
    if checks.all_copied(parsed.texts, (request.query_caption, request.target_caption)):
        return Parsed(reason="copied_caption")
    if part == "description":
        return parsed
    description = request.description or "".join(_description(raw, request.kind).texts)
    usable = tuple(t for t in parsed.texts if not checks.tells_source(t, description, language))
    usable = tuple(t for t in usable if not checks.all_copied((t,), (request.query_caption, request.target_caption)))
    return Parsed(usable) if len(usable) >= request.count else Parsed(reason="leaked_source")


def _without_examples(parsed: Parsed, examples: Collection[str], count: int) -> Parsed:
    """``parsed`` without texts that repeat one of ``examples``, as small models do where they have no answer."""
    known = set(map(_plain_case, examples))
    texts = tuple(t for t in parsed.texts if _plain_case(t) not in known)
    return Parsed(texts) if len(texts) >= count else Parsed(reason="copied_prompt")


def _plain_case(text: str) -> str:
    return text.casefold().rstrip(".!? ")


def _description(text: str, kind: str) -> Parsed:
    value = json_value(text) if kind == "both" or _JSON_STARTS.match(text) else None
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict):
        named = {str(k).strip().casefold(): v for k, v in value.items()}
        only = [v for v in value.values() if isinstance(v, str)]
        found = named.get("description", only[0] if kind != "both" and len(only) == 1 else None)
    elif isinstance(value, list) and kind != "both" and len(value) == 1 and isinstance(value[0], str):
        found = value[0]
    else:
        found = None if kind == "both" else text
    if not isinstance(found, str):
        return Parsed(reason="not_json")
    found = plain(found)
    if found.casefold().rstrip(".!") in _NOTHING:
        return Parsed(reason="empty")
    if found and _FORM.match(found):
        return Parsed(reason="copied_prompt")
    return Parsed((found,)) if any(map(str.isalnum, found)) else Parsed(reason="empty")


def _caption(text: str, language: str) -> Parsed:
    """One line, without the words that say that a picture shows something."""
    parsed = _description(text, "caption")
    if parsed.reason:
        return parsed
    line = " ".join(parsed.texts[0].split()).strip("\"“”'")
    bare = _SHOWN.sub("", line)
    caption = bare[:1].upper() + bare[1:] if bare != line else line
    if len(caption) > MAX_CAPTION_CHARACTERS:
        return Parsed(reason="too_long")
    return Parsed(reason="wrong_language") if checks.in_wrong_language(caption, language) else Parsed((caption,))


def _instructions(found: list[Any] | None, count: int) -> Parsed:
    if found is None or set(map(type, found)) - {str}:
        return Parsed(reason="not_json")
    texts = [text for t in found if (text := " ".join(t.split()))]
    if texts and not any(t.strip(".… ") for t in texts):
        return Parsed(reason="copied_prompt")
    distinct: dict[str, str] = {}
    for each in texts:
        distinct.setdefault(_plain_case(each), each)
    if len(distinct) < count:
        return Parsed(reason="duplicate" if len(texts) >= count else "too_few")
    return Parsed(tuple(distinct.values()))


def _scores(text: str) -> Parsed:
    value = json_value(text)
    if isinstance(value, dict):
        named = {str(k).strip().casefold(): v for k, v in value.items()}
        scores = [_score(str(named.get(name))) for name in ("fidelity", "discretion")]
    else:
        scores = [_score(said[1]) if (said := pattern.search(text)) else 0 for pattern in _SAID_SCORES]
    fidelity, discretion = scores
    if not (1 <= fidelity <= 5 and 1 <= discretion <= 5):
        return Parsed(reason="not_json")
    return Parsed(scores=(fidelity, discretion))


def _one_score(text: str) -> Parsed:
    value = json_value(text)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        named = {str(k).strip().casefold(): v for k, v in value.items()}
        score = _score(str(named.get("score", next(iter(named.values())) if len(named) == 1 else None)))
    else:
        said = {_score(found) for found in _SAID_SCORE.findall(text)} or {_score(text.rstrip(". "))}
        score = said.pop() if len(said) == 1 else 0
    return Parsed(scores=(score,)) if 1 <= score <= 5 else Parsed(reason="not_json")


def _score(text: str) -> int:
    found = _SCORE.fullmatch(text)
    return int(found[1]) if found else 0
