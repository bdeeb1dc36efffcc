"""The parameters that one server takes. A request is written in OpenAI's first dialect; what a server refuses by name is left out
or renamed for that server from then on, and said once.

Changes no key: the question is the same. Costs one refused request for each parameter that a server does not take.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

_REFUSED = re.compile(
    r"unsupported|not supported|n[o']t support|unknown|unrecogni[sz]ed|unexpected|not permitted|extra (?:inputs|fields)|takes no"
    r"|not allowed|not accept|n[o']t accept|cannot (?:both )?be|can['’]t be|not valid|invalid|deprecated|only the default|no longer"
    r"|must (?:be|alternate)|should be|may only|only (?:be set|allowed)"
    r"|not implemented|not available|not enabled|instead|failed to parse|could not",
    re.IGNORECASE,
)
_TOO_MUCH = re.compile(r"too large|context|at most|less than or equal|maximum", re.IGNORECASE)
_SCHEMA = re.compile(
    r"response_format|json_schema|structured[_ ]outputs?|guided[_ ](?:json|decoding)|grammar|minItems|maxItems", re.I
)
_SYSTEM = re.compile(
    r"system (?:role|message|prompt|instruction)|developer instruction|roles must alternate|role.{0,20}system"
    r"|messages\W{0,2}0\W{1,3}role",
    re.I,
)
_OUT_OF_RANGE = re.compile(r"between|greater|less than|in (?:the )?range|positive|at (?:least|most)|>|<", re.IGNORECASE)
"""Words that speak of a value, which is the user's to mend, and not of the parameter."""
_OPTIONAL = ("top_p", "temperature", "seed")
_STATUSES = {400, 404, 415, 422, 500, 501}
"""Statuses with which servers refuse a parameter."""


@dataclass
class Dialect:
    """What one server does not take: ``left_out`` parameters, ``renamed`` ones, and whether it wants no system message."""

    left_out: set[str] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)
    no_system: bool = False

    def body(self, body: dict[str, Any]) -> dict[str, Any]:
        """``body`` as this server takes it."""
        told = {self.renamed.get(name, name): value for name, value in body.items() if name not in self.left_out}
        if self.no_system:
            told["messages"] = _without_system(body["messages"])
        return told

    def learn(self, status: int, words: str, body: dict[str, Any]) -> str:
        """What is changed because the server refused ``body`` (as sent) with ``words``, in words; "" where they name nothing of it.

        >>> Dialect().learn(400, "unsupported parameter: use max_completion_tokens", {"max_tokens": 512})
        'max_completion_tokens instead of max_tokens'
        """
        if status not in _STATUSES or not _REFUSED.search(words):
            return ""
        if "response_format" in body and _SCHEMA.search(words):
            self.left_out.add("response_format")
            return "no response_format"
        limit = "max_tokens" if "max_tokens" in body else "max_completion_tokens"
        if _names(words, "max_tokens") or _names(words, "max_completion_tokens"):
            if limit == "max_tokens" and (_names(words, "max_completion_tokens") or not _TOO_MUCH.search(words)):
                if not re.search(r"too large|context", words, re.IGNORECASE):
                    self.renamed["max_tokens"] = "max_completion_tokens"
                    return "max_completion_tokens instead of max_tokens"
            elif limit in body and not _TOO_MUCH.search(words) and _names(words, limit):
                self.left_out.add("max_tokens")
                return "no limit of tokens"
        for name in _OPTIONAL if not _OUT_OF_RANGE.search(words) else ():
            if name in body and _names(words, name):
                self.left_out.add(name)
                return f"no {name}"
        if not self.no_system and _SYSTEM.search(words) and body["messages"][0]["role"] == "system":
            self.no_system = True
            return "the system message as part of the user's"
        return ""


def _names(words: str, parameter: str) -> bool:
    return bool(re.search(rf"(?<![A-Za-z_]){parameter}(?![A-Za-z_])", words))


def _without_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``messages`` with the system's text at the head of the user's."""
    system, user = messages[0]["content"], messages[1]["content"]
    content = f"{system}\n\n{user}" if isinstance(user, str) else [{"type": "text", "text": system}, *user]
    return [{"role": "user", "content": content}, *messages[2:]]
