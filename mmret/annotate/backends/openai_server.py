"""Back-end ``openai``: any server that speaks OpenAI's chat completions (vLLM's is the one tested), one or several.

Why not a client library: a try must be bounded in time *and* in bytes, and go to another server when it fails; httpx
streams a response and can stop reading it. Each request has a deadline over all its tries, so a run ends whatever the
servers do, and every request has an answer or an error code: timeout, connection, http_<status>, bad_response,
too_large, unreachable, image_gone, image_unreadable. Cost on this side: about 1 ms a request, pictures apart.
"""

from __future__ import annotations

import asyncio
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
from mmret.annotate.backends.base import ModelAnnotator
from mmret.annotate.backends.chat import PermanentError, data_uris, messages
from mmret.annotate.compose import Question, compose
from mmret.annotate.kinds import engine_of
from mmret.annotate.protocol import Answer, Request
from mmret.annotate.retry import REFUSING_STATUSES, TRANSIENT_STATUSES
from mmret.errors import UserError
from mmret.settings import EngineSettings

_QUEUED_ANSWERS = 256  # answers between the event loop and the store; what a crash loses besides a batch
_PICTURE_BATCH = 64  # requests whose pictures are read together
_BACKOFF = wait_exponential_jitter(0.2, 10, jitter=0.2)
_SHORT_PATIENCE_S = 5.0  # where no server of the model answered anything of an earlier batch


class TransientError(Exception):
    """A failed try after which another may succeed; ``code`` is the row's reason where none does.

    ``pause``: seconds the server asks to be left alone; None where the failure counts against it.
    """

    def __init__(self, code: str, pause: float | None = None):
        super().__init__(code)
        self.code, self.pause = code, pause


class OpenAIAnnotator(ModelAnnotator):
    """Asks the servers of ``settings.vision`` and ``settings.language_model``."""

    name = "openai"
    _unstructured: frozenset[str] = frozenset()  # models whose servers refuse response_format
    _unresponsive: frozenset[str] = frozenset()  # models that answered nothing in the last batch

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        if not requests:
            return
        engine = engine_of(requests[0].kind, self.settings)
        results: queue.Queue[Any] = queue.Queue(maxsize=_QUEUED_ANSWERS)
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
        if engine.model in self._unresponsive:
            patience = min(patience, _SHORT_PATIENCE_S)
        balancer = Balancer(engine.urls, engine.concurrency, patience)
        waiting: asyncio.Queue[tuple[int, Question, dict[str, bytes]]] = asyncio.Queue(maxsize=2 * _PICTURE_BATCH)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=balancer.capacity)
        timeout = httpx.Timeout(engine.timeout_s, connect=min(10.0, engine.timeout_s), pool=None)
        async with httpx.AsyncClient(limits=limits, timeout=timeout, headers=_headers(engine)) as client:

            async def feed() -> None:
                for start in range(0, len(requests), _PICTURE_BATCH):
                    questions = [compose(r, self.settings) for r in requests[start : start + _PICTURE_BATCH]]
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
        if balancer.any_answer:
            self._unresponsive -= {engine.model}
        else:
            self._unresponsive |= {engine.model}
        if balancer.all_refuse:
            raise UserError(
                f"no server of model {engine.model} takes requests: "
                + "; ".join(f"{server.url}: {server.refusal}" for server in balancer.servers)
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
            async for attempt in AsyncRetrying(
                stop=stop, wait=_BACKOFF, reraise=True, retry=retry_if_exception_type(TransientError)
            ):
                with attempt:
                    async with balancer.slot() as server:
                        began = time.monotonic()
                        try:
                            return await self._try(client, balancer, server, engine, body, left)
                        except TransientError as error:
                            last = error.code
                            told_to_wait += error.pause is not None
                            raise
                        finally:
                            left -= time.monotonic() - began
        except (TransientError, PermanentError) as error:
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
            "messages": messages(question, data_uris(question, pictures, engine)),
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
            balancer.record_failure(server)
            raise TransientError("timeout") from None
        except httpx.ConnectError:
            balancer.record_failure(server)
            raise TransientError("unreachable") from None
        except httpx.TransportError:
            balancer.record_failure(server)
            raise TransientError("connection") from None
        except TransientError as error:
            if error.pause is None:
                balancer.record_bad_answer(server)
            else:
                balancer.pause(server, error.pause)
            raise
        balancer.record_success(server)
        return answer

    async def _post(self, client: httpx.AsyncClient, server: Server, engine: EngineSettings, body: dict[str, Any]) -> Answer:
        async with client.stream("POST", f"{server.url}/chat/completions", json=body) as response:
            data = bytearray()
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > engine.max_answer_bytes:
                    raise TransientError("too_large")
        status = response.status_code
        if status == 200:
            return read_completion(bytes(data))
        if status == 400 and "response_format" in body and b"response_format" in data:
            self._unstructured |= {engine.model}
            del body["response_format"]
            raise TransientError("http_400", 0.0)
        if status in TRANSIENT_STATUSES:
            raise TransientError(f"http_{status}", retry_after(response.headers.get("retry-after")))
        if status in REFUSING_STATUSES:
            server.refusal = f"HTTP {status} {bytes(data[:200]).decode('utf-8', 'replace')}"
            raise TransientError(f"http_{status}")
        raise PermanentError(f"http_{status}")


def read_completion(data: bytes) -> Answer:
    """The first choice of a chat completion. Raises TransientError where ``data`` is none."""
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
        raise TransientError("bad_response") from None


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
