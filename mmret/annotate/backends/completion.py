"""Reads a chat completion as servers really write it: content as text or as parts, refusals, other names for tokens.

A model's thoughts that a server hands over beside its answer (``reasoning_content``, ``reasoning``, parts of type ``thinking``) are
never part of the text. Costs microseconds an answer.
"""

from __future__ import annotations

import json
import re
from typing import Any

from mmret.annotate.protocol import Answer

_STREAM = re.compile(r"(?:data|event|id|retry)?:")
_WRAPPERS = ("data", "result", "response", "output")
_TEXT_PARTS = {"text", "output_text", ""}
_TOKENS = (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))


class NotACompletion(ValueError):
    """A body that answers nothing. ``status``: the HTTP status that the body itself speaks of, if any."""

    def __init__(self, status: int | None = None):
        super().__init__(status)
        self.status = status


def read_completion(data: bytes) -> Answer:
    """The first choice of the chat completion in ``data``. Raises NotACompletion where it is none.

    >>> read_completion(b'{"choices": [{"message": {"content": [{"type": "text", "text": "hm"}]}, "finish_reason": "eos"}]}')
    Answer(text='hm', finish_reason='eos', tokens_in=0, tokens_out=0, error='', words='')
    """
    try:
        value = _value(data)
    except (ValueError, RecursionError, AttributeError, TypeError):
        raise NotACompletion from None
    if isinstance(value, dict) and not value.get("choices"):
        value = next((v for name in _WRAPPERS if isinstance(v := value.get(name), dict) and v.get("choices")), value)
    if not isinstance(value, dict):
        raise NotACompletion
    if not value.get("choices"):
        raise NotACompletion(_status_of(value.get("error") or value))
    try:
        choice = value["choices"][0]
        message = choice["message"] if "message" in choice else {"content": choice["text"]}
        text, refusal = _text(message.get("content")), message.get("refusal")
        finish = _finish(choice)
        tokens = _tokens(value.get("usage"))
        if not text and (called := message.get("tool_calls")):
            text = _text(called[0]["function"]["arguments"])
    except (KeyError, IndexError, TypeError, AttributeError):
        raise NotACompletion from None
    if finish in ("error", "abort", "aborted", "cancelled"):
        raise NotACompletion  # the server broke off
    if refusal and not text:
        return Answer(_storable(str(refusal)), "content_filter", *tokens)
    return Answer(_storable(text), finish or "stop", *tokens)


def _value(data: bytes) -> Any:
    """The JSON in ``data``: as it stands, as a text in JSON, with something behind it, or streamed although nobody asked."""
    text = data.decode(json.detect_encoding(data)).lstrip("\ufeff \r\n\t")
    if _STREAM.match(text):
        return _assembled(text)
    value, _ = json.JSONDecoder(strict=False).raw_decode(text)
    return json.loads(value) if isinstance(value, str) else value


def _assembled(text: str) -> dict[str, Any]:
    """The completion whose pieces are the events of ``text``."""
    said: list[str] = []
    finish, usage = "", None
    for line in text.splitlines():
        body = line.removeprefix("data:").strip()
        if body == line or body in ("", "[DONE]"):
            continue
        piece = json.loads(body)
        if not isinstance(piece, dict) or piece.get("error"):
            return piece if isinstance(piece, dict) else {}
        usage = piece.get("usage") or usage
        for choice in (piece.get("choices") or ())[:1]:
            held = choice.get("delta") or choice.get("message") or {}
            said.append(_text(held.get("content", choice.get("text"))))
            finish = _finish(choice) or finish
    choice = {"message": {"content": "".join(said)}, "finish_reason": finish or "incomplete"}
    return {"choices": [choice], "usage": usage} if said else {}


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise TypeError
    return "".join(_part(part) for part in content)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or str(part.get("type", "")) not in _TEXT_PARTS:
        return ""
    text = part.get("text", "")
    text = text.get("value", "") if isinstance(text, dict) else text
    return text if isinstance(text, str) else ""


def _finish(choice: dict[str, Any]) -> str:
    reason = choice.get("finish_reason") or choice.get("stop_reason")
    if isinstance(reason, dict):
        reason = next((reason[k] for k in ("type", "reason", "name", "value") if isinstance(reason.get(k), str)), "")
    return reason[:100] if isinstance(reason, str) else ""


def _tokens(usage: Any) -> tuple[int, int]:
    usage = usage if isinstance(usage, dict) else {}
    found = (next((usage[n] for n in names if usage.get(n) is not None), 0) for names in _TOKENS)
    return tuple(n if isinstance(n, int) and 0 <= n < 2**31 else 0 for n in found)  # type: ignore[return-value]


def _status_of(error: Any) -> int | None:
    code = error.get("code", error.get("status")) if isinstance(error, dict) else None
    found = re.fullmatch(r"[45]\d\d", str(code))
    return int(found[0]) if found else None


def _storable(text: str) -> str:
    """``text`` without lone surrogates, which have no place in a table."""
    return text.encode("utf-8", "replace").decode()
