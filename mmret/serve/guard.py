"""What every request passes before a route sees it: host, rate, token, sizes, time; and how each refusal and fault is answered.

Pure ASGI, since every request pays for it: about 30 microseconds. A fault of the code is answered with an id that the log has
beside the traceback.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect

from mmret.serve.access import Access
from mmret.serve.answers import JsonAnswer
from mmret.serve.limits import Limits
from mmret.serve.metrics import Metrics
from mmret.serve.rates import Rates
from mmret.serve.refusal import Refusal

Message = MutableMapping[str, Any]
log = logging.getLogger("mmret.serve")
OPEN = ("/health", "/ready")
"""Routes that need no token and have no rate: those that a supervisor asks."""
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_FRESH = (b"cache-control", b"no-store")


class Guard:
    """ASGI middleware around ``app``."""

    def __init__(self, app: Any, access: Access, limits: Limits, rates: Rates, metrics: Metrics):
        self.app, self.access, self.limits, self.rates, self.metrics = app, access, limits, rates, metrics
        self._held = 0

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        request = _Request(self, receive, send)
        try:
            request.complete = self._admit(scope)
            async with asyncio.timeout(self.limits.seconds):
                await self.app(scope, request.receive, request.send)
        except Refusal as refusal:
            await request.refuse(refusal, scope)
        except TimeoutError:
            await request.refuse(self._too_late(request), scope)
        except ClientDisconnect:
            request.status = 499
        except asyncio.CancelledError:  # its time to stop is over
            await request.refuse(Refusal(503, "the server is stopping", 5), scope)
        except Exception:
            fault = secrets.token_hex(4)
            log.exception("fault %s: %s %s", fault, scope["method"], _route(scope))
            await request.refuse(Refusal(500, f"the server made a mistake; its log has it as {fault}"), scope)
        finally:
            self._hold(-request.held)
            self.metrics.answered(_route(scope), request.status, time.perf_counter() - began)

    def _admit(self, scope: Message) -> bool:
        """Whether the request is whole without a body. Raises Refusal for one that no route may see."""
        headers: dict[bytes, bytes] = {}
        hosts = 0
        for name, value in scope["headers"]:
            headers[name] = value
            hosts += name == b"host"
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if hosts > 1 or (self.access.hosts and _name(host) not in self.access.hosts):
            raise Refusal(400, "the header Host names another server")
        origin = headers.get(b"origin")
        if origin is not None and not self._is_allowed(origin.decode("latin-1"), host):
            raise Refusal(403, "pages of this origin may not ask")
        elsewhere = headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site")  # a picture or script of another site's page
        if origin is None and elsewhere and headers.get(b"sec-fetch-mode") != b"navigate":
            raise Refusal(403, "pages of other sites may not ask")
        if scope["path"] not in OPEN:
            if not self.rates.admits((scope.get("client") or ("",))[0]):
                raise Refusal(429, "too many requests from this address; come again in a second", 1)
            if not self.access.admits(headers.get(b"authorization", b"")):
                raise Refusal(401, "this needs a token, in the header `Authorization: Bearer TOKEN`")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 15 or int(length) > self.limits.body_bytes:
            raise self._too_large()
        return int(length) == 0 and b"transfer-encoding" not in headers

    def _is_allowed(self, origin: str, host: str) -> bool:
        return "*" in self.access.origins or origin in self.access.origins or origin.lower().partition("://")[2] == host

    def _too_large(self) -> Refusal:
        return Refusal(413, f"a body has at most {self.limits.body_bytes} bytes")

    def _too_late(self, request: _Request) -> Refusal:
        if not request.complete:
            return Refusal(408, f"the body did not arrive within {self.limits.seconds:g} s")
        return Refusal(503, f"no answer within {self.limits.seconds:g} s; come again", 2)

    def _hold(self, more: int) -> None:
        if more:
            self._held += more
            self.metrics.held.set(self._held)

    def take(self, request: _Request, size: int) -> None:
        """Count ``size`` bytes of a body. Raises Refusal where the request or all together have too many."""
        request.held += size
        self._hold(size)
        if request.held > self.limits.body_bytes:
            raise self._too_large()
        if self._held > self.limits.held_bytes:
            raise Refusal(503, "too many large requests at once; come again", 1)


class _Request:
    """One request's body and answer: counts the bytes of the one, adds headers to the other."""

    def __init__(self, guard: Guard, receive: Callable[[], Awaitable[Message]], send: Any):
        self._guard, self._receive, self._send = guard, receive, send
        self.held, self.status, self.complete = 0, 0, False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            if body := message.get("body"):
                self._guard.take(self, len(body))
            self.complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            present = {name for name, _ in message["headers"]}
            more = [header for header in (_POLICY, _FRESH) if header[0] not in present]
            message["headers"] = [*message["headers"], *_HEADERS, *more]
        await self._send(message)

    async def refuse(self, refusal: Refusal, scope: Message) -> None:
        """Answer with ``refusal``, unless an answer has begun."""
        if not self.status:
            await refused(refusal)(scope, self._receive, self.send)


def refused(refusal: Refusal) -> JsonAnswer:
    """The response that carries ``refusal``."""
    return JsonAnswer({"error": refusal.sentence}, refusal.status, headers=refusal.headers())


def _name(host: str) -> str:
    """``host`` of a header without its port."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.split(":")[0]


def _route(scope: Message) -> str:
    return getattr(scope.get("route"), "path", None) or "other"
