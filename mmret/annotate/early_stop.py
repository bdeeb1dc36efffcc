"""Stops a run whose first dozens of requests all fail: the rest would cost as much and fail alike.

While a model has given nothing usable, every failure is counted; after ``STOP_AFTER`` of them the run ends with the commonest
reason, the other side's own words and what to do. Rows are not written then, so that the next run asks again. A few requests that
fail although the model has answered others are those requests' own trouble, and become rows. Costs the parsing of the answers up to
the first usable one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from mmret.annotate.backends.server_words import advice, words_of
from mmret.annotate.kinds import engine_setting
from mmret.annotate.protocol import Annotator, Answer, Request
from mmret.annotate.retry import TRANSIENT_REASONS
from mmret.errors import UserError
from mmret.settings import AnnotateSettings

STOP_AFTER = 24
"""Failures, with nothing usable, after which a run stops."""
STOP_IN_A_ROW = 60
"""Requests refused alike, one after the other, after which a run stops although there were answers before."""
_MIN_QUERIES = 6
"""Query images that unusable answers must be about: a model may be right to refuse those of one picture."""
_REQUESTS_OWN = frozenset({"prompt_too_long", "prompt_refused", "refusal", "image_gone", "image_unreadable", "no_answer"})
"""Reasons that lie in the request: they stop a run only where dozens meet them."""
_SEEN_HERE = frozenset({"unreachable", "tls", "timeout", "connection", "too_large"})

ReasonOf = Callable[[Request, Answer], str]
"""Function of a request and its answer: why the answer cannot be used, "" where it can."""


class EarlyStop:
    """Watches the answers of one step, in the order they come."""

    def __init__(self, annotator: Annotator, settings: AnnotateSettings, reason_of: ReasonOf):
        self.annotator, self.settings, self.reason_of = annotator, settings, reason_of
        self.usable = False
        self._failed: Counter[str] = Counter()
        self._words: dict[str, str] = {}
        self._queries: set[str] = set()
        self._answered = 0
        self._in_a_row = 0
        self._last = ""

    def see(self, request: Request, answer: Answer) -> None:
        """Take note of an answer. Raises UserError where the run should stop."""
        if not answer.error:
            self._in_a_row, self._last = 0, ""
            if self.usable:
                return
        reason = answer.error or self.reason_of(request, answer)
        if not reason:
            self.usable = True
            return
        if self.usable:
            self._see_refusals(request, reason, answer)
            return
        if self.annotator.experience == "here" and reason in TRANSIENT_REASONS:
            return  # a retry of requests that may never succeed: counted over runs, not here
        self._count(request, reason, answer)
        if self._failed.total() >= STOP_AFTER and (len(self._queries) >= _MIN_QUERIES or not self._answered):
            raise UserError(self._message(request))

    def finish(self, request: Request) -> None:
        """Take note that there are no more; ``request`` is the last. Raises UserError where not one of a few was answered."""
        own_trouble = _REQUESTS_OWN.issuperset(self._failed)
        if not self.usable and self._failed and not self._answered and not own_trouble and self.annotator.experience == "none":
            raise UserError(self._message(request))

    def _count(self, request: Request, reason: str, answer: Answer) -> None:
        self._failed[reason] += 1
        self._queries.add(request.query_id)
        self._answered += not answer.error
        if words := answer.words or words_of(answer.text, 120):
            self._words.setdefault(reason, words)

    def _see_refusals(self, request: Request, reason: str, answer: Answer) -> None:
        """Refusals in the middle of a run: rows with them would be kept, so a server that was changed must not make them."""
        if reason in TRANSIENT_REASONS or reason in _REQUESTS_OWN:
            return
        self._in_a_row = self._in_a_row + 1 if reason == self._last else 1
        self._last = reason
        if self._in_a_row >= STOP_IN_A_ROW:
            self._failed, self._words, self._answered = Counter({reason: self._in_a_row}), {reason: answer.words}, 0
            raise UserError(self._message(request))

    def _message(self, request: Request) -> str:
        (reason, count), total = self._failed.most_common(1)[0], self._failed.total()
        model = self.annotator.model_for(request.kind)
        setting = engine_setting(request.kind, self.settings)
        words = self._words.get(reason, "")
        if self._answered:
            what = f"none of the first {total:,} answers of {model} can be used: {count:,} × {reason}"
            quoted = f", for example “{words}”" if words else ""
        else:
            requests = f"the last {total:,}" if self.usable else f"the first {total:,}"
            what = f"{model} answered none of {requests} requests: {count:,} × {reason}"
            whose = "what happened" if reason in _SEEN_HERE else "in the server's own words"
            quoted = f"; {whose}: “{words}”" if words else ""
        return (
            f"{what}{quoted}. What to do: {advice(reason, words, setting)}; then run again. "
            "No row was written for them; what was answered is kept and is not paid again"
        )
