"""Reads texts from a raw answer, or finds the reason why it cannot be used.

``PARSER_VERSION`` is separate from the prompts' versions: a changed parser reads the stored answers again and asks nothing. A
model's answers are also checked for what cannot be used: refusals, the wrong language, instructions that give the source picture
away, texts that only copy a caption. Costs about 10 us an answer; never raises on what a model wrote.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple

from mmret.annotate import checks
from mmret.annotate.protocol import Answer, Request

PARSER_VERSION = "1"
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
    }
)
"""Reasons for which the same model is asked again with another seed."""

Part = Literal["description", "instructions", "scores"]
"""What is read from an answer; one of kind ``both`` holds a description and instructions."""

_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)
_NUMBERED = re.compile(r"^\s*(?:\d+[.):]|[-*•])\s+(.+?)\s*$", re.MULTILINE)
_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)


class Parsed(NamedTuple):
    """``texts``: one for a description; empty with a ``reason``. ``scores``: fidelity and discretion, 1 to 5."""

    texts: tuple[str, ...] = ()
    reason: str = ""
    scores: tuple[int, int] | None = None


def parse(request: Request, answer: Answer, part: Part, language: str | None = None) -> Parsed:
    """The ``part`` of ``answer`` to ``request``, or the reason why it cannot be used. ``language``: of a model's texts, in English
    ("French"); None leaves out the checks that only a model's answers need.

    Reasons: a transport error as it is, a finish reason that only the back-end gives, refusal, truncated, empty, too_long,
    not_json, too_few, duplicate, wrong_language, leaked_source, copied_caption.
    """
    if answer.error:
        return Parsed(reason=answer.error)
    if answer.finish_reason == "content_filter":
        return Parsed(reason="refusal")
    if answer.finish_reason == "length":
        return Parsed(reason="truncated")
    if answer.finish_reason not in ("stop", ""):
        return Parsed(reason=answer.finish_reason)
    text = _THOUGHT.sub("", answer.text[: MAX_ANSWER_CHARACTERS + 1]).strip()
    if not text:
        return Parsed(reason="empty")
    if len(text) > MAX_ANSWER_CHARACTERS:
        return Parsed(reason="too_long")
    if language is not None and checks.is_refusal(text):
        return Parsed(reason="refusal")
    if part == "scores":
        return _scores(text)
    parsed = _description(text, request.kind) if part == "description" else _instructions(text, request.count)
    if language is None or parsed.reason:
        return parsed
    return _check(parsed, request, text, part, language)


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


def _description(text: str, kind: str) -> Parsed:
    if kind == "both":
        value = _object(text)
        text = value.get("description") if isinstance(value, dict) else None
        if not isinstance(text, str):
            return Parsed(reason="not_json")
    text = " ".join(text.split()).strip('"“” ')
    return Parsed((text,)) if text else Parsed(reason="empty")


def _instructions(text: str, count: int) -> Parsed:
    found = _strings(text)
    if found is None:
        return Parsed(reason="not_json")
    texts = [" ".join(t.split()) for t in found if t.strip()]
    distinct: dict[str, str] = {}
    for each in texts:
        distinct.setdefault(each.casefold().rstrip(".!? "), each)
    if len(distinct) < count:
        return Parsed(reason="duplicate" if len(texts) >= count else "too_few")
    return Parsed(tuple(distinct.values()))


def _scores(text: str) -> Parsed:
    value = _object(text)
    if not isinstance(value, dict):
        return Parsed(reason="not_json")
    try:
        fidelity, discretion = (int(value[name]) for name in ("fidelity", "discretion"))
    except (KeyError, TypeError, ValueError, OverflowError):
        return Parsed(reason="not_json")
    if not (1 <= fidelity <= 5 and 1 <= discretion <= 5):
        return Parsed(reason="not_json")
    return Parsed(scores=(fidelity, discretion))


def _strings(text: str) -> list[str] | None:
    """The list of strings in ``text``: JSON, bare or in a fence or running text, or a numbered list; else None."""
    value = _object(text)
    if isinstance(value, dict):
        value = value.get("instructions") or next((v for v in value.values() if isinstance(v, list)), None)
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return value
    return _NUMBERED.findall(text) or None if value is None else None


def _object(text: str) -> Any:
    """The JSON object or array in ``text``, bare, in a fence, or the outermost of running text; else None."""
    spans = [text, *_FENCE.findall(text)]
    spans += [text[text.find(a) : text.rfind(b) + 1] for a, b in ("{}", "[]") if a in text]
    for candidate in spans:
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list):
            return value
    return None
