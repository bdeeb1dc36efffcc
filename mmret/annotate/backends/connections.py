"""One HTTP client for each request under way, kept for the next, since httpx's own pool looks at all connections for every request.

With 512 places that takes longer than the answers: of 2,048 requests to a server that needs 2 s, not all were answered in a minute.
Clients share their TLS context, and take proxies from the environment as httpx does. Belongs to one event loop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType

import httpx


class Connections:
    """``async with Connections(...) as connections: async with connections.client() as client``.

    ``timeout``: of a request; ``headers``: of all requests.
    """

    def __init__(self, timeout: httpx.Timeout, headers: Mapping[str, str]):
        self._settings = {"timeout": timeout, "headers": dict(headers), "verify": httpx.create_ssl_context()}
        self._idle: defaultdict[str, list[httpx.AsyncClient]] = defaultdict(list)
        self._all = AsyncExitStack()

    async def __aenter__(self) -> Connections:
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._all.aclose()

    @asynccontextmanager
    async def client(self, url: str) -> AsyncIterator[httpx.AsyncClient]:
        """A client that nobody else uses meanwhile, for the server at ``url`` alone, so that there are no more connections than
        that server's places; the one that was given back last, whose connection is the freshest."""
        idle = self._idle[url]
        client = idle.pop() if idle else await self._new()
        try:
            yield client
        finally:
            idle.append(client)

    async def _new(self) -> httpx.AsyncClient:
        return await self._all.enter_async_context(httpx.AsyncClient(**self._settings))
