"""Back-end ``openai``: any server that speaks OpenAI's chat completions (vLLM's is the one tested), one or several.

Why not a client library: a try must be bounded in time *and* in bytes, and go to another server when it fails; httpx
streams a response and can stop reading it. Each request has a deadline over all its tries, so a run ends whatever the
servers do, and every request has an answer or an error code: timeout, connection, http_<status>, bad_response,
too_large, unreachable, image_gone, image_unreadable. Cost on this side: about 1 ms a request, pictures apart.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from mmret.annotate.backends.balance import Balancer, Server, Unreachable
from mmret.annotate.backends.base import ModelAnnotator, jpeg
from mmret.annotate.compose import IMAGES, Question, compose
from mmret.annotate.kinds import engine_of
from mmret.annotate.protocol import Answer, Request
from mmret.annotate.retry import PASSING_STATUSES, REFUSING_STATUSES
from mmret.errors import UserError
from mmret.settings import EngineSettings

_ON_THE_WAY = 256  # answers between the event loop and the store; what a crash loses besides a batch
_LOAD = 64  # requests whose pictures are read together
_BACKOFF = wait_exponential_jitter(0.2, 10, jitter=0.2)
_HOPELESS_S = 5.0  # patience where a whole earlier batch got no answer


class Passing(Exception):
    """A failed try that another may heal; ``code`` is the row's reason where none does.

    ``rest``: seconds the server asks to be left alone; None where the failure counts against it.
    """

    def __init__(self, code: str, rest: float | None = None):
        super().__init__(code)
        self.code, self.rest = code, rest


class Lasting(Exception):
    """A failure that is the request's own."""

    def __init__(self, code: str):
        super().__init__(code)
        self.code = code


class OpenAIAnnotator(ModelAnnotator):
    """Asks the servers of ``settings.vision`` and ``settings.language_model``."""

    name = "openai"
    _unstructured: frozenset[str] = frozenset()  # models whose servers refuse response_format
    _hopeless: frozenset[str] = frozenset()  # models that answered nothing in the last batch

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        if not requests:
            return
        engine = engine_of(requests[0].kind, self.settings)
        results: queue.Queue[Any] = queue.Queue(maxsize=_ON_THE_WAY)
        stop = threading.Event()
        thread = threading.Thread(target=self._work, args=(requests, engine, results, stop), daemon=True)
        thread.start()
        try:
            while (item := results.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            while thread.is_alive():
                try:  # whoever waits to put an answer must be let go
                    results.get(timeout=0.05)
                except queue.Empty:
                    continue

    def _work(self, requests: Sequence[Request], engine: EngineSettings, results: queue.Queue, stop: threading.Event) -> None:
        try:
            asyncio.run(self._all(requests, engine, results, stop))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            results.put(error)
        results.put(None)

    async def _all(self, requests: Sequence[Request], engine: EngineSettings, results: queue.Queue, stop: threading.Event) -> None:
        patience = max(engine.deadline_s, 2 * engine.timeout_s)
        if engine.model in self._hopeless:
            patience = min(patience, _HOPELESS_S)
        balancer = Balancer(engine.urls, engine.concurrency, patience)
        waiting: asyncio.Queue[tuple[int, Question, dict[str, bytes]]] = asyncio.Queue(maxsize=2 * _LOAD)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=balancer.capacity)
        timeout = httpx.Timeout(engine.timeout_s, connect=min(10.0, engine.timeout_s), pool=None)
        async with httpx.AsyncClient(limits=limits, timeout=timeout, headers=_headers(engine)) as client:

            async def feed() -> None:
                for start in range(0, len(requests), _LOAD):
                    questions = [compose(r, self.settings) for r in requests[start : start + _LOAD]]
                    pictures = await asyncio.to_thread(self.pictures, questions)
                    for i, question in enumerate(questions):
                        await waiting.put((start + i, question, pictures))

            async def serve() -> None:
                while True:
                    i, question, pictures = await waiting.get()
                    answer = await self._one(client, balancer, engine, question, pictures)
                    await asyncio.to_thread(results.put, (i, answer)) if results.full() else results.put((i, answer))
                    waiting.task_done()

            async def watch() -> None:
                while not stop.is_set():
                    await asyncio.sleep(0.1)

            workers = [asyncio.create_task(serve()) for _ in range(min(len(requests), balancer.capacity))]
            feeder, watcher = asyncio.create_task(feed()), asyncio.create_task(watch())

            async def finish() -> None:
                await feeder
                await waiting.join()

            finished = asyncio.create_task(finish())
            await asyncio.wait([finished, watcher, *workers], return_when=asyncio.FIRST_COMPLETED)
            failed = [t for t in (finished, *workers) if t.done() and t.exception()]
            everything = [finished, feeder, watcher, *workers]
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)
        if failed:
            raise failed[0].exception()  # type: ignore[misc]
        self._hopeless = self._hopeless - {engine.model} if balancer.answered else self._hopeless | {engine.model}
        if balancer.all_out:
            raise UserError(
                f"no server of model {engine.model} takes requests: " + "; ".join(f"{s.url}: {s.out}" for s in balancer.servers)
            )

    async def _one(
        self,
        client: httpx.AsyncClient,
        balancer: Balancer,
        engine: EngineSettings,
        question: Question,
        pictures: dict[str, bytes],
    ) -> Answer:
        last = "unreachable"
        told_to_wait = 0  # tries that cost nothing: the server was only asked too early
        left = engine.deadline_s  # of the time spent in tries; waiting for a place is bounded by the balancer

        def stop(state: RetryCallState) -> bool:
            return state.attempt_number - told_to_wait >= engine.tries or told_to_wait > 10 * engine.tries or left <= 0

        try:
            body = await asyncio.to_thread(self._body, engine, question, pictures)
            async for attempt in AsyncRetrying(stop=stop, wait=_BACKOFF, reraise=True, retry=retry_if_exception_type(Passing)):
                with attempt:
                    async with balancer.place() as server:
                        began = time.monotonic()
                        try:
                            return await self._try(client, balancer, server, engine, body, left)
                        except Passing as error:
                            last = error.code
                            told_to_wait += error.rest is not None
                            raise
                        finally:
                            left -= time.monotonic() - began
        except (Passing, Lasting) as error:
            return Answer(error=error.code)
        except Unreachable:
            return Answer(error=last)
        raise AssertionError("a retry loop ends with an answer or an error")

    def _body(self, engine: EngineSettings, question: Question, pictures: dict[str, bytes]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": engine.model,
            "temperature": engine.temperature,
            "top_p": engine.top_p,
            "seed": question.seed,
            "max_tokens": engine.max_tokens,
            "messages": messages(question, _data_uris(question, pictures, engine)),
        }
        if question.schema is not None and engine.structured and engine.model not in self._unstructured:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": question.schema, "strict": True},
            }
        return body

    async def _try(
        self,
        client: httpx.AsyncClient,
        balancer: Balancer,
        server: Server,
        engine: EngineSettings,
        body: dict[str, Any],
        left: float,
    ) -> Answer:
        try:
            async with asyncio.timeout(max(0.1, min(engine.timeout_s, left))):
                answer = await self._post(client, server, engine, body)
        except (TimeoutError, httpx.TimeoutException):
            balancer.failed(server)
            raise Passing("timeout") from None
        except httpx.ConnectError:
            balancer.failed(server)
            raise Passing("unreachable") from None
        except httpx.TransportError:
            balancer.failed(server)
            raise Passing("connection") from None
        except Passing as error:
            if error.rest is None:
                balancer.slipped(server)
            else:
                balancer.rest(server, error.rest)
            raise
        balancer.succeeded(server)
        return answer

    async def _post(self, client: httpx.AsyncClient, server: Server, engine: EngineSettings, body: dict[str, Any]) -> Answer:
        async with client.stream("POST", f"{server.url}/chat/completions", json=body) as response:
            data = bytearray()
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > engine.max_answer_bytes:
                    raise Passing("too_large")
        status = response.status_code
        if status == 200:
            return read_completion(bytes(data))
        if status == 400 and "response_format" in body and b"response_format" in data:
            self._unstructured |= {engine.model}
            del body["response_format"]
            raise Passing("http_400", 0.0)
        if status in PASSING_STATUSES:
            raise Passing(f"http_{status}", retry_after(response.headers.get("retry-after")))
        if status in REFUSING_STATUSES:
            server.out = f"HTTP {status} {bytes(data[:200]).decode('utf-8', 'replace')}"
            raise Passing(f"http_{status}")
        raise Lasting(f"http_{status}")


