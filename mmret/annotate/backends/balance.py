"""Chooses which of several servers gets the next try.

Each server has a limited number of tries at a time, so one that hangs delays only those. A server that cannot be reached, or
fails three times in a row, is paused, each time twice as long, and starts again with a single try. One that asks to be left
alone is paused as long as it asks, and gets fewer tries at a time until it has answered for a while; so does one that lets many
time out in a row, for it answers fewer at a time than it is sent (llama.cpp: as many as it has slots). One that refuses every
request (wrong key, unknown path) is not asked again, nor is one that has answered nothing and said the same error to the first
tries; until its first answer a server gets a few tries at a time only. If none has answered for ``patience`` seconds, waiting
ends, sooner where none could be connected to. Servers may join and leave meanwhile. Costs microseconds a try.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mmret.annotate.backends.server_words import Trouble, alike, starting
from mmret.annotate.retry import UNREACHABLE

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds a failing server is left alone, at first and at most."""
MAX_BAD_ANSWERS = 3
"""Bad answers in a row after which a server counts as failing."""
PROBES = 8
"""Tries at a time on a server that has answered nothing yet."""
MAX_ALIKE = 10
"""Bad answers alike in a row after which a server that has answered nothing is taken to refuse every request."""
CONNECT_PATIENCE = 30.0
"""Seconds after which waiting ends where no server could be connected to."""
_TIMED_OUT = 0.25
"""Share of the tries at a time that a server bears which time out, with no answer between, before it is given half as many."""
_PASSING = frozenset({"http_408", "http_409", "http_425", "http_429", "http_502", "http_503", "http_504", "http_529"})
"""Codes of a server that is starting or busy: it is waited for."""


@dataclass
class Server:
    """What is known of one server."""

    url: str
    limit: float  # tries at a time that it bears
    in_flight: int = 0
    bad_answers: int = 0  # in a row
    failures: int = 0  # in a row
    paused_until: float = 0.0  # monotonic
    answered: bool = False
    trouble: Trouble | None = None  # the last
    alike: int = 0  # troubles like the last, in a row
    timeouts: int = 0  # since it last answered, or was given fewer tries for them
    refusal: str = ""  # why it is never asked again
    left: bool = False  # it is no longer among the servers


class Unreachable(Exception):
    """No server can be expected to answer."""


