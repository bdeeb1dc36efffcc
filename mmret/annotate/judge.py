"""The optional self-check: a judge scores each pair's instructions against both pictures, and low scores are rejects.

Not in the paper, which publishes no filter. One further VLM call per pair that has instructions; its answers are
stored like all others, so a raised threshold asks nothing again.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmret.annotate.parse import Parsed
from mmret.annotate.protocol import Request
from mmret.settings import AnnotateSettings


def judge_request(request: Request, texts: Sequence[str]) -> Request:
    """The question whether ``texts`` lead from source to target and tell nothing else of the source."""
    return request._replace(kind="judge", instructions=tuple(texts), description="", attempt=0)


def verdict(parsed: Parsed, settings: AnnotateSettings) -> tuple[str, str]:
    """Status and reason of a pair for the scores in ``parsed``: ``ok``, ``rejected``, or ``failed`` where there are none."""
    if parsed.scores is None:
        return "failed", f"judge_{parsed.reason}"
    fidelity, discretion = parsed.scores
    if fidelity < settings.judge_minimum:
        return "rejected", "low_fidelity"
    if discretion < settings.judge_minimum:
        return "rejected", "low_discretion"
    return "ok", ""