def messages(question: Question, pictures: Sequence[str]) -> list[dict[str, Any]]:
    """Chat messages of a question; ``pictures`` (URLs or data URIs) stand where the prompt has them, source first."""
    content: Any = question.user
    if question.images:
        before, _, after = question.user.partition(IMAGES)
        parts = [{"type": "text", "text": "Source Image:"}, {"type": "text", "text": "Target Image:"}]
        shown = [
            p for label, url in zip(parts, pictures, strict=True) for p in (label, {"type": "image_url", "image_url": {"url": url}})
        ]
        content = [{"type": "text", "text": before.strip()}, *shown, {"type": "text", "text": after.strip()}]
    return [{"role": "system", "content": question.system}, {"role": "user", "content": content}]


def data_uri(data: bytes, engine: EngineSettings) -> str:
    """The picture as a JPEG data URI of the engine's size."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(data, engine)).decode()


def _data_uris(question: Question, pictures: dict[str, bytes], engine: EngineSettings) -> list[str]:
    from mmret.ingest.decode import Unreadable

    if any(i not in pictures for i in question.images):
        raise Lasting("image_gone")
    try:
        return [data_uri(pictures[i], engine) for i in question.images]
    except Unreadable:
        raise Lasting("image_unreadable") from None


def read_completion(data: bytes) -> Answer:
    """The first choice of a chat completion. Raises Passing where ``data`` is none."""
    try:
        value = json.loads(data)
        choice = value["choices"][0]
        message, usage = choice["message"], value.get("usage") or {}
        text = message.get("content")
        if not isinstance(text, str | None) or not isinstance(message, dict):
            raise TypeError
        if message.get("refusal") and not text:
            return Answer(str(message["refusal"]), "content_filter", *_tokens(usage))
        text = (text or "").encode("utf-8", "replace").decode()  # a lone surrogate has no place in a table
        return Answer(text, str(choice.get("finish_reason") or "stop"), *_tokens(usage))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise Passing("bad_response") from None


def _tokens(usage: dict[str, Any]) -> tuple[int, int]:
    return tuple(
        n if isinstance(n := usage.get(name), int) and 0 <= n < 2**31 else 0 for name in ("prompt_tokens", "completion_tokens")
    )  # type: ignore[return-value]


def retry_after(value: str | None) -> float | None:
    """Seconds a server asks to be left alone; None where it says nothing that can be read."""
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:
        return None


def _headers(engine: EngineSettings) -> dict[str, str]:
    key = os.environ.get(engine.api_key_variable)
    return {"Authorization": f"Bearer {key}"} if key else {}
