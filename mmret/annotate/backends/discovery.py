"""Where the servers of a model are, while they come and go: listed by hand, behind a name of the DNS, in Ray Serve, or in the lake.

====================================  ==========================================================================================
``http://HOST:PORT/v1``               one server, or whatever balances behind that address
``dns+http://NAME:PORT/v1``           every address of NAME, as of a headless service of Kubernetes
``ray://serve`` or ``ray://serve/APP``  the proxies of Ray Serve on every node of the cluster, which balance over its replicas
``lake://servers``                    the servers that ``mmret register`` makes known in the lake
====================================  ==========================================================================================

A look costs a resolution, a request or a listing, every ``LOOK_S`` while requests are sent. A look that fails changes nothing.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import httpx

from mmret.annotate.backends.address import check_addresses
from mmret.annotate.backends.server_words import words_of
from mmret.annotate.servers import RegisteredServers
from mmret.errors import UserError
from mmret.storage import Storage

LOOK_S = 10.0
"""Seconds between two looks."""
NONE_FOUND_S = 180.0
"""Seconds without any server after which a run ends."""
_RAY_TIMEOUT_S = 10.0
_NO_ANSWER = (ValueError, AttributeError, KeyError, TypeError)
"""What comes of an answer that is not Ray's, as of a proxy that says in HTML that it is busy."""


class Place(Protocol):
    """A place where servers are found."""

    nothing: str
    """What is so where none is found, and what to do."""

    def find(self) -> list[str]:
        """Their URLs at the moment; may wait for the network. Raises OSError or httpx.HTTPError where it cannot be asked."""
        ...


