"""Reads JSON, or a list of strings, as models really write them: fenced, in running text, unquoted, cut, with comments.

What is valid JSON is taken as it stands; the rest is repaired by json_repair, and a list without any brackets is read by its marks
(``answer_lists``).
Nothing is guessed where that may cut a text: a string that was never closed is left out. Costs about 10 us where the JSON is
valid, some 100 us where it is repaired.
"""

from __future__ import annotations

import json
import re
from typing import Any

from mmret.annotate.answer_lists import listed
from mmret.annotate.answer_text import plain_item

_FENCE = re.compile(r"```(?:\w+)?\s*(.*?)```", re.DOTALL)
_QUOTED_OTHERWISE = [
    (re.compile(rf"{first}\s*{a}(.*?){b}\s*,?\s*{last}\s*(?:```|\Z|\n|\}})", re.DOTALL), re.compile(rf"{b}\s*,\s*{a}"))
    for first, last in ((r"\[", r"\]"), (r"[({]", r"[)}]"))
    for a, b in (("['‘]", "['’]"), ("`", "`"), ("«", "»"), ("„", "“"), ("「", "」"))
]
_STARTS = re.compile(r"""\[\s*["'“‘«`{\[]|\{\s*["'“‘\w]|\[\s*\n""")
_ENDS = re.compile(r"[\]}]\s*(?:```\s*)?(?=\n\s*\n|\Z)")
_ESCAPED = re.compile(r"[\[{]\s*\\+[\"n]")
_ITEM_KEY = re.compile(r"(?:(?:search[ _]?)?(?:instruction|query|queries|text|option|q)s?[ _-]*)?\d{0,2}", re.IGNORECASE)
_ORDINAL = re.compile(r"(?:first|second|third|fourth|fifth|sixth|seventh|[a-z])(?:[ _]\w+)?", re.IGNORECASE)
_LISTS = ("instructions", "queries", "search_queries", "query", "texts")
_MAX_BRACKETS, _MAX_REPAIRED = 40, 8000  # of what is repaired: the time it takes grows with their product
_MAX_ENCODINGS = 3  # JSON in a JSON string, so many times


def json_value(text: str) -> Any:
    """The JSON object or array in ``text``, bare, in a fence or in running text, repaired where it must be; else None. An array
    that holds one object and nothing else is that object.

    >>> json_value("Sure: [{'fidelity': 4, 'discretion': 5,}]")
    {'fidelity': 4, 'discretion': 5}
    """
    value = _exact(text)
    value = value if value is not None else _repaired(text)
    return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) else value


def strings(text: str) -> list[str] | None:
    """The list of strings in ``text``, without numbers, bullets and quotes; None where there is none.

    >>> strings('1. "make it blue"\\n2. "a blue one"')
    ['make it blue', 'a blue one']
    """
    if _ESCAPED.search(text) and _exact(text) is None:
        text = text.replace('\\"', '"').replace("\\n", "\n")
    values = _values(text)
    found = _listed(_exact(text))
    if len(values) > 1 and len(found or ()) < 2:  # an object or a list a line
        found = _listed(values) or found
    if found is None:
        found = _quoted_otherwise(text)
    if found is None:
        found = max((c for c in (_listed(_repaired(text)), listed(text)) if c), key=len, default=None)
    return None if found is None else [clean for t in found if not t.rstrip(" *").endswith(":") and (clean := plain_item(t))]


def _exact(text: str, depth: int = 0) -> Any:
    spans = [text, *_FENCE.findall(text)]
    spans += [text[text.find(a) : text.rfind(b) + 1] for a, b in ("{}", "[]") if a in text]
    for candidate in spans:
        try:
            value = json.loads(candidate, strict=False)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, str) and depth < _MAX_ENCODINGS and value.lstrip()[:1] in ("[", "{", '"'):
            value = _exact(value, depth + 1)
        if isinstance(value, dict | list):
            return value
    return max(_values(text), key=lambda held: len(str(held)), default=None)


def _values(text: str) -> list[Any]:
    """Objects and arrays in ``text`` that are valid JSON each, in order, those within others left out."""
    found: list[Any] = []
    decoder = json.JSONDecoder(strict=False)
    at = tries = 0
    while (start := _STARTS.search(text, at)) and tries < _MAX_BRACKETS:
        tries += 1
        try:
            value, at = decoder.raw_decode(text, start.start())
            found.append(value)
        except (ValueError, RecursionError):
            at = start.start() + 1
    return found


