"""Fetches files by address: bounded in time and bytes, redirects followed step by step, never from inside this network unasked.

Own code over httpx: every step of a redirect must be looked up and judged before it is connected to, which downloaders do not do,
and img2dataset, whose opt-out rules are honoured here, wants older versions of pandas and webdataset than this project. A file
appears whole or not at all. Cost: a connection a file; the time is the network's. Memory: ``at_once`` files of ``max_bytes``.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from mmret.atomic import replacing
from mmret.ingest.web.refused import Refused, Wanted, passes
from mmret.public_addresses import NotPublic, address_of
from mmret.settings import DownloadSettings

REDIRECTS = 5
OPT_OUT = frozenset(("noai", "noimageai", "noindex", "noimageindex"))
"""Directives of the header X-Robots-Tag with which a server keeps a picture out of data sets; those that img2dataset honours."""
_VALUED = ("max-snippet", "max-image-preview", "max-video-preview", "unavailable_after")
"""Directives with a value behind a colon, as a program's name has its directives."""
_PER_HOST = 8
_WAIT = wait_exponential_jitter(0.3, 10, jitter=0.3)
_PAGE = re.compile(rb"\s*(?:<!doctype html|<html|<head|<\?xml[^>]*>\s*<html)", re.IGNORECASE)


class _Again(Refused):
    """One after which a further try may succeed at once."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail, passes=True)


def download(wanted: Sequence[Wanted], settings: DownloadSettings) -> dict[str, Refused]:
    """Fetch the files of ``wanted`` to their paths; those that are not fetched by address, with the reason: ``http_<status>``,
    ``slow``, ``no_answer``, ``bad_address``, ``private_address``, ``server_opted_out``, ``too_many_bytes``, ``web_page``,
    ``empty_file``.
    """
    return asyncio.run(_all(wanted, settings))


async def _all(wanted: Sequence[Wanted], settings: DownloadSettings) -> dict[str, Refused]:
    refused: dict[str, Refused] = {}
    turns = asyncio.Semaphore(settings.at_once)
    hosts: dict[str, asyncio.Semaphore] = {}
    context = httpx.create_ssl_context(trust_env=False)

    async def one(each: Wanted) -> None:
        host = hosts.setdefault(_host(each.address), asyncio.Semaphore(_PER_HOST))
        async with host, turns:
            try:
                data = await _fetch(each.address, settings, context)
            except Refused as why:
                refused[each.address] = why
                return
            await asyncio.to_thread(_write, each.path, data)

    await asyncio.gather(*(one(each) for each in wanted))
    return refused


def _host(address: str) -> str:
    try:
        return httpx.URL(address).host
    except (httpx.InvalidURL, ValueError, TypeError):
        return ""


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside:
        aside.write_bytes(data)


async def _fetch(address: str, settings: DownloadSettings, context: ssl.SSLContext) -> bytes:
    tries = AsyncRetrying(stop=stop_after_attempt(settings.tries), wait=_WAIT, reraise=True, retry=retry_if_exception_type(_Again))
    async for attempt in tries:
        with attempt:
            return await _try(address, settings, context)
    raise AssertionError("a retry loop ends with a file or an error")


async def _try(address: str, settings: DownloadSettings, context: ssl.SSLContext) -> bytes:
    try:
        async with asyncio.timeout(settings.seconds):
            for _ in range(REDIRECTS + 1):
                found = await _get(_read_address(address), settings, context)
                if isinstance(found, bytes):
                    return found
                address = found
        raise Refused("http_310", f"more than {REDIRECTS} redirects")
    except (TimeoutError, httpx.TimeoutException):
        raise _Again("slow", f"not fetched within {settings.seconds:g} s") from None
    except UnicodeError:  # httpx reads a redirect although it does not follow it
        raise Refused("bad_address", f"{address[:200]} redirects to what is no address") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise _Again("no_answer", f"the host gave no whole file: {str(error)[:120] or type(error).__name__}") from None


def _read_address(address: str) -> httpx.URL:
    try:
        url = httpx.URL(address)
        named = bool(url.host) and bool(url.raw_host.decode("ascii").encode("idna"))  # both raise for what can be no name
        if not 0 < (url.port or 80) < 65_536:
            raise ValueError("port")
    except (httpx.InvalidURL, ValueError, TypeError):
        raise Refused("bad_address", f"{address[:200]} is no address") from None
    if url.scheme not in ("http", "https") or not named or url.userinfo:
        raise Refused("bad_address", f"{address[:200]} is no address with http:// or https://, a host and no user's name")
    return url


async def _get(url: httpx.URL, settings: DownloadSettings, context: ssl.SSLContext) -> bytes | str:
    """The file at ``url``, or where it redirects to."""
    try:
        address = await address_of(url.host, settings.inside)
    except NotPublic:
        raise Refused(
            "private_address", f"{url.host} is inside this network; corpus.download.inside=true allows that", passes=True
        ) from None
    headers = {
        "Host": url.netloc.decode("ascii"),
        "Accept": "image/*,*/*;q=0.5",
        "Accept-Encoding": "identity",
        "User-Agent": settings.user_agent,
    }
    extensions: dict[str, Any] = {"sni_hostname": url.raw_host.decode("ascii")}
    async with httpx.AsyncClient(verify=context, trust_env=False, follow_redirects=False, timeout=settings.seconds) as client:
        pinned = url.copy_with(host=address)
        async with client.stream("GET", pinned, headers=headers, extensions=extensions) as answer:
            if answer.is_redirect:
                return str(url.join(answer.headers.get("location", "")))
            if answer.status_code != 200:
                again = _Again if passes(answer.status_code) else Refused
                raise again(f"http_{answer.status_code}", f"its server answered with status {answer.status_code}")
            if settings.opt_out and (said := opted_out(answer.headers.get_list("x-robots-tag"), settings.user_agent)):
                raise Refused("server_opted_out", f"its server keeps it out of data sets (X-Robots-Tag: {said[:80]})")
            return await _body(answer, settings.max_bytes)


async def _body(answer: httpx.Response, most: int) -> bytes:
    parts, size = [], 0
    declared = answer.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise Refused("too_many_bytes", f"{int(declared):,} bytes, the limit is {most:,}", passes=True)
    async for part in answer.aiter_raw():
        size += len(part)
        if size > most:
            raise Refused("too_many_bytes", f"more than {most:,} bytes", passes=True)
        parts.append(part)
    data = b"".join(parts)
    if not data:
        raise Refused("empty_file", "its server sent an empty file", passes=True)
    if _PAGE.match(data[:400]):
        raise Refused("web_page", f"a web page, no picture ({answer.headers.get('content-type', 'without a type')})")
    return data


def opted_out(tags: Sequence[str], user_agent: str) -> str:
    """The value of X-Robots-Tag that keeps a file out of data sets, "" where none does. A directive may address one program.

    >>> opted_out(["otherbot: noai", "mmret: nosnippet, NoImageAI"], "mmret")
    'mmret: nosnippet, NoImageAI'
    """
    for tag in tags:
        name, colon, directives = tag.partition(":")
        name = name.strip().lower()
        addressed = bool(colon) and "," not in name and name not in _VALUED
        if addressed and name not in user_agent.lower():
            continue
        if any(each.strip().lower() in OPT_OUT for each in (directives if addressed else tag).split(",")):
            return tag.strip()
    return ""
