"""What a server says when it does not answer: its own words, what they mean for this request and the next, and what to do.

Only words tell a request that is too long from a parameter that no request may have, an exhausted quota from a moment's haste.
They are another side's text: made printable, cut, and never more than data. Costs nothing while all is well.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple

from mmret.annotate.retry import REFUSING_STATUSES, TRANSIENT_STATUSES

MAX_WORDS = 240
"""Characters of a server's words that are kept."""

Scope = Literal["server", "request", "moment"]
"""What a failure concerns: every request to this server, this request whenever it is sent, or only this moment."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")
_MARKUP = re.compile(r"(?is)<(?:script|style)\b.*?</(?:script|style)>|<[^>]{0,500}>")
_TITLE = re.compile(r"(?is)<title[^>]*>(.*?)</title>")

_TOO_LONG = re.compile(
    r"context[ _]?(?:length|window|size)|maximum (?:model )?length|max_model_len|too many tokens|(?:prompt|input) is too long"
    r"|(?:exceeds?|longer than|larger than) the (?:maximum|model|available|limit)|too large for (?:the )?model|max_total_tokens"
    r"|inputs? (?:tokens|must have less than)|reduce the length",
    re.IGNORECASE,
)
_MODERATED = re.compile(
    r"content[_ ](?:policy|filter|management)|moderation|safety system|flagged|inappropriate content|data_inspection_failed"
    r"|responsible[_ ]?ai",
    re.IGNORECASE,
)
_QUOTA = re.compile(
    r"insufficient[_ ](?:quota|balance|funds|credits?)|exceeded your current quota|billing|out of credits?|credit balance|payment"
    r"|account (?:is )?(?:suspended|deactivated|overdue)|quota (?:is )?exhausted",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model[_ ]not[_ ]found|(?:unknown|invalid|unsupported|no such) model\b|model\b.{0,120}?(?:does not exist|not found|not (?:a )?"
    r"(?:valid|available|loaded|served))|no model (?:is )?loaded",
    re.IGNORECASE,
)
_NO_PICTURES = re.compile(
    r"image|multi-?modal|vision|mmproj|content type|expected (?:a )?string|must be (?:a )?string|string_type|str type",
    re.IGNORECASE,
)


_STARTING = re.compile(
    r"\bloading\b|warming up|still starting|starting up|not (?:yet )?ready|initiali[sz]ing|being (?:loaded|started)"
    r"|try again (?:later|shortly)",
    re.IGNORECASE,
)


class Trouble(NamedTuple):
    """A failed try. ``code``: the row's reason where no try succeeds; ``words``: the server's own."""

    code: str
    words: str
    scope: Scope


def words_of(data: bytes | str, limit: int = MAX_WORDS) -> str:
    """The words of an error body: its message where it is JSON, its title and text where it is HTML, else itself; one printable
    line of at most ``limit`` characters.

    >>> words_of(b'{"error": {"message": "no such model"}}')
    'no such model'
    """
    text = data[:20_000].decode("utf-8", "replace") if isinstance(data, bytes) else data
    try:
        text = _message(json.loads(text)) or text
    except (ValueError, RecursionError):
        if text.lstrip()[:1] == "<":
            title = _TITLE.search(text)
            plain = _MARKUP.sub(" ", text)
            text = f"(a web page) {title[1] if title and title[1].strip() else plain}"
    text = " ".join(_CONTROL.sub(" ", text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _message(value: Any, depth: int = 0) -> str:
    """The human part of an error body, wherever its maker puts it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(m for each in value[:4] if (m := _message(each, depth + 1)))
    if not isinstance(value, dict) or depth > 4:
        return ""
    where = ".".join(str(p) for p in value["loc"]) + ": " if isinstance(value.get("loc"), list) else ""
    for name in ("error", "message", "msg", "detail", "details", "errors", "error_msg", "reason", "title"):
        if name in value and (found := _message(value[name], depth + 1)):
            metadata = value.get("metadata")  # where a router puts what the server behind it said
            raw = _message(metadata.get("raw"), depth + 1) if isinstance(metadata, dict) else ""
            named = value.get("param")
            named = f" (param: {named})" if isinstance(named, str) and named not in found else ""
            return where + found + named + (f" ({raw})" if raw else "")
    return ""