def _repaired(text: str) -> Any:
    """What json_repair makes of the span from the first bracket on; None where it makes nothing of it."""
    fences = [f for f in _FENCE.findall(text) if "[" in f or "{" in f]
    text = fences[-1] if fences else text
    start = _STARTS.search(text) or re.search(r"[\[{]", text)
    if not start:
        return None
    closed = _ENDS.search(text, start.start())
    span = text[start.start() : closed.end() if closed else None].rstrip().rstrip("`").rstrip()
    end = max(span.rfind("}"), span.rfind("]")) + 1
    span = span[:end] if end and len(span) - end < len(span) // 2 and not _looks_open(span[end:]) else _closed(span)
    if sum(map(span.count, "[{")) > _MAX_BRACKETS or len(span) > _MAX_REPAIRED:
        return None
    from json_repair import repair_json  # not for commands that read no answer

    try:
        value = repair_json(span, return_objects=True)
    except Exception:  # noqa: BLE001 - whatever a model wrote, it is an answer that cannot be read
        return None
    return value if isinstance(value, dict | list) and value else None


def _looks_open(rest: str) -> bool:
    return '"' in rest


def _closed(span: str) -> str:
    """``span`` without a last string that was never closed."""
    quotes = [m.start() for m in re.finditer(r'(?<!\\)"', span)]
    return span[: quotes[-1]] if len(quotes) % 2 else span


def _quoted_otherwise(text: str) -> list[str] | None:
    """A list as Python or a typesetter writes it, apostrophes unescaped."""
    for pattern, between in _QUOTED_OTHERWISE:
        found = pattern.search(text)
        if not found or '"' in found[1] and "'," not in found[1]:
            continue
        parts = between.split(found[1])
        if found[0][0] == "[" or len(parts) > 1 and not any("':" in part for part in parts):  # an object is no tuple
            return [t.replace("\\'", "'") for t in parts]
    return None


def _listed(value: Any, depth: int = 0) -> list[str] | None:
    """The strings of a list, or of an object that holds one."""
    if depth > _MAX_ENCODINGS:
        return None
    if isinstance(value, str):
        value = value.strip()
        return _listed(json_value(value), depth + 1) if value[:1] in ("[", "{") else listed(value)
    if isinstance(value, dict):
        return _of_object(value, depth)
    if not isinstance(value, list):
        return None
    found: list[str] = []
    for each in value:
        if isinstance(each, str):
            found.append(each)
        elif isinstance(each, dict | list):
            inner = _one_text(each) if isinstance(each, dict) and not _holds_texts(each) else None
            inner = inner or _listed(each, depth + 1)
            if inner is None:
                return None
            found += inner
        elif each is not None and each == each:  # NaN is not itself
            return None
    return found or None


def _holds_texts(value: dict[str, Any]) -> bool:
    """Whether an item is a whole answer: {"description": "...", "instructions": [...]}."""
    return any(str(k).strip().casefold() in _LISTS and isinstance(v, list | dict) for k, v in value.items())


def _one_text(value: dict[str, Any]) -> list[str] | None:
    """The text of an item that is an object: {"id": 1, "query": "make it blue"}."""
    texts = [v for k, v in value.items() if isinstance(v, str) and _ITEM_KEY.fullmatch(str(k))]
    texts = texts or [v for v in value.values() if isinstance(v, str)]
    return texts if len(texts) == 1 else None


def _of_object(value: dict[str, Any], depth: int) -> list[str] | None:
    keys = {str(k).strip().casefold(): v for k, v in value.items()}
    for name in _LISTS:
        if (found := _listed(keys[name], depth + 1) if name in keys else None) is not None:
            return found
    for held in value.values():
        if isinstance(held, list | dict) and (found := _listed(held, depth + 1)) is not None:
            return found
    items = [v for k, v in value.items() if isinstance(v, str) and _ITEM_KEY.fullmatch(str(k))]
    items = items or [v for k, v in value.items() if isinstance(v, str) and _ORDINAL.fullmatch(str(k).strip())]
    return items if len(items) > 1 else None
