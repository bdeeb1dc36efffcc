"""Chooses which of several servers gets the next try.

Each server has a limited number of tries at a time, so one that hangs delays only those. A server that cannot be reached, or
fails three times in a row, is paused, each time twice as long, and starts again with a single try. One that asks to be left
alone is paused as long as it asks, and gets fewer tries at a time until it has answered for a while. One that refuses every
request (wrong key, unknown path) is not asked again. If none has answered for ``patience`` seconds, waiting ends. Costs
microseconds a try.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds a failing server is left alone, at first and at most."""
MAX_BAD_ANSWERS = 3
"""Bad answers in a row after which a server counts as failing."""


@dataclass
class Server:
    """What is known of one server."""

    url: str
    limit: float  # tries at a time that it bears
    in_flight: int = 0
    bad_answers: int = 0  # in a row
    failures: int = 0  # in a row
    paused_until: float = 0.0  # monotonic
    refusal: str = ""  # why it is never asked again


class Unreachable(Exception):
    """No server can be expected to answer."""


class Balancer:
    """Servers of one model, ``slots`` tries at a time on each. Belongs to one event loop."""

    def __init__(self, urls: tuple[str, ...], slots: int, patience: float):
        self.servers = [Server(url.rstrip("/"), slots) for url in dict.fromkeys(urls)]
        self.slots, self.patience = slots, patience
        self.any_answer = False
        self._last_success = time.monotonic()
        self._freed = asyncio.Condition()

    @property
    def capacity(self) -> int:
        """Tries at a time, on all servers together."""
        return self.slots * len(self.servers)

    @property
    def all_refuse(self) -> bool:
        """Whether no server takes requests as it is set up."""
        return all(s.refusal for s in self.servers)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Server]:
        """A try at the least busy server that is not paused; waits for one. Raises Unreachable."""
        server = await self._take()
        try:
            yield server
        finally:
            async with self._freed:
                server.in_flight -= 1
                self._freed.notify_all()

    def record_success(self, server: Server) -> None:
        """``server`` answered: it is no longer paused, and takes a little more at a time than before."""
        server.bad_answers, server.failures, server.paused_until = 0, 0, 0.0
        server.limit = min(self.slots, server.limit + 1 / server.limit)
        self._last_success = time.monotonic()
        self.any_answer = True

    def record_bad_answer(self, server: Server) -> None:
        """A bad answer, perhaps because of the request; after three in a row the server counts as failing."""
        server.bad_answers += 1
        if server.bad_answers >= MAX_BAD_ANSWERS:
            self.record_failure(server)

    def record_failure(self, server: Server) -> None:
        """Pause ``server``, longer with every failure in a row."""
        now = time.monotonic()
        if now < server.paused_until:
            return  # tries that were under way when the first of them failed tell nothing new
        server.failures += 1
        server.paused_until = now + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (server.failures - 1))

    def pause(self, server: Server, seconds: float) -> None:
        """Leave ``server`` alone for as long as it asks, a minute at most, and then give it half as many tries at a time."""
        if time.monotonic() >= server.paused_until:
            server.limit = max(1.0, server.limit / 2)
        server.paused_until = max(server.paused_until, time.monotonic() + min(seconds, LONGEST_PAUSE))

    async def _take(self) -> Server:
        async with self._freed:
            while True:
                now = time.monotonic()
                patience = self._last_success + self.patience - now
                if self.all_refuse or patience <= 0:
                    raise Unreachable
                free = [s for s in self.servers if self._has_slot(s, now)]
                if free:
                    server = min(free, key=lambda s: s.in_flight)
                    server.in_flight += 1
                    return server
                wakes = [s.paused_until - now for s in self.servers if not s.refusal and s.paused_until > now]
                try:
                    await asyncio.wait_for(self._freed.wait(), min([patience, *wakes]))
                except TimeoutError:
                    continue

    def _has_slot(self, server: Server, now: float) -> bool:
        return (
            not server.refusal and server.paused_until <= now and server.in_flight < (1 if server.failures else int(server.limit))
        )
