"""A local chat-completions server that misbehaves on purpose. Plain asyncio: no web framework can be this rude."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

Behaviour = Callable[[dict[str, Any], int], Any]
"""Body of a request and its number to: a dict (the completion), a string (its text), or one of the rude acts below."""

HANG, RESET, HALF_BODY, HUGE = "<hang>", "<reset>", "<half>", "<huge>"


class Status:
    """An HTTP error."""

    def __init__(self, code: int, body: str = "no", charset: str = "utf-8", **headers: str):
        self.code, self.body, self.charset, self.headers = code, body, charset, headers

    def __str__(self) -> str:
        return f"status {self.code} {self.body[:40]!r} {self.headers}"


class Slow:
    """An act after so many seconds."""

    def __init__(self, seconds: float, act: Any):
        self.seconds, self.act = seconds, act


def completion(text: Any, finish: str = "stop") -> dict[str, Any]:
    """A chat completion as servers write it."""
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }


_HUGE_TEXT = json.dumps(completion("x" * 10_000_000))


class RudeServer:
    """``with RudeServer(behaviour) as server: server.url``; ``server.bodies`` are the requests it got, unless not kept."""

    def __init__(self, behaviour: Behaviour, delay: float = 0.0, keep: bool = True):
        self.behaviour, self.delay, self.keep = behaviour, delay, keep
        self.got = 0
        self.bodies: list[dict[str, Any]] = []
        self.answered = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()

    def __enter__(self) -> RudeServer:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        async def main() -> None:
            self._stop = asyncio.Event()
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            self._ready.set()
            await self._stop.wait()
            server.close()
            tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._loop.run_until_complete(main())
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _work(self) -> None:
        """What an answer takes."""
        await asyncio.sleep(self.delay)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.split("content-length:")[1].split("\r\n")[0])
        body = json.loads(await reader.readexactly(size))
        self.got += 1
        if self.keep:
            self.bodies.append(body)
        act = self.behaviour(body, self.got - 1)
        await self._work()
        if isinstance(act, Slow):
            await asyncio.sleep(act.seconds)
            act = act.act
        if act == HANG:
            await asyncio.sleep(3600)
        if act == RESET:
            writer.transport.abort()
            return False
        code, headers, text = 200, {}, ""
        if isinstance(act, Status):
            code, headers, text = act.code, act.headers, act.body
        elif act == HUGE:
            text = _HUGE_TEXT
        else:
            text = json.dumps(completion(act) if isinstance(act, str) and act != HALF_BODY else act)
        data = text.encode(act.charset if isinstance(act, Status) else "utf-8")
        lines = [f"HTTP/1.1 {code} X", f"Content-Length: {len(data)}", *(f"{k}: {v}" for k, v in headers.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        if act == HALF_BODY:
            writer.write(b'{"choi')
            await writer.drain()
            writer.transport.abort()
            return False
        writer.write(data)
        await writer.drain()
        self.answered += code == 200
        return True
