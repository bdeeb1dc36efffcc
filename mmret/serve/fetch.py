"""Fetches a picture by its address, only from hosts that the operator named, and never from inside the operator's network.

The name is resolved once and the connection goes to that very address, so that a name cannot point elsewhere a moment later; an
address that is private, loopback or reserved is refused unless the operator named it literally. Redirects are followed to allowed
hosts alone. Proxies of the environment are not used. Cost: one connection a picture.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import httpx

from mmret.public_addresses import NotPublic, address_of
from mmret.serve.limits import Limits
from mmret.serve.refusal import Refusal

REDIRECTS = 3
_AT_ONCE = 8
_PORTS = {"http": 80, "https": 443}


class Fetcher:
    """``hosts``: names or addresses, each with or without a port; without one, the usual port of the scheme is meant."""

    def __init__(self, hosts: tuple[str, ...], limits: Limits):
        self._hosts = {host.lower().rstrip(".") for host in hosts}
        self._limits = limits
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._tls = httpx.create_ssl_context(trust_env=False)  # reads certificates, which takes a while

    async def fetch(self, address: str) -> bytes:
        """The file at ``address``. Raises Refusal: 403 a host that is not allowed, 413 too large, 422 no such file."""
        try:
            async with asyncio.timeout(self._limits.fetch_seconds), self._turns:
                for _ in range(REDIRECTS + 1):
                    found = await self._get(self._allowed(address))
                    if isinstance(found, bytes):
                        return found
                    address = found
            raise Refusal(422, f"image_url: more than {REDIRECTS} redirects")
        except TimeoutError:
            raise Refusal(422, f"image_url: not fetched within {self._limits.fetch_seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError):  # the last from httpx, of an odd redirect
            raise Refusal(422, "image_url: the host did not answer with a file") from None

    def _allowed(self, address: str) -> httpx.URL:
        """``address`` read. Raises Refusal where it is none, or of a host or port that is not allowed."""
        try:
            url = httpx.URL(address)
            named = bool(url.host)  # raises where a part of it is in no alphabet (xn--a)
        except (httpx.InvalidURL, ValueError, TypeError):
            raise Refusal(422, "image_url: this is no address") from None
        if url.scheme not in _PORTS or not named or url.userinfo:
            raise Refusal(422, "image_url: an address begins with https:// or http:// and a host, without a user's name")
        host = url.raw_host.decode("ascii").lower().rstrip(".")
        port = url.port or _PORTS[url.scheme]
        written = f"[{host}]" if ":" in host else host
        usual = port == _PORTS[url.scheme] and {host, written} & self._hosts
        if not usual and f"{written}:{port}" not in self._hosts:
            raise Refusal(403, "image_url: pictures are not fetched from this host; the server's --allow-url names those that are")
        return url

    async def _get(self, url: httpx.URL) -> bytes | str:
        """The file at ``url``, or where it redirects to."""
        address = await self._address_of(url)
        headers = {"Host": url.netloc.decode("ascii"), "Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "mmret"}
        extensions: dict[str, Any] = {"sni_hostname": url.raw_host.decode("ascii")}
        async with httpx.AsyncClient(
            verify=self._tls, trust_env=False, follow_redirects=False, timeout=self._limits.fetch_seconds
        ) as client:
            pinned = url.copy_with(host=address)
            async with client.stream("GET", pinned, headers=headers, extensions=extensions) as answer:
                if answer.is_redirect:
                    return str(url.join(answer.headers.get("location", "")))
                if answer.status_code != 200:
                    raise Refusal(422, f"image_url: the host answered with status {answer.status_code}")
                return await self._read(answer)

    async def _read(self, answer: httpx.Response) -> bytes:
        parts, size = [], 0
        async for part in answer.aiter_raw():
            size += len(part)
            if size > self._limits.body_bytes:
                raise Refusal(413, f"image_url: the file has more than {self._limits.body_bytes} bytes")
            parts.append(part)
        return b"".join(parts)

    async def _address_of(self, url: httpx.URL) -> str:
        """The address that the host has now, fit to connect to. Raises Refusal for one inside a network."""
        host = url.host
        try:
            ipaddress.ip_address(host)
            return host  # the operator wrote it so: it passed `_allowed`
        except ValueError:
            pass
        try:
            return await address_of(host, inside=host.lower().rstrip(".") == "localhost")
        except NotPublic:
            raise Refusal(403, "image_url: this host's address is not a public one") from None