class DnsName:
    """All addresses of a name."""

    def __init__(self, url: str, setting: str):
        self.url = url.removeprefix("dns+")
        check_addresses((self.url,), setting)
        self.parts = urlsplit(self.url)
        self.nothing = (
            f"the name {self.parts.hostname} has no address (of a headless service: no pod is ready): start the servers, or mend "
            f"{setting}.urls"
        )

    def find(self) -> list[str]:
        try:
            found = socket.getaddrinfo(self.parts.hostname, self.parts.port or 80, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
                return []
            raise
        addresses = sorted({str(address[0]) for *_, address in found})
        return [self.parts._replace(netloc=f"{_bracketed(a)}:{self.parts.port or 80}").geturl() for a in addresses]


class RayServe:
    """The HTTP proxies of Ray Serve: each balances over all replicas, wherever they are."""

    def __init__(self, url: str, setting: str):
        self.application = urlsplit(url).path.strip("/")
        self.setting = setting
        what = f"the application {self.application}" if self.application else "an application"
        self.nothing = (
            f"Ray Serve has no proxy that is well and {what} that runs: look at `serve status`, and start it with `serve run`"
        )

    def find(self) -> list[str]:
        response = httpx.get(f"{self._dashboard()}/api/serve/applications/", headers=_ray_token(), timeout=_RAY_TIMEOUT_S)
        if response.status_code in (401, 403):
            raise UserError(f"{self.setting}.urls: the Ray cluster refuses the token: set RAY_AUTH_TOKEN to the cluster's")
        response.raise_for_status()
        try:
            told = dict(response.json())
        except (ValueError, TypeError):
            raise ConnectionError(f"what answers at {response.url} is no dashboard of Ray") from None
        running = {
            name: (each.get("route_prefix") or "/").rstrip("/")
            for name, each in (told.get("applications") or {}).items()
            if each.get("status") == "RUNNING" and self.application in ("", name)
        }
        if len(running) > 1:
            raise UserError(
                f"{self.setting}.urls: Ray Serve runs {', '.join(sorted(running))}: name one, as ray://serve/{min(running)}"
            )
        port = (told.get("http_options") or {}).get("port") or 8000
        nodes = sorted(
            p["node_ip"] for p in (told.get("proxies") or {}).values() if p.get("status") == "HEALTHY" and p.get("node_ip")
        )
        return [f"http://{_bracketed(node)}:{port}{prefix}/v1" for prefix in running.values() for node in nodes]

    def _dashboard(self) -> str:
        if told := os.environ.get("RAY_DASHBOARD_ADDRESS") or os.environ.get("RAY_API_SERVER_ADDRESS"):
            return told.rstrip("/")
        if not os.environ.get("RAY_ADDRESS"):  # left to itself Ray takes whichever cluster runs on this machine
            raise UserError(
                f"{self.setting}.urls: which Ray cluster? Set RAY_DASHBOARD_ADDRESS to the head node's http://HOST:8265"
            )
        try:
            from ray.dashboard.utils import get_address_for_submission_client
        except ImportError:
            raise UserError(
                f"{self.setting}.urls: set RAY_DASHBOARD_ADDRESS to the head node's http://HOST:8265, or "
                "pip install 'mmret[cluster]'"
            ) from None
        try:
            return get_address_for_submission_client("auto").rstrip("/")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConnectionError(f"no Ray cluster is found from here ({words_of(str(error), 120)})") from None


class LakeServers:
    """Those that made themselves known in the lake."""

    def __init__(self, url: str, setting: str, model: str, storage: Storage | None):
        if storage is None:
            raise UserError(f"{setting}.urls: {url} is a place in a lake, and there is none here: name the servers")
        self.model, self.servers = model, RegisteredServers(storage)
        self._address = storage.address

    @property
    def nothing(self) -> str:
        others = self.servers.models()
        known = f" (those there serve {', '.join(words_of(name) for name in others[:8])})" if others else ""
        return (
            f"no server of model {self.model} has made itself known in {self._address}{known}: start one with "
            f"`mmret register --lake {self._address} -- vllm serve {self.model}`"
        )

    def find(self) -> list[str]:
        return self.servers.of(self.model)


class Whereabouts:
    """The servers of one model, wherever its settings say that they are found."""

    def __init__(self, urls: Sequence[str], setting: str, model: str, storage: Storage | None):
        """Raises UserError where one of ``urls`` is neither an address nor a place."""
        self.fixed = tuple(url for url in urls if "://" not in url or url.startswith(("http:", "https:")))
        check_addresses(self.fixed, setting)
        self.places = [_place(url, setting, model, storage) for url in urls if url not in self.fixed]
        self._found: dict[int, list[str]] = {}
        self._since: float | None = None  # when there was none the first time
        self._trouble = ""

    def look(self) -> tuple[str, ...]:
        """Addresses at the moment. Raises UserError where there has been none for ``NONE_FOUND_S`` seconds."""
        for n, place in enumerate(self.places):
            try:
                self._found[n] = place.find()
                self._trouble = ""
            except UserError:
                raise
            except (OSError, httpx.HTTPError, httpx.InvalidURL, *_NO_ANSWER) as error:
                self._trouble = f"; at the last look: {words_of(str(error), 160)}"
        found = tuple(dict.fromkeys([*self.fixed, *(url for urls in self._found.values() for url in urls)]))
        if found:
            self._since = None
            return found
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since >= NONE_FOUND_S:
            self._since = None
            raise UserError(
                f"for {NONE_FOUND_S / 60:.2g} minutes there was no server to ask: {'; '.join(p.nothing for p in self.places)}"
                f"{self._trouble}. Then run again: what was answered is kept and is not paid again"
            )
        return ()


def _place(url: str, setting: str, model: str, storage: Storage | None) -> Place:
    if url.startswith("dns+http://"):
        return DnsName(url, setting)
    if url.startswith("dns+"):
        raise UserError(
            f"{setting}.urls: {words_of(url)}: write dns+http://NAME:PORT/v1; servers with a certificate are reached by their own "
            "names, so list those"
        )
    if url.startswith("ray://serve") and url.removeprefix("ray://serve")[:1] in ("", "/"):
        return RayServe(url, setting)
    if url.rstrip("/") == "lake://servers":
        return LakeServers(url, setting, model, storage)
    raise UserError(
        f"{setting}.urls: {words_of(url)} is no address of a server; write it as http://HOST:PORT/v1, or a place where servers are "
        "found: dns+http://NAME:PORT/v1, ray://serve or lake://servers"
    )


def _bracketed(address: str) -> str:
    try:
        return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    except ValueError:
        return address


def _ray_token() -> dict[str, str]:
    """The header by which Ray knows its users, where its token is set as for Ray's own commands."""
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if not token and path.is_file():
        token = path.read_text()
    return {"Authorization": f"Bearer {token.strip()}"} if token.strip() else {}
