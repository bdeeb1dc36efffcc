"""Which of several servers gets the next try.

Every server has its own number of places, so one that hangs holds up no more than those. A server that cannot be
reached, or fails three times in a row, rests, twice as long each time, and comes back with a single try. One that says
it is asked too often rests as long as it says, and gets fewer places until it has answered for a while. One that
refuses everybody (wrong key, unknown path) is out for good. Where none has answered for ``patience`` seconds, waiting
ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

FIRST_REST, LONGEST_REST = 0.5, 60.0
"""Seconds a failing server is left alone, at first and at most."""
SLIPS = 3
"""Bad answers in a row after which a server counts as failing."""


@dataclass
class Server:
    url: str
    limit: float  # tries at a time that it bears
    busy: int = 0
    slips: int = 0  # bad answers in a row
    failures: int = 0  # rests in a row
    rests_until: float = 0.0  # monotonic
    out: str = ""  # why it is never asked again


class Unreachable(Exception):
    """No server can be expected to answer."""


class Balancer:
    """Servers of one model, ``places`` tries at a time on each. Belongs to one event loop."""

    def __init__(self, urls: tuple[str, ...], places: int, patience: float):
        self.servers = [Server(url.rstrip("/"), places) for url in dict.fromkeys(urls)]
        self.places, self.patience = places, patience
        self.answered = False
        self._last_success = time.monotonic()
        self._freed = asyncio.Condition()

    @property
    def capacity(self) -> int:
        return self.places * len(self.servers)

    @property
    def all_out(self) -> bool:
        return all(s.out for s in self.servers)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Server]:
        """A place on the least busy server that is not resting; waits for one. Raises Unreachable."""
        server = await self._take()
        try:
            yield server
        finally:
            async with self._freed:
                server.busy -= 1
                self._freed.notify_all()

    def succeeded(self, server: Server) -> None:
        server.slips, server.failures, server.rests_until = 0, 0, 0.0
        server.limit = min(self.places, server.limit + 1 / server.limit)
        self._last_success = time.monotonic()
        self.answered = True

    def slipped(self, server: Server) -> None:
        """A bad answer, perhaps the request's own fault; three in a row are the server's."""
        server.slips += 1
        if server.slips >= SLIPS:
            self.failed(server)

    def failed(self, server: Server) -> None:
        """Let ``server`` rest, longer with every time in a row."""
        now = time.monotonic()
        if now < server.rests_until:
            return  # tries that were under way when the first of them failed tell nothing new
        server.failures += 1
        server.rests_until = now + min(LONGEST_REST, FIRST_REST * 2 ** (server.failures - 1))

    def rest(self, server: Server, seconds: float) -> None:
        """Leave ``server`` alone for as long as it asked for, within reason, and then ask it less."""
        if time.monotonic() >= server.rests_until:
            server.limit = max(1.0, server.limit / 2)
        server.rests_until = max(server.rests_until, time.monotonic() + min(seconds, LONGEST_REST))

    async def _take(self) -> Server:
        async with self._freed:
            while True:
                now = time.monotonic()
                patience = self._last_success + self.patience - now
                if self.all_out or patience <= 0:
                    raise Unreachable
                free = [s for s in self.servers if self._has_place(s, now)]
                if free:
                    server = min(free, key=lambda s: s.busy)
                    server.busy += 1
                    return server
                wakes = [s.rests_until - now for s in self.servers if not s.out and s.rests_until > now]
                try:
                    await asyncio.wait_for(self._freed.wait(), min([patience, *wakes]))
                except TimeoutError:
                    continue

    def _has_place(self, server: Server, now: float) -> bool:
        return not server.out and server.rests_until <= now and server.busy < (1 if server.failures else int(server.limit))
