"""The answer to every request: from the store where it is there, else from the back-end, and then stored as it comes.

This is the only place that spends: a step hands over its requests in batches and gets back one answer for each. Answers are
flushed every ``FLUSH_ROWS`` or some seconds, so that a killed run loses at most what was in flight. As often it looks what others
have stored meanwhile, and sends what it finds there no more: a shard may be worked on twice on a cluster (a lost node that was not
dead), and two shards may ask the same.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from mmret.annotate.early_stop import EarlyStop
from mmret.annotate.protocol import Annotator, Answer, NoMore, Request
from mmret.annotate.store import AnswerStore
from mmret.errors import UserError

BATCH = 4096
"""Requests looked up, sent and parsed together; bounds the memory of a step."""
FLUSH_ROWS = 2048
FLUSH_SECONDS = 10.0
OBJECT_STORE_FLUSH_SECONDS = 30.0
"""In an object store. A node that is lost was paid half a minute for nothing, a hundredth of an hour's work; and ten nodes
make 1,200 files an hour, a listing of two pages: with files a second apart they would have to be merged all the time."""
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
    seen: set[str] = set()
    known = store.look_up(kind, keys, seen) if store is not None else {}
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
        known |= _Sending(missing, annotator, store, seen, stats, early_stop, on_answer, before).answers()
    lost = Answer(error="no_answer")
    return [(key, known.get(key, lost)) for key in keys]


class _Sending:
    """The requests that were not stored when their batch began, by key, on their way to the back-end. Answers without an error are
    stored as they come. ``seen``: the store's files that have none of these; ``known``: how many others of the batch
    are answered."""

    def __init__(
        self,
        requests: dict[str, Request],
        annotator: Annotator,
        store: AnswerStore | None,
        seen: set[str],
        stats: Stats,
        early_stop: EarlyStop | None,
        on_answer: OnAnswer | None,
        known: int,
    ):
        self._keys = list(requests)
        if store is not None and not store.is_local:  # two machines with the same shard shall not go through it side by side
            start = secrets.randbelow(len(requests))
            self._keys = self._keys[start:] + self._keys[:start]
        self._requests = [requests[key] for key in self._keys]
        self._by_key = requests
        self._kind = self._requests[0].kind
        self._annotator, self._store, self._seen, self._stats = annotator, store, seen, stats
        self._early_stop, self._on_answer, self._known = early_stop, on_answer, known
        self._seconds = FLUSH_SECONDS if store is None or store.is_local else OBJECT_STORE_FLUSH_SECONDS
        self._answers: dict[str, Answer] = {}
        self._pending: list[str] = []
        self._of_others: set[str] = set()

    def answers(self) -> dict[str, Answer]:
        """The answers by key."""
        last = time.monotonic()
        self._annotator.skip = lambda i: self._keys[i] in self._of_others
        try:
            with closing(self._annotator.answers(self._requests)) as coming:  # type: ignore[type-var]
                try:
                    for i, answer in coming:
                        self._take(self._keys[i], answer)
                        if self._on_answer is not None:
                            self._on_answer(self._requests[i], answer, self._known + len(self._answers))
                        if len(self._pending) >= FLUSH_ROWS:
                            self._flush()
                        if time.monotonic() - last > self._seconds:
                            self._flush()
                            self._look_at_others()
                            last = time.monotonic()
                        if self._early_stop is not None:
                            self._early_stop.see(self._requests[i], answer)
                except UserError:
                    for i, answer in _under_way(coming):
                        self._take(self._keys[i], answer)
                    raise
            if self._early_stop is not None:
                self._early_stop.finish(self._requests[-1])
        finally:
            self._annotator.skip = None
            self._flush()
        return self._answers

    def _take(self, key: str, answer: Answer) -> None:
        if key in self._of_others:  # it was sent before the other's answer was seen
            if answer.error:
                return
            self._of_others.discard(key)
            self._stats.sent += 1
            self._stats.stored -= 1
        self._answers[key] = answer
        if answer.tokens_in or answer.tokens_out:
            self._stats.tokens_in += answer.tokens_in
            self._stats.tokens_out += answer.tokens_out
            self._stats.cost += self._annotator.cost(self._kind, answer.tokens_in, answer.tokens_out)
        if not answer.error:
            self._pending.append(key)
        if answer.words:
            self._stats.words.setdefault(answer.error, answer.words)

    def _flush(self) -> None:
        if self._store is not None:
            about = [(self._by_key[key].query_id, self._by_key[key].target_id) for key in self._pending]
            self._store.append(self._kind, self._pending, [self._answers[key] for key in self._pending], about)
        self._pending.clear()

    def _look_at_others(self) -> None:
        """Take over what others have stored since: it is sent no more."""
        waiting = [key for key in self._keys if key not in self._answers]
        if self._store is None or not waiting:
            return
        for key, answer in self._store.look_up(self._kind, waiting, self._seen).items():
            self._of_others.add(key)
            self._answers[key] = answer
            self._stats.sent -= 1
            self._stats.stored += 1
            if self._on_answer is not None:
                self._on_answer(self._by_key[key], answer, self._known + len(self._answers))


def _under_way(coming: Iterator[tuple[int, Answer]]) -> Iterator[tuple[int, Answer]]:
    """The answers that are paid for already where no more shall be asked."""
    if not isinstance(coming, Generator):
        return
    try:
        yield coming.throw(NoMore())
        yield from coming
    except (NoMore, StopIteration):
        return
