"""From a raw answer to texts or a reason.

Has a version of its own: a changed parser re-reads what is stored, and asks nothing.

Costs about 10 us an answer; never raises on what a model wrote.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from mmret.annotate.protocol import Answer, Request

PARSER_VERSION = "1"
MAX_ANSWER_CHARACTERS = 20_000
"""A longer answer is no list of instructions; it is not searched."""

_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)
_NUMBERED = re.compile(r"^\s*(?:\d+[.):]|[-*•])\s+(.+?)\s*$", re.MULTILINE)


class Parsed(NamedTuple):
    """``texts`` of an answer: one for a description; empty with a ``reason``."""

    texts: tuple[str, ...] = ()
    reason: str = ""


def parse(request: Request, answer: Answer) -> Parsed:
    """Read ``answer`` to ``request``.

    Reasons: a transport error as it is, a back-end's own finish reason, truncated, empty, too_long, not_json, too_few,
    duplicate.
    """
    if answer.error:
        return Parsed(reason=answer.error)
    if answer.finish_reason not in ("stop", "length"):
        return Parsed(reason=answer.finish_reason)
    if answer.finish_reason == "length":
        return Parsed(reason="truncated")
    if not answer.text.strip():
        return Parsed(reason="empty")
    if len(answer.text) > MAX_ANSWER_CHARACTERS:
        return Parsed(reason="too_long")
    return _description(answer.text) if request.kind == "describe" else _instructions(answer.text, request.count)


def _description(text: str) -> Parsed:
    return Parsed((" ".join(text.split()),))


def _instructions(text: str, count: int) -> Parsed:
    found = _strings(text)
    if found is None:
        return Parsed(reason="not_json")
    texts = [" ".join(t.split()) for t in found if t.strip()]
    distinct = {t.casefold().rstrip(".!? "): t for t in reversed(texts)}
    if len(distinct) < count:
        return Parsed(reason="duplicate" if len(texts) >= count else "too_few")
    return Parsed(tuple(t for t in texts if distinct.get(t.casefold().rstrip(".!? ")) is t))


def _strings(text: str) -> list[str] | None:
    """The list of strings in ``text``: JSON, bare or in a fence or running text, or a numbered list; else None."""
    for candidate in (text, *_FENCE.findall(text), text[text.find("[") : text.rfind("]") + 1]):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            value = next((v for v in value.values() if isinstance(v, list)), None)
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            return value
    return _NUMBERED.findall(text) or None