class Balancer:
    """Servers of one model, ``slots`` tries at a time on each. Belongs to one event loop."""

    def __init__(self, urls: tuple[str, ...], slots: int, patience: float, known: frozenset[str] = frozenset()):
        """``known``: URLs of servers that have answered before."""
        addresses = dict.fromkeys(url.rstrip("/") for url in urls)
        self.servers = [Server(url, slots, answered=url in known) for url in addresses]
        self.slots, self.patience = slots, patience
        self.any_answer = self.any_contact = False
        self._last_success = time.monotonic()
        self._closed = False
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def capacity(self) -> int:
        """Tries at a time, on all servers together."""
        return self.slots * sum(not s.left for s in self.servers)

    @property
    def in_flight(self) -> int:
        """Tries that are under way."""
        return sum(s.in_flight for s in self.servers)

    def update(self, urls: Iterable[str]) -> None:
        """The servers are those at ``urls`` from now on: new ones are asked, and those that left get no further try."""
        wanted = dict.fromkeys(url.rstrip("/") for url in urls)
        for server in self.servers:
            server.left = server.url not in wanted
        joined = set(wanted) - {s.url for s in self.servers}
        self.servers = [s for s in self.servers if not s.left or s.in_flight]
        self.servers += [Server(url, self.slots) for url in wanted if url in joined]
        if joined or not wanted:
            self._last_success = time.monotonic()  # a new one is waited for, and none at all is not these servers' silence
        if joined:
            self._wake()

    def close(self) -> None:
        """Begin no further try: whoever waits for one, waits for ever."""
        self._closed = True

    @property
    def all_refuse(self) -> bool:
        """Whether no server takes requests as it is set up."""
        there = [s for s in self.servers if not s.left]
        return bool(there) and all(s.refusal for s in there)

    @property
    def any_known(self) -> bool:
        """Whether some server has ever answered."""
        return any(s.answered for s in self.servers)

    @property
    def trouble(self) -> Trouble | None:
        """The last trouble of a server that was there, else of any."""
        found = [s.trouble for s in self.servers if s.trouble is not None]
        return next((t for t in found if t.code != UNREACHABLE), found[0] if found else None)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Server]:
        """A try at the least busy server that is not paused; waits for one. Raises Unreachable."""
        server = await self._take()
        try:
            yield server
        finally:
            server.in_flight -= 1
            self._wake()

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def record_success(self, server: Server) -> None:
        """``server`` answered: it is no longer paused, and takes a little more at a time than before."""
        server.bad_answers, server.failures, server.timeouts, server.paused_until = 0, 0, 0, 0.0
        server.limit = min(self.slots, server.limit + 1 / server.limit)
        self._last_success = time.monotonic()
        self.any_answer = self.any_contact = server.answered = True
        if not server.refusal:  # else it was asked before it began to refuse
            server.trouble, server.alike = None, 0

    def record_contact(self) -> None:
        """A server refused one request: it is there."""
        self.any_contact = True
        self._last_success = time.monotonic()

    def record_refusal(self, server: Server, trouble: Trouble) -> None:
        """``server`` refuses every request."""
        self._note(server, trouble)
        server.refusal = said(trouble)

    def record_bad_answer(self, server: Server, trouble: Trouble) -> None:
        """A bad answer, perhaps because of the request; after three in a row the server counts as failing."""
        self._note(server, trouble)
        passes = trouble.code in _PASSING or starting(trouble.words)
        if not server.answered and server.alike >= MAX_ALIKE and not passes:
            server.refusal = said(trouble)
        server.bad_answers += 1
        if server.bad_answers >= MAX_BAD_ANSWERS:
            self._fail(server)

    def record_failure(self, server: Server, trouble: Trouble) -> None:
        """Pause ``server``, longer with every failure in a row."""
        self._note(server, trouble)
        server.timeouts += trouble.code == "timeout"
        if server.timeouts > server.limit * _TIMED_OUT:
            server.limit, server.timeouts = max(1.0, server.limit / 2), 0
        self._fail(server)

    def _note(self, server: Server, trouble: Trouble) -> None:
        before, server.trouble = server.trouble, trouble
        same = before is not None and (before.code, alike(before.words)) == (trouble.code, alike(trouble.words))
        server.alike = server.alike + 1 if same else 1
        self.any_contact |= trouble.code != UNREACHABLE

    def _fail(self, server: Server) -> None:
        now = time.monotonic()
        if now < server.paused_until:
            return  # tries that were under way when the first of them failed tell nothing new
        server.failures += 1
        server.paused_until = now + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (server.failures - 1))

    def pause(self, server: Server, seconds: float, trouble: Trouble) -> None:
        """Leave ``server`` alone for as long as it asks, a minute at most, and then give it half as many tries at a time."""
        self._note(server, trouble)
        if time.monotonic() >= server.paused_until:
            server.limit = max(1.0, server.limit / 2)
        server.paused_until = max(server.paused_until, time.monotonic() + min(seconds, LONGEST_PAUSE))

    async def _take(self) -> Server:
        while True:
            now = time.monotonic()
            bound = self.patience if self.any_contact else min(self.patience, CONNECT_PATIENCE)
            patience = self._last_success + bound - now
            if self.all_refuse or patience <= 0:
                raise Unreachable
            free = [s for s in self.servers if self._has_slot(s, now)]
            if free:
                server = min(free, key=lambda s: s.in_flight)
                server.in_flight += 1
                return server
            wakes = [s.paused_until - now for s in self.servers if not s.refusal and s.paused_until > now]
            # a future of its own for each: a condition's lock may be lost when many waiters are cancelled at once
            freed = asyncio.get_running_loop().create_future()
            self._waiting.add(freed)
            try:
                await asyncio.wait([freed], timeout=min([patience, *wakes]))
            finally:
                self._waiting.discard(freed)

    def _has_slot(self, server: Server, now: float) -> bool:
        if self._closed or server.left or server.refusal or server.paused_until > now:
            return False
        places = 1 if server.failures else int(server.limit) if server.answered else min(PROBES, int(server.limit))
        return server.in_flight < places


def said(trouble: Trouble) -> str:
    """A trouble with the server's own words, in a line.

    >>> said(Trouble("http_401", "bad key", "server"))
    'HTTP 401 bad key'
    """
    status = trouble.code.removeprefix("http_")
    return f"HTTP {status} {trouble.words}".rstrip() if status != trouble.code else f"{trouble.code}: {trouble.words}".rstrip(": ")
