"""Back-end ``openai``: any server that speaks OpenAI's chat completions (vLLM's is the one tested), one or several.

Why not a client library: a try must be bounded in time *and* in bytes, and go to another server when it fails; httpx
streams a response and can stop reading it. Each request has a deadline over all its tries, so a run ends whatever the
servers do, and every request has an answer, or an error code with the server's own words: timeout, connection, http_<status>,
bad_response, too_large, unreachable, tls, prompt_too_long, refusal, image_gone, image_unreadable. What every request would meet
(a wrong key or path, a parameter that no server takes) ends the run instead. Cost on this side: about 1 ms a request, pictures
apart.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from mmret.annotate.backends.address import address_hint
from mmret.annotate.backends.balance import Balancer, Server, Unreachable
from mmret.annotate.backends.base import ModelAnnotator
from mmret.annotate.backends.chat import PermanentError, data_uris, messages
from mmret.annotate.backends.completion import NotACompletion, read_completion
from mmret.annotate.backends.connections import Connections
from mmret.annotate.backends.dialect import Dialect
from mmret.annotate.backends.discovery import LOOK_S, Whereabouts
from mmret.annotate.backends.http_words import key_header, plain_body, retry_after, tls_words
from mmret.annotate.backends.server_words import Trouble, advice, starting, trouble_of, words_of
from mmret.annotate.compose import Question, compose
from mmret.annotate.kinds import engine_of, engine_setting
from mmret.annotate.protocol import Answer, Kind, NoMore, Request
from mmret.annotate.retry import TRANSIENT_STATUSES, UNREACHABLE
from mmret.errors import UserError
from mmret.settings import AnnotateSettings, EngineSettings

_QUEUED_ANSWERS = 256  # answers between the event loop and the store; what a crash loses besides a batch
_PICTURE_BATCH = 64  # requests whose pictures are read together
_BACKOFF = wait_exponential_jitter(0.2, 10, jitter=0.2)
_FIRST_FAILURES_S = 0.25
_STARTING_PAUSE_S = 2.0  # of a server that loads its model and does not say how long
_SHORT_PATIENCE_S = 5.0  # where no server of the model answered anything of an earlier batch


class FailedTry(Exception):
    """A try that failed. ``pause``: seconds the server asks to be left alone; None where the failure counts against it."""

    def __init__(self, trouble: Trouble, pause: float | None = None):
        super().__init__(trouble.code)
        self.trouble, self.pause = trouble, pause


class TransientError(FailedTry):
    """One after which another may succeed."""


class LastingError(FailedTry):
    """One that every try of this request would meet."""


class Stop:
    """Set by whoever reads the answers: ``no_more`` requests shall be sent, or all ends ``now``."""

    def __init__(self) -> None:
        self.no_more, self.now = threading.Event(), threading.Event()


class OpenAIAnnotator(ModelAnnotator):
    """Asks the servers of ``settings.vision`` and ``settings.language_model``."""

    name = "openai"

    def __init__(self, settings: AnnotateSettings):
        super().__init__(settings)
        self._where: dict[str, Whereabouts] = {}  # by model
        self._dialects: dict[str, Dialect] = {}  # by model and URL
        self._known: frozenset[tuple[str, str]] = frozenset()  # models and URLs that have answered
        self._unresponsive: frozenset[str] = frozenset()  # models that answered nothing in the last batch

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        if not requests:
            return
        engine = engine_of(requests[0].kind, self.settings)
        where = self._where.get(engine.model)
        if where is None:
            setting = engine_setting(requests[0].kind, self.settings)
            where = self._where[engine.model] = Whereabouts(engine.urls, setting, engine.model, self.storage)
        results: queue.Queue[Any] = queue.Queue(maxsize=_QUEUED_ANSWERS)
        stop = Stop()
        thread = threading.Thread(target=self._work, args=(requests, engine, where, results, stop), daemon=True)
        thread.start()
        try:
            while (item := results.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                try:
                    yield item
                except NoMore:
                    stop.no_more.set()
        finally:
            stop.now.set()
            while thread.is_alive():
                try:  # whoever waits to put an answer must be let go
                    results.get(timeout=0.05)
                except queue.Empty:
                    continue

    def _work(
        self, requests: Sequence[Request], engine: EngineSettings, where: Whereabouts, results: queue.Queue, stop: Stop
    ) -> None:
        try:
            asyncio.run(self._all(requests, engine, where, results, stop))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            results.put(error)
        results.put(None)

    async def _all(
        self, requests: Sequence[Request], engine: EngineSettings, where: Whereabouts, results: queue.Queue, stop: Stop
    ) -> None:
        urls = await _first_look(where, stop)
        patience = max(engine.deadline_s, 2 * engine.timeout_s)
        if engine.model in self._unresponsive:
            patience = min(patience, _SHORT_PATIENCE_S)
        known = urls if self.experience == "here" else [url for model, url in self._known if model == engine.model]
        balancer = Balancer(urls, engine.concurrency, patience, frozenset(url.rstrip("/") for url in known))
        waiting: asyncio.Queue[tuple[int, dict[str, Any] | PermanentError]] = asyncio.Queue(maxsize=2 * _PICTURE_BATCH)
        timeout = httpx.Timeout(engine.timeout_s, connect=min(10.0, engine.timeout_s), pool=None)
        async with Connections(timeout, key_header(engine)) as connections:

            async def feed() -> None:
                for start in range(0, len(requests), _PICTURE_BATCH):
                    questions = [compose(r, self.settings) for r in requests[start : start + _PICTURE_BATCH]]
                    pictures = await asyncio.to_thread(self.pictures, questions)
                    for i, body in enumerate(await self._bodies(engine, questions, pictures)):
                        await waiting.put((start + i, body))

            delivering = 0

            async def serve() -> None:
                nonlocal delivering
                while True:
                    i, body = await waiting.get()
                    if stop.no_more.is_set():
                        balancer.close()
                    if self.skip is not None and self.skip(i):
                        waiting.task_done()
                        continue
                    if isinstance(body, PermanentError):
                        answer = Answer(error=body.code)
                    else:
                        answer = await self._one(connections, balancer, engine, body)
                    delivering += 1  # nothing is awaited since the try ended
                    await asyncio.to_thread(results.put, (i, answer)) if results.full() else results.put((i, answer))
                    delivering -= 1
                    waiting.task_done()

            async def watch() -> None:
                while not (stop.now.is_set() or stop.no_more.is_set()):
                    await asyncio.sleep(0.1)
                balancer.close()
                await under_way()

            async def under_way() -> None:
                while (balancer.in_flight or delivering) and not stop.now.is_set():
                    await asyncio.sleep(0.05)

            workers: list[asyncio.Task[None]] = []
            crashed = asyncio.get_running_loop().create_future()

            def note_end(worker: asyncio.Task[None]) -> None:
                if not crashed.done():
                    crashed.set_result(worker)

            def hire() -> None:
                while len(workers) < min(len(requests), balancer.capacity):
                    workers.append(asyncio.create_task(serve()))
                    workers[-1].add_done_callback(note_end)

            async def follow() -> None:
                while where.places:
                    await asyncio.sleep(LOOK_S)
                    balancer.update(await asyncio.to_thread(where.look))
                    hire()

            hire()
            feeder, watcher = asyncio.create_task(feed()), asyncio.create_task(watch())
            follower = asyncio.create_task(follow())
            if where.places:
                follower.add_done_callback(note_end)

            async def finish() -> None:
                await feeder
                await waiting.join()

            finished = asyncio.create_task(finish())
            await asyncio.wait([finished, watcher, crashed], return_when=asyncio.FIRST_COMPLETED)
            if balancer.all_refuse:
                await under_way()
            failed = [t for t in (finished, follower, *workers) if t.done() and t.exception()]
            everything = [finished, feeder, watcher, follower, crashed, *workers]
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)
            if balancer.all_refuse:
                async with connections.client("") as client:
                    raise UserError(await self._refusals(client, balancer, engine, requests[0].kind))
        self._known |= {(engine.model, server.url) for server in balancer.servers if server.answered}
        if failed:
            raise failed[0].exception()  # type: ignore[misc]
        if balancer.any_answer:
            self._unresponsive -= {engine.model}
        else:
            self._unresponsive |= {engine.model}

    async def _refusals(self, client: httpx.AsyncClient, balancer: Balancer, engine: EngineSettings, kind: Kind) -> str:
        """Why no server takes requests: their words, and what to do."""
        setting = engine_setting(kind, self.settings)
        told, todo = [], []
        for server in balancer.servers:
            if server.left or server.trouble is None:
                continue
            told.append(f"{server.url}: {server.refusal}")
            hint = await address_hint(client, server.url, engine.model, server.trouble.code)
            todo.append(hint or advice(server.trouble.code, server.trouble.words, setting))
        return (
            f"no server of model {engine.model} takes requests; in the server's own words: {'; '.join(told)}. "
            f"What to do: {'; '.join(dict.fromkeys(todo))}; then run again: what was answered is kept and is not paid again"
        )

    async def _one(
        self,
        connections: Connections,
        balancer: Balancer,
        engine: EngineSettings,
        body: dict[str, Any],
    ) -> Answer:
        last: Trouble | None = None
        told_to_wait = 0  # tries that cost nothing: the server was only asked too early
        left = engine.deadline_s  # of the time spent in tries; waiting for a place is bounded by the balancer

        def stop(state: RetryCallState) -> bool:
            return state.attempt_number - told_to_wait >= engine.tries or told_to_wait > 10 * engine.tries or left <= 0

        try:
            async for attempt in AsyncRetrying(
                stop=stop, wait=_BACKOFF, reraise=True, retry=retry_if_exception_type(TransientError)
            ):
                with attempt:
                    async with balancer.slot() as server:
                        began = time.monotonic()
                        try:
                            return await self._try(connections, balancer, server, engine, body, left)
                        except TransientError as error:
                            last = error.trouble
                            told_to_wait += error.pause is not None
                            raise
                        finally:
                            left -= time.monotonic() - began
        except FailedTry as error:
            if not balancer.any_known:
                await asyncio.sleep(_FIRST_FAILURES_S)  # gives whoever watches the answers time to stop
            return Answer(error=error.trouble.code, words=error.trouble.words)
        except Unreachable:
            if balancer.all_refuse:
                raise
            last = last or balancer.trouble or Trouble(UNREACHABLE, "", "moment")
            return Answer(error=last.code, words=last.words)
        raise AssertionError("a retry loop ends with an answer or an error")

    async def _bodies(
        self, engine: EngineSettings, questions: Sequence[Question], pictures: dict[str, bytes]
    ) -> list[dict[str, Any] | PermanentError]:
        """The body of each question; they are ready before a place is, so that no place is empty while pictures are encoded."""
        if not pictures:
            return [self._body(engine, question, pictures) for question in questions]
        return await asyncio.gather(*(asyncio.to_thread(self._body, engine, question, pictures) for question in questions))

    def _body(self, engine: EngineSettings, question: Question, pictures: dict[str, bytes]) -> dict[str, Any] | PermanentError:
        try:
            uris = data_uris(question, pictures, engine)
        except PermanentError as error:
            return error
        body: dict[str, Any] = {
            "model": engine.model,
            "temperature": engine.temperature,
            "top_p": engine.top_p,
            "seed": question.seed,
            "max_tokens": engine.max_tokens,
            "messages": messages(question, uris),
        }
        if question.schema is not None and engine.structured:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": question.schema, "strict": True},
            }
        return body

    async def _try(
        self,
        connections: Connections,
        balancer: Balancer,
        server: Server,
        engine: EngineSettings,
        body: dict[str, Any],
        left: float,
    ) -> Answer:
        try:
            async with connections.client(server.url) as client, asyncio.timeout(max(0.1, min(engine.timeout_s, left))):
                answer = await self._post(client, server, engine, body)
        except (TimeoutError, httpx.TimeoutException):
            raise self._failed(balancer, server, "timeout", f"no answer in {min(engine.timeout_s, left):.3g} s") from None
        except httpx.ConnectError as error:
            tls = tls_words(error)
            if tls is not None:
                trouble = Trouble("tls", tls, "server")
                balancer.record_refusal(server, trouble)
                raise TransientError(trouble) from None
            raise self._failed(balancer, server, UNREACHABLE, str(error)) from None
        except httpx.DecodingError as error:
            trouble = Trouble("bad_response", words_of(f"a body that is not packed as its head says: {error}"), "moment")
            balancer.record_bad_answer(server, trouble)
            raise TransientError(trouble) from None
        except httpx.RequestError as error:
            raise self._failed(balancer, server, "connection", str(error)) from None
        except LastingError:
            balancer.record_contact()
            raise
        except TransientError as error:
            if error.trouble.scope == "server":
                balancer.record_refusal(server, error.trouble)
            elif error.pause is None:
                balancer.record_bad_answer(server, error.trouble)
            else:
                balancer.pause(server, error.pause, error.trouble)
            raise
        balancer.record_success(server)
        return answer

    @staticmethod
    def _failed(balancer: Balancer, server: Server, code: str, words: str) -> TransientError:
        trouble = Trouble(code, words_of(words), "moment")
        balancer.record_failure(server, trouble)
        return TransientError(trouble)

    async def _post(self, client: httpx.AsyncClient, server: Server, engine: EngineSettings, body: dict[str, Any]) -> Answer:
        dialect = self._dialects.setdefault(f"{engine.model} {server.url}", Dialect())
        while True:
            sent = dialect.body(body)
            status, headers, data = await self._exchange(client, server, engine, sent)
            if 200 <= status < 300:
                try:
                    return read_completion(data)
                except NotACompletion as error:
                    status = error.status or status
            if dialect.body(body) != sent:
                continue  # another request has learnt meanwhile
            trouble = trouble_of(status, data, headers.get("location", ""))
            learnt = dialect.learn(status, words_of(data, 4000), sent) if trouble.code != "prompt_too_long" else ""
            if not learnt:
                break
            self.remarks.append(f"{server.url} is sent {learnt}, as it wants: {trouble.words}")
        if trouble.scope == "request":
            raise LastingError(trouble)
        busy = status in TRANSIENT_STATUSES
        wait = retry_after(headers.get("retry-after")) if busy and trouble.scope == "moment" else None
        raise TransientError(trouble, _STARTING_PAUSE_S if wait is None and busy and starting(trouble.words) else wait)

    @staticmethod
    async def _exchange(
        client: httpx.AsyncClient, server: Server, engine: EngineSettings, body: dict[str, Any]
    ) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and body of the response."""
        async with client.stream("POST", f"{server.url}/chat/completions", json=body) as response:
            data = bytearray()
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > engine.max_answer_bytes:
                    raise TransientError(Trouble("too_large", f"more than {engine.max_answer_bytes:,} bytes", "moment"))
        return response.status_code, response.headers, plain_body(bytes(data), response.charset_encoding, engine.max_answer_bytes)


async def _first_look(where: Whereabouts, stop: Stop) -> tuple[str, ...]:
    """The servers' addresses, as soon as there is one; none where all is to end before."""
    while not (urls := await asyncio.to_thread(where.look)):
        for _ in range(20):
            if stop.now.is_set() or stop.no_more.is_set():
                return ()
            await asyncio.sleep(LOOK_S / 20)
    return urls
