"""Captions as tables hold them: a text, a number, a list of texts, a list written into a cell, a conversation, or a word for none.

Of several captions the first is used; the caller keeps all of them. Words that stand for a missing value (``NULL``, ``nan``)
count as none where they are the whole cell, and so does punctuation alone: a caption has a letter, digit or pictograph.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import tokenize
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from mmret.ingest.addresses import is_only_an_address
from mmret.ingest.pictures.decode import Unreadable

MISSING_WORDS = frozenset(
    ("", "nan", "null", "none", "n/a", "na", "<na>", "#n/a", "#na", "nat", "nil", "undefined", "\\n", "(null)", "<null>", "[null]")
)
"""Whole cells, in any case, that say that there is no value."""

_TEXT_FIELDS = ("raw", "caption", "text", "sentence", "title", "description", "value", "content")
_SPEAKERS = ("gpt", "assistant", "model")
_TEXT_FILE = re.compile(r"\s*\S+\.(?:txt|caption|json|html?)\s*", re.IGNORECASE)
_LONGEST_LIST = 2**20  # characters of a cell that is looked at as a list


def is_missing(value: Any) -> bool:
    """Whether ``value`` stands for none: None, a number that is not finite, an empty text or a word for it.

    >>> [is_missing(v) for v in (None, float("nan"), " NULL ", "null island on a map", 0)]
    [True, True, True, False, False]
    """
    if value is None:
        return True
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, str) and value.strip().casefold() in MISSING_WORDS


def says_nothing(text: str) -> bool:
    """Whether ``text`` is missing, or has no letter, digit or pictograph in it."""
    return is_missing(text) or not any(c.isalnum() or (c > "\x7f" and unicodedata.category(c)[0] == "S") for c in text)


def captions_in(value: Any) -> list[str]:
    """Every caption in ``value``, in order, those that say nothing, or merely where a text lies, left out.

    Raises Unreadable (``bad_manifest_row``) for what is no text: bytes that are not UTF-8, an object without a text.

    >>> captions_in([{"raw": "a cat", "sentid": 1}, {"raw": "one cat"}]), captions_in("['a cat', 'one cat']"), captions_in("nan")
    (['a cat', 'one cat'], ['a cat', 'one cat'], [])
    """
    try:
        return [
            text for text in _texts(value) if not (says_nothing(text) or is_only_an_address(text) or _TEXT_FILE.fullmatch(text))
        ]
    except RecursionError:
        raise Unreadable("bad_manifest_row", "nested too deeply") from None


def _lies_elsewhere(text: str) -> bool:
    return is_only_an_address(text) or _TEXT_FILE.fullmatch(text) is not None


def written_list(text: str) -> list[Any] | None:
    """The list of texts that a cell holds as JSON or as Python writes it; None where the cell is a text like any other."""
    inner = text.strip()
    if not (inner.startswith("[") and inner.endswith("]")) or len(inner) > _LONGEST_LIST:
        return None
    for parse in (json.loads, _literal):
        try:
            found = parse(inner)
        except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
            continue
        if isinstance(found, list) and all(isinstance(item, str | Mapping) or item is None for item in found):
            return found
    return None


def _literal(text: str) -> Any:
    """A literal of Python, or of NumPy, which writes no comma between texts: ``['a cat' 'one cat']``."""
    parts: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.STRING and parts and parts[-1][0] == tokenize.STRING:
            parts.append((tokenize.OP, ","))
        if token.type != tokenize.NL:
            parts.append((token.type, token.string))
    return ast.literal_eval(" ".join(string for _, string in parts).strip())


def _texts(value: Any) -> Iterator[str]:
    if is_missing(value):
        return
    if isinstance(value, str):
        listed = written_list(value)
        if listed is None:
            yield value
        else:
            yield from _texts(listed)
    elif isinstance(value, list | tuple):
        yield from _conversation(value) if _is_conversation(value) else _each(value)
    elif isinstance(value, Mapping):
        field = next((name for name in _TEXT_FIELDS if not is_missing(value.get(name))), None)
        if field is None:
            raise Unreadable(
                "bad_manifest_row", f"the caption is no text but an object with {', '.join(map(str, value)) or 'nothing'}"
            )
        yield from _texts(value[field])
    elif isinstance(value, bytes):
        try:
            yield value.decode()
        except UnicodeDecodeError:
            raise Unreadable("bad_manifest_row", "the caption is not a text but bytes") from None
    else:
        yield str(value)


def _each(values: list | tuple) -> Iterator[str]:
    for value in values:
        yield from _texts(value)


def _is_conversation(values: list | tuple) -> bool:
    return all(isinstance(v, Mapping) and ("from" in v or "role" in v) for v in values) and bool(values)


def _conversation(turns: list | tuple) -> Iterator[str]:
    """What the model says of the picture: the human's turns are questions."""
    for turn in turns:
        if str(turn.get("from", turn.get("role"))).casefold() in _SPEAKERS:
            said = turn.get("value", turn.get("content"))
            if isinstance(said, str):
                yield said.replace("<image>", " ").strip()
