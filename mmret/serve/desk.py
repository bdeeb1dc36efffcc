"""Between a request and the search: checks what is asked, fetches and checks pictures, waits for the answer.

Pictures are looked at in two threads and filters tried in a third, so that a large or slow one holds up only its like; everything
else runs in the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.search.query import Page, Query
from mmret.serve.answers import search_answer
from mmret.serve.fetch import Fetcher
from mmret.serve.limits import Limits
from mmret.serve.metrics import Metrics
from mmret.serve.pictures import check_picture, from_base64
from mmret.serve.public import public_sentence
from mmret.serve.refusal import Refusal
from mmret.serve.requests import SearchRequest, read_object

if TYPE_CHECKING:
    from mmret.search.service import SearchService

log = logging.getLogger("mmret.serve")
Value = TypeVar("Value")
_THREADS = 2
_LONG = 8  # of what takes long: so many wait, others are told to come again


class Desk:
    """Answers searches of one lake through ``service``."""

    def __init__(self, lake: Lake, service: SearchService, limits: Limits, metrics: Metrics, fetcher: Fetcher | None):
        self.lake, self.service, self.limits, self.metrics, self.fetcher = lake, service, limits, metrics, fetcher
        self._threads = ThreadPoolExecutor(_THREADS, "mmret-serve")
        self._filters = ThreadPoolExecutor(1, "mmret-filter")  # of a lake they come one after the other anyway
        self._long = ThreadPoolExecutor(1, "mmret-long")
        self._long_places = threading.Semaphore(_LONG)
        self._waiting = 0
        self._reranks = 0  # of those that wait
        self._fetched = 0  # bytes of pictures by address, which no body holds

    async def in_thread(self, function: Callable[..., Value], *arguments: Any) -> Value:
        """``function(*arguments)``, which reads files or pixels."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def in_turn(self, function: Callable[..., Value], *arguments: Any) -> Value:
        """``function(*arguments)``, which takes long: one after the other. Raises Refusal (503) where some wait already."""
        if not self._long_places.acquire(blocking=False):
            raise Refusal(503, "too many long questions at once; come again", 2)
        work = self._long.submit(function, *arguments)
        work.add_done_callback(lambda _: self._long_places.release())
        return await asyncio.wrap_future(work)

    async def answer(self, request: SearchRequest, image: bytes | None = None) -> dict[str, Any]:
        """What ``request`` asks, as a :class:`~mmret.serve.answers.SearchAnswer`; ``image``: a file that came beside it.

        Raises Refusal for whatever the client can mend, and where too many wait.
        """
        self._check(request)
        query = await self._query(request, image)
        fetched = len(query.image or b"") if request.image_url is not None else 0
        if self._waiting >= self.limits.waiting or self._fetched + fetched > self.limits.held_bytes:
            raise Refusal(503, "too many searches wait for their answer; come again", 1)
        self._fetched += fetched
        try:
            return await self._search(query, request)
        finally:
            self._fetched -= fetched

    async def answer_many(self, queries: Sequence[Any]) -> list[dict[str, Any]]:
        """An answer or an error for each of ``queries``, in their order."""
        if len(queries) > self.limits.batch:
            raise Refusal(422, f"queries: a batch has at most {self.limits.batch}")
        if self._waiting + len(queries) > self.limits.waiting:
            raise Refusal(503, "too many searches wait for their answer; come again", 1)
        return list(await asyncio.gather(*map(self._answer_one, queries)))

    async def _answer_one(self, found: Any) -> dict[str, Any]:
        try:
            return await self.answer(read_object(found))
        except Refusal as refusal:
            return {"error": refusal.sentence, "status": refusal.status}

    def _check(self, request: SearchRequest) -> None:
        for name in ("text", "where"):
            if len(getattr(request, name)) > (most := getattr(self.limits, name)):
                raise Refusal(422, f"{name}: at most {most} characters")
        if request.rerank is not None and request.rerank not in self.service.rerankers:
            raise Refusal(404, f"no reranker of this name is served here; there are {', '.join(self.service.rerankers) or 'none'}")
        for name in ("k", "offset", "rerank_depth"):
            if getattr(request, name) > (most := getattr(self.limits, name)):
                raise Refusal(422, f"{name}: at most {most}")

    async def _query(self, request: SearchRequest, image: bytes | None) -> Query:
        given = [image, request.image, request.image_url, request.image_id]
        if sum(picture is not None for picture in given) > 1:
            raise Refusal(422, "give one picture: as a file, in base64, by its address or by its id")
        if request.image is not None:
            image = from_base64(request.image)
        if request.image_url is not None:
            if self.fetcher is None:
                raise Refusal(403, "image_url: this server fetches no pictures; send the file itself")
            image = await self.fetcher.fetch(request.image_url)
        if image is not None:
            await self.in_thread(check_picture, image, self.limits)
        elif request.image_id is None and not request.text.strip():
            raise Refusal(422, "give a picture, a text or both")
        return Query(image=image, text=request.text, image_id=request.image_id)

    async def _search(self, query: Query, request: SearchRequest) -> dict[str, Any]:
        recipe = self._recipe(request)
        depth = request.rerank_depth if request.rerank is not None else Page.rerank_depth
        page = Page(request.k, request.offset, request.where, request.explain, request.rerank, depth)
        reranks = int(request.rerank is not None)
        if reranks and self._reranks >= self.limits.reranks:
            raise Refusal(503, "too many searches wait for a reranker; come again, or ask without one", 2)
        self._reranks += reranks
        self._wait(1)
        try:
            await self._try_filter(recipe, request.where)
            result = await asyncio.wrap_future(self.service.submit(query, page, recipe))
        except UserError as error:
            raise self.refusal(error, query, recipe) from None
        finally:
            self._wait(-1)
            self._reranks -= reranks
        return search_answer(result, recipe, request.offset, request.explain, self.limits.offset)

    async def query_of(self, request: SearchRequest) -> tuple[Query, str]:
        """The query of ``request``, its picture checked, and the recipe that answers it. Raises Refusal as :meth:`answer`."""
        self._check(request)
        return await self._query(request, None), self._recipe(request)

    def _recipe(self, request: SearchRequest) -> str:
        recipe = request.recipe or self.service.recipes[0]
        if recipe not in self.service.recipes:
            raise Refusal(404, f"no recipe of this name is served here; there are {', '.join(self.service.recipes)}")
        return recipe

    async def _try_filter(self, recipe: str, where: str) -> None:
        """Have the filter's answer ready, in a thread, so that a slow or wrong one holds up nobody else."""
        here = self.service.snapshot(recipe)
        if here is not None and where.strip():
            await asyncio.get_running_loop().run_in_executor(self._filters, here.filter.matching, where)

    def refusal(self, error: UserError, query: Query, recipe: str) -> Refusal:
        """What to answer where ``recipe`` cannot answer ``query`` because of ``error``."""
        sentence = public_sentence(str(error), self.lake.address)
        here = self.service.snapshot(recipe)
        if here is None or self.service.stopping or self.lake.address in str(error):  # nothing that the client could mend
            log.warning("%s", error)
            return Refusal(503, sentence, 30)
        gone = query.image_id is not None and here.gallery.ids.position(query.image_id) is None
        return Refusal(404 if gone else 400, sentence)

    def _wait(self, more: int) -> None:
        self._waiting += more
        self.metrics.waiting.set(self._waiting)

    def state(self) -> dict[str, Any]:
        """A :class:`~mmret.serve.answers.ReadyAnswer`."""
        return self._public(ready_of_all(self.service))

    def _public(self, now: dict[str, Any]) -> dict[str, Any]:
        error = now["error"]
        return {**now, "error": public_sentence(error, self.lake.address) if error else None}


def ready_of_all(service: SearchService) -> dict[str, Any]:
    """The status of the first recipe, ``ready`` where all are; what is loaded or wrong is that of the first that is not."""
    all_of_them = [service.status(recipe) for recipe in service.recipes]
    first = all_of_them[0]
    late = next((status for status in all_of_them if not status["ready"] or status["error"]), first)
    error = late["error"]
    return {
        **first,
        "ready": all(status["ready"] for status in all_of_them),
        "loading": late["loading"],
        "error": f"{late['recipe']}: {error}" if error and late is not first else error,
    }