def trouble_of(status: int, data: bytes, location: str = "") -> Trouble:
    """What a response with ``status`` other than a completion means; ``location``: where a redirect points to.

    >>> trouble_of(400, b"maximum context length is 4096 tokens").code
    'prompt_too_long'
    """
    words = words_of(data)
    if 300 <= status < 400:
        return Trouble(f"http_{status}", words_of(f"redirects to {location or '(nowhere)'}"), "server")
    if status < 300:
        return Trouble("bad_response", words or "(an empty response)", "moment")
    if _QUOTA.search(words) and status in (400, 402, 403, 429):
        return Trouble(f"http_{status}", words, "server")
    if status in (400, 403, 422, 451) and _MODERATED.search(words):
        return Trouble("refusal", words, "request")
    if status == 413 or status in (400, 422, 500) and _TOO_LONG.search(words):
        return Trouble("prompt_too_long", words, "request")
    if status in REFUSING_STATUSES or _NO_MODEL.search(words) and status in (400, 422):
        return Trouble(f"http_{status}", words, "server")
    return Trouble(f"http_{status}", words, "moment" if status in TRANSIENT_STATUSES else "request")


def starting(words: str) -> bool:
    """Whether a server says that it is not ready yet."""
    return bool(_STARTING.search(words))


def alike(words: str) -> str:
    """``words`` without what differs from one request to the next: numbers and ids. Equal for two failures for one reason."""
    return re.sub(r"\b(?=\w*\d)[\w-]+\b", "#", words)


_WHEN_CODE = {
    "unreachable": "start the server, or mend {setting}.urls",
    "tls": "mend {setting}.urls (http:// where the server has no certificate), or have this machine trust the server's certificate",
    "timeout": "look whether the server is busy or stuck; else raise {setting}.timeout_s and .deadline_s, or lower .concurrency",
    "connection": "look into the server's own log: it breaks off connections",
    "bad_response": "mend {setting}.urls: what answers there is no chat-completions server, or a proxy in front of one",
    "too_large": "raise {setting}.max_answer_bytes, or lower .max_tokens",
    "prompt_too_long": "give the server a longer context (vLLM: --max-model-len, llama.cpp: --ctx-size), "
    "or lower {setting}.image_size or .max_tokens",
    "prompt_refused": "give the engine a longer context (max_model_len in {setting}.engine), or lower .image_size",
    "http_401": "put the right key into the environment variable that {setting}.api_key_variable names",
    "http_402": "pay, or set {setting}.urls to another server",
    "http_403": "put a key for this model into the variable that {setting}.api_key_variable names, or choose another model",
    "http_404": "mend {setting}.urls (they mostly end in /v1) or {setting}.model",
    "http_405": "mend {setting}.urls: they mostly end in /v1",
    "http_407": "give the proxy its credentials, or leave it out (NO_PROXY)",
    "http_429": "wait, or lower {setting}.concurrency",
    "refusal": "choose another model: this server's filter turns the requests down",
    "image_gone": "look for the pictures of this lake: they cannot be read any more",
    "image_unreadable": "look at the pictures of this lake: they cannot be decoded",
    "truncated": "raise {setting}.max_tokens: a model that thinks needs some thousands, or have the server turn thinking off",
    "empty": "look at what the model says, and choose another model or raise {setting}.max_tokens",
    "not_json": "choose a model that can write JSON, or keep {setting}.structured on",
}
_WHATEVER = "look into the server's own log, mend it or {setting}"


def advice(code: str, words: str, setting: str) -> str:
    """What a person can do where every request fails with ``code`` and the server says ``words``; ``setting``: the name of the
    engine's settings, as in ``annotate.vision``.
    """
    if code.startswith("http_3"):
        told = "set {setting}.urls to the address that it redirects to"
    elif code.startswith("http_") and _QUOTA.search(words):
        told = _WHEN_CODE["http_402"]
    elif code.startswith("http_4") and _NO_MODEL.search(words):
        told = "set {setting}.model to a name that the server knows"
    elif (code.startswith("http_5") or code in ("http_400", "http_422")) and _NO_PICTURES.search(words):
        told = "{setting} needs a model that sees pictures: start the server with one, or set .urls and .model to one"
    elif code.startswith("http_4") and "max_tokens" in words:
        told = "lower {setting}.max_tokens"
    elif code.startswith("http_5") and starting(words):
        told = "wait until the server has its model loaded"
    elif code.startswith("http_5"):
        told = "look into the server's own log and mend it"
    else:
        told = _WHEN_CODE.get(code, _WHATEVER)
    return told.format(setting=setting)
