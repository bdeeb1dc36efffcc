"""Starts the server at once and loads behind it, stops it without losing what is being answered.

The first signal lets requests in flight finish, for a bounded time; the second ends the process.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.search.models import pick_recipe
from mmret.search.options import SearchOptions
from mmret.search.search import Searcher
from mmret.serve.access import OWN_NAMES, Access, is_loopback, require_token
from mmret.serve.app import build
from mmret.serve.connections import HEAD_SECONDS, connection_class
from mmret.serve.desk import Desk, ready_of_all
from mmret.serve.fetch import Fetcher
from mmret.serve.limits import Limits
from mmret.serve.metrics import Metrics
from mmret.serve.public import public_rows
from mmret.serve.rates import Rates
from mmret.serve.rows import Rows
from mmret.settings import Profile
from mmret.web.listener import listen

if TYPE_CHECKING:
    from mmret.search.service import SearchService

STOP_SECONDS = 10
"""So long requests in flight may take once the server is to stop."""
RATE = 50
"""Requests a second from one address, where others than this machine are let in."""


@dataclass(frozen=True)
class ServeOptions:
    """``recipes``: those that can be asked for, the first by default; none: the first that is trained. ``rate``: requests a second
    from one address, 0 for any number, None for :data:`RATE` or, on a loopback address, any. ``rerankers``: those that a request
    may have its results ordered by."""

    host: str = "127.0.0.1"
    port: int = 8421
    recipes: tuple[str, ...] = ()
    rate: int | None = None
    access: Access = field(default_factory=Access)
    limits: Limits = field(default_factory=Limits)
    search: SearchOptions = field(default_factory=SearchOptions)
    rerankers: tuple[str, ...] = ()


def serve(lake: Lake, profile: Profile, options: ServeOptions) -> None:
    """Serve ``lake``, whose settings are ``profile``, until a signal. Raises UserError as :class:`SearchServer` does."""
    server = SearchServer(lake, profile, options)
    print(
        f"search of {lake.address} with {', '.join(server.service.recipes)}: {server.address}  (routes: {server.address}/docs)",
        flush=True,
    )
    try:
        server.run()
    except KeyboardInterrupt:  # uvicorn hands on the signal that ended it, once everything is answered
        pass
    finally:
        ended = server.end()
        print("stopped", file=sys.stderr, flush=True)
        if not ended:  # a model that is being loaded, or a corpus being embedded, is not waited for: what is embedded stays
            sys.stdout.flush()
            os._exit(0)


class SearchServer(uvicorn.Server):
    """A server of ``lake`` that listens from now on, at ``address``, and answers within :meth:`run`.

    Raises UserError for a lake without pictures, an unknown recipe, a port that is taken, and a host that lets others in without
    a token.
    """

    def __init__(self, lake: Lake, profile: Profile, options: ServeOptions):
        require_token(options.host, options.access.token)
        if not lake.partitions("images"):
            raise UserError(f"{lake.address} holds no images yet: run `mmret run --lake {lake.address}` first")
        recipes = [pick_recipe(lake, profile, recipe) for recipe in dict.fromkeys(options.recipes or (None,))]
        self._listener, self.address = listen(options.host, options.port)
        from mmret.search.service import SearchService  # and torch with it: whoever asks by now waits

        metrics = Metrics()
        self.service = SearchService(
            Searcher(lake, profile, options.search, public_rows), recipes, observe=metrics.observe, rerankers=options.rerankers
        )
        self.service.start()
        metrics.follow(lambda: ready_of_all(self.service))
        super().__init__(_configuration(lake, self.service, metrics, options))

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer requests until a signal, or until ``should_exit`` is set."""
        super().run(sockets=[self._listener])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal does: the first lets requests finish, the second does not."""
        self._captured_signals.append(sig)
        self.force_exit = self.should_exit
        self.should_exit = True

    def end(self) -> bool:
        """Stop the search; whether it stopped within a few seconds."""
        stopping = threading.Thread(target=self.service.stop, daemon=True)
        stopping.start()
        stopping.join(0.1 if self.force_exit else 5)
        return not stopping.is_alive()


def _configuration(lake: Lake, service: SearchService, metrics: Metrics, options: ServeOptions) -> uvicorn.Config:
    local = is_loopback(options.host)
    access, limits = options.access, options.limits
    hosts = tuple(dict.fromkeys((*OWN_NAMES, options.host, *access.hosts))) if local else access.hosts
    access = Access(access.token, tuple(host.lower() for host in hosts), access.origins, access.fetch)
    rate = options.rate if options.rate is not None else 0 if local else RATE
    desk = Desk(lake, service, limits, metrics, Fetcher(access.fetch, limits) if access.fetch else None)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # a line for every form that is broken
    return uvicorn.Config(
        build(desk, Rows(lake), access, Rates(rate)),
        http=connection_class(limits, HEAD_SECONDS),
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
