"""Sorts the finish reasons of many servers into four kinds: finished, truncated, filtered, or one that only the back-end knows.

OpenAI's words are one maker's: others say ``eos_token``, ``end_turn``, ``STOP``, ``COMPLETE``, nothing at all, or an object. An
unknown word does not spoil a good answer: what was said is then judged by itself. Costs about 2 us an answer.
"""

from __future__ import annotations

import re

_FINISHED = frozenset(
    "stop stopped eos eos_token eot end_turn end_of_turn end_of_text endoftext end stop_sequence stop_token stop_string complete "
    "completed complete_response finish finished done success normal tool_calls tool_call tool_use function_call null none "
    "unspecified unknown".split()
)
_TRUNCATED = frozenset(
    "length max_length max_tokens max_token max_new_tokens max_output_tokens max_completion_tokens token_limit token_limit_reached "
    "model_length context_length context_length_exceeded model_context_window_exceeded incomplete truncated".split()
)
_FILTERED = frozenset(
    "content_filter content_filtered contentfilter filtered safety refusal refused recitation blocklist blocked prohibited_content "
    "spii image_safety error_toxic toxic sensitive guardrail_intervened guardrails moderation policy_violation".split()
)
_WORD = re.compile(r"[a-z]+(?:_[a-z]+)*")
_MAX_CHARACTERS = 200


def finish_kind(finish_reason: str) -> str:
    """``finished``, ``truncated``, ``filtered``, or the unknown word itself, in small letters.

    >>> [finish_kind(w) for w in ("eos_token", "FinishReason.MAX_TOKENS", "{'type': 'stop', 'matched': 2}", "identical_captions")]
    ['finished', 'truncated', 'finished', 'identical_captions']
    """
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", finish_reason[:_MAX_CHARACTERS]).lower().replace("-", "_").replace(" ", "_")
    words = _WORD.findall(snake)
    for kind, names in (("filtered", _FILTERED), ("truncated", _TRUNCATED), ("finished", _FINISHED)):
        if any(word in names or word.endswith(tuple(f"reason_{name}" for name in names)) for word in words):
            return kind
    return words[0] if words else "finished"
