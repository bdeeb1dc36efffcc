"""The answer to every request: from the store where it is there, else from the back-end, and then stored as it comes.

This is the only place that spends: a step hands over its requests in batches and gets back one answer for each. Answers are
flushed every ``FLUSH_ROWS`` or ``FLUSH_SECONDS``, so that a killed run loses at most what was in flight.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from mmret.annotate.early_stop import EarlyStop
from mmret.annotate.protocol import Annotator, Answer, Kind, NoMore, Request
from mmret.annotate.store import AnswerStore
from mmret.errors import UserError

BATCH = 4096
"""Requests looked up, sent and parsed together; bounds the memory of a step."""
FLUSH_ROWS = 2048
FLUSH_SECONDS = 10.0
OnAnswer = Callable[[Request, Answer, int], None]


@dataclass
class Stats:
    """What a step did; filled while it runs, for its notes."""

    requests: int = 0
    sent: int = 0
    stored: int = 0  # found in the store, or sent for another pair of the same batch
    tokens_in: int = 0  # of the requests sent now
    tokens_out: int = 0
    cost: float = 0.0  # of those tokens, at the prices of the settings
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    words: dict[str, str] = field(default_factory=dict)  # a server's own, one example for each reason of a row


def get_answers(
    requests: Sequence[Request],
    annotator: Annotator,
    store: AnswerStore | None,
    stats: Stats,
    early_stop: EarlyStop | None = None,
    on_answer: OnAnswer | None = None,
) -> list[tuple[str, Answer]]:
    """Key and answer of each request, in order; the requests are of one kind. ``store`` None: nothing is looked up or stored.
    ``early_stop`` sees every answer, the known ones first. ``on_answer`` is called with a request, the answer that the back-end has
    just given to it, and how many of ``requests`` are answered.

    A request that the back-end never answers has an answer with ``error`` "no_answer". Raises what the back-end raises, or
    UserError where ``early_stop`` ends the run, after what was answered is stored.
    """
    if not requests:
        return []
    kind = requests[0].kind
    keys = [annotator.key(request) for request in requests]
    known = store.look_up(kind, keys) if store is not None else {}
    if early_stop is not None:
        for key, request in zip(keys, requests, strict=True):
            if key in known:
                early_stop.see(request, known[key])
    missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
    stats.requests += len(requests)
    stats.sent += len(missing)
    stats.stored += len(requests) - len(missing)
    if missing:
        before = len(requests) - len(missing)
        tell = None if on_answer is None else lambda request, answer, come: on_answer(request, answer, before + come)
        known |= _send(missing, kind, annotator, store, stats, early_stop, tell)
    lost = Answer(error="no_answer")
    return [(key, known.get(key, lost)) for key in keys]


def _send(
    requests: dict[str, Request],
    kind: Kind,
    annotator: Annotator,
    store: AnswerStore | None,
    stats: Stats,
    early_stop: EarlyStop | None,
    on_answer: OnAnswer | None,
) -> dict[str, Answer]:
    """The back-end's answers by key; those without an error are stored on the way."""
    keys = list(requests)
    answers: dict[str, Answer] = {}
    pending: list[str] = []

    def flush() -> None:
        if store is not None:
            about = [(requests[key].query_id, requests[key].target_id) for key in pending]
            store.append(kind, pending, [answers[key] for key in pending], about)
        pending.clear()

    def take(key: str, answer: Answer) -> None:
        answers[key] = answer
        stats.tokens_in += answer.tokens_in
        stats.tokens_out += answer.tokens_out
        stats.cost += annotator.cost(kind, answer.tokens_in, answer.tokens_out)
        if not answer.error:
            pending.append(key)
        if answer.words:
            stats.words.setdefault(answer.error, answer.words)

    last = time.monotonic()
    asked = list(requests.values())
    try:
        with closing(annotator.answers(asked)) as coming:  # type: ignore[type-var]
            try:
                for i, answer in coming:
                    take(keys[i], answer)
                    if on_answer is not None:
                        on_answer(asked[i], answer, len(answers))
                    if len(pending) >= FLUSH_ROWS or pending and time.monotonic() - last > FLUSH_SECONDS:
                        flush()
                        last = time.monotonic()
                    if early_stop is not None:
                        early_stop.see(asked[i], answer)
            except UserError:
                for i, answer in _under_way(coming):
                    take(keys[i], answer)
                raise
        if early_stop is not None:
            early_stop.finish(asked[-1])
    finally:
        flush()
    return answers


def _under_way(coming: Iterator[tuple[int, Answer]]) -> Iterator[tuple[int, Answer]]:
    """The answers that are paid for already where no more shall be asked."""
    if not isinstance(coming, Generator):
        return
    try:
        yield coming.throw(NoMore())
        yield from coming
    except (NoMore, StopIteration):
        return
