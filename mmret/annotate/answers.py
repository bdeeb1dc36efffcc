"""Asks a back-end what the store does not hold, and keeps every answer as it comes.

This is the only place that spends: a stage hands over its requests in batches and gets back one answer for each.
Answers are flushed every ``FLUSH_ROWS`` or ``FLUSH_SECONDS``, so that a killed run loses at most what was in flight.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmret.annotate.protocol import Annotator, Answer, Request
from mmret.annotate.store import AnswerStore

BATCH = 4096
"""Requests looked up, asked and parsed together; bounds the memory of a stage."""
FLUSH_ROWS = 2048
FLUSH_SECONDS = 10.0


@dataclass
class Tally:
    """What a stage did; filled while it runs, for its summary."""

    requests: int = 0
    sent: int = 0
    stored: int = 0  # found in the store, or asked by another pair of the same batch
    tokens_in: int = 0  # of the requests sent now
    tokens_out: int = 0
    cost: float = 0.0  # of those tokens, at the prices of the settings
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)


def ask(requests: Sequence[Request], annotator: Annotator, store: AnswerStore | None, tally: Tally) -> list[tuple[str, Answer]]:
    """Key and answer of each request, in order. ``store`` None: nothing is looked up or kept."""
    keys = [annotator.key(r) for r in requests]
    kind = requests[0].kind
    known = store.look_up(kind, keys) if store is not None else {}
    todo = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
    tally.requests += len(requests)
    tally.sent += len(todo)
    tally.stored += len(requests) - len(todo)
    if todo:
        asked = list(todo)
        pending: list[str] = []
        last = time.monotonic()

        def flush() -> None:
            if store is not None:
                store.append(kind, pending, [known[k] for k in pending])
            pending.clear()

        try:
            for i, answer in annotator.answers(list(todo.values())):
                key = asked[i]
                known[key] = answer
                tally.tokens_in += answer.tokens_in
                tally.tokens_out += answer.tokens_out
                tally.cost += annotator.cost(kind, answer.tokens_in, answer.tokens_out)
                if not answer.error:
                    pending.append(key)
                if len(pending) >= FLUSH_ROWS or pending and time.monotonic() - last > FLUSH_SECONDS:
                    flush()
                    last = time.monotonic()
        finally:
            flush()
    lost = Answer(error="no_answer")
    return [(key, known.get(key, lost)) for key in keys]
