"""HTTP connections that cannot be held open for nothing: a head that is too long or comes too slowly ends its connection.

uvicorn limits neither with httptools, and counts no connections that never ask. Costs a timer a request.
"""

from __future__ import annotations

import asyncio

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mmret.serve.limits import Limits

HEAD_SECONDS = 10.0
"""So long the request line and the headers may take to arrive."""


def connection_class(limits: Limits, head_seconds: float) -> type[HttpToolsProtocol]:
    """The class of connections that keeps ``limits``."""

    class Connection(HttpToolsProtocol):
        _head: int = 0
        _raw: int = 0
        _in_head: bool = False
        _too_long: bool = False
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
            else:
                self._timer = self.loop.call_later(head_seconds, self._give_up)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            before = self._in_head
            super().data_received(data)
            if before and self._in_head:
                self._count_open(len(data))
            if self._timer is None and (self.cycle is None or self.cycle.response_complete):  # empty lines, for ever
                self._timer = self.loop.call_later(head_seconds, self._give_up)

        def on_message_begin(self) -> None:
            self._in_head, self._head, self._raw = True, 0, 0
            if self._timer is None:
                self._timer = self.loop.call_later(head_seconds, self._give_up)
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            self._count(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._count(len(name) + len(value) + 4)
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._stop_timer()
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            line, said = b"400 Bad Request", "this is no HTTP request that can be read"
            if self._too_long:
                line = b"431 Request Header Fields Too Large"
                said = f"request line and headers have at most {limits.header_bytes} bytes together"
            body = orjson.dumps({"error": said})
            head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            if not self.transport.is_closing():
                self.transport.write(head % (line, len(body)) + body)
                self.transport.close()

        def _count(self, more: int) -> None:
            self._head += more
            if self._head > limits.header_bytes:
                self._too_long = True
                raise ValueError("the head is too long")  # the parser stops, and send_400_response says why

        def _count_open(self, more: int) -> None:
            """Bytes that came while the head was open: the parser keeps those of a line that has not ended to itself."""
            self._raw += more  # the same bytes as _head counts, and those of a line that has not ended
            if self._raw > limits.header_bytes:
                self._too_long = True
                self.send_400_response("")

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _give_up(self) -> None:
            self._timer = None
            if not self.transport.is_closing():
                self.transport.close()

        def _unsupported_upgrade_warning(self) -> None:
            """Nothing is said of it: whoever wants a web socket gets an ordinary answer."""

    return Connection
