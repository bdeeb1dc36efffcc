"""Search for a server: queries of many clients share forward passes and products, and the lake is followed without a pause.

One thread takes what has come in since it last looked, encodes queries of a kind together and ranks all of them with one product,
so the busier the server, the cheaper a query. Another looks every :attr:`SearchService.refresh_s` seconds whether pictures or
weights have changed (in an object store as :mod:`mmret.lake.changes` does), opens the new state beside the old one and puts it in
its place at once: each answer is of one state, which it names. Queries by a picture of the corpus are answered as soon as its
vectors are read, those with a text, and all of a model that is told by what it is asked, once the model is loaded.
Cost: :mod:`mmret.search.snapshot`'s, for a moment twice what the changed shards take.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmret.errors import UserError
from mmret.lake.changes import Changes
from mmret.memory import give_back
from mmret.progress import reporting
from mmret.search.models import pick_recipe, pick_reranker
from mmret.search.pixels import PixelBudget
from mmret.search.query import Page, Query, SearchResult
from mmret.search.search import Searcher
from mmret.search.snapshot import Prepared, Snapshot, state_of

MOST_AT_ONCE = 32
"""Queries in a batch."""
_RETRY_S = 30.0  # after a state that could not be opened
_log = logging.getLogger(__name__)

Observe = Callable[[str, float], None]
"""Called with ``wait_seconds``, ``encode_seconds``, ``rank_seconds``, ``rerank_seconds`` or ``batch_size``, and the value."""


@dataclass(eq=False)
class _Request:
    query: Query
    page: Page
    recipe: str
    future: Future[SearchResult]
    came: float
    prepared: tuple[Snapshot, Prepared] | None = None
    free_place: Callable[[], None] | None = None


class SearchService:
    """Answers queries of any thread with the checkpoints of ``recipes``, the first by default.

    service = SearchService(Searcher(lake, profile), ["demo"])
    service.start()
    service.submit(Query(text="a red circle"), Page(k=5)).result().hits
    """

    def __init__(
        self,
        searcher: Searcher,
        recipes: Sequence[str],
        refresh_s: float = 2.0,
        observe: Observe = lambda *_: None,
        rerankers: Sequence[str] = (),
    ):
        """``rerankers``: recipes that a :class:`Page` may name. Raises UserError for a recipe without a checkpoint."""
        self.searcher, self.refresh_s = searcher, refresh_s
        self.rerankers = [pick_reranker(searcher.lake, searcher.profile, recipe) for recipe in rerankers]
        self.recipes = [pick_recipe(searcher.lake, searcher.profile, recipe) for recipe in recipes]
        self._observe = observe
        self._changes = Changes(searcher.lake)
        self._snapshots: dict[str, Snapshot] = {}
        self._failed: dict[str, tuple[Any, float]] = {}
        self._status: dict[str, dict[str, str | None]] = {recipe: {"loading": "vectors", "error": None} for recipe in self.recipes}
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._waiting: list[_Request] = []
        self._stopping = threading.Event()
        self._decoding: set[_Request] = set()
        self._in_rerank: set[_Request] = set()
        self._pixels = PixelBudget()
        self._decoders = ThreadPoolExecutor(2, thread_name_prefix="decode")
        self._reranking = ThreadPoolExecutor(1, thread_name_prefix="rerank")  # takes long: other queries do not wait for it
        work = {"search": self._answer_all, "refresh": self._follow}
        self._threads = [threading.Thread(target=each, daemon=True, name=name) for name, each in work.items()]

    def start(self) -> None:
        """Begin to load and to answer. Returns at once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; queries that still wait fail with UserError."""
        self._stopping.set()
        self._requests.put(None)
        self._pixels.close()
        self._decoders.shutdown(wait=True, cancel_futures=True)
        self._reranking.shutdown(wait=False, cancel_futures=True)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=10)
        self._fail_all(UserError("the server is stopping"))

    @property
    def stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopping.is_set()

    def submit(self, query: Query, page: Page = Page(), recipe: str | None = None) -> Future[SearchResult]:
        """The answer to come, from a state of the lake that is current when the query's turn comes.

        The future raises UserError for what :meth:`Searcher.search` raises it for. A caller that gives up cancels it.
        """
        name = self.recipes[0] if recipe is None else recipe
        future: Future[SearchResult] = Future()
        if name not in self.recipes:
            future.set_exception(UserError(f"no recipe '{name[:64]}' is served here; there are {', '.join(self.recipes)}"))
        elif page.rerank is not None and page.rerank not in self.rerankers:
            there = ", ".join(self.rerankers) or "none"
            future.set_exception(UserError(f"no reranker '{page.rerank[:64]}' is served here; there are {there}"))
        elif self._stopping.is_set():
            future.set_exception(UserError("the server is stopping"))
        else:
            self._requests.put(_Request(query, page, name, future, time.perf_counter()))
        return future

    def snapshot(self, recipe: str | None = None) -> Snapshot | None:
        """The state that answers now, None until there is one."""
        return self._snapshots.get(self.recipes[0] if recipe is None else recipe)

    def status(self, recipe: str | None = None) -> dict[str, Any]:
        """``ready``: whether every query can be answered; ``checkpoint``, ``pictures``, ``dimensions``, ``exact`` and ``recall`` as
        :class:`SearchResult` has them, None until known; ``loading``: what is being loaded, None once all is; ``error``: why the
        newest state of the lake cannot be opened (the last one that could be still answers)."""
        name = self.recipes[0] if recipe is None else recipe
        here = self._snapshots.get(name)
        known = {
            "checkpoint": here.model.digest,
            "pictures": len(here.gallery),
            "dimensions": int(here.gallery.vectors([0]).shape[1]),
            "exact": here.exact,
            "recall": here.gallery.recall,
        } if here is not None else dict.fromkeys(("checkpoint", "pictures", "dimensions", "exact", "recall"))  # fmt: skip
        return {"ready": here is not None and here.model.loaded, "recipe": name, **known, **self._status[name]}

    # the thread that answers

    def _answer_all(self) -> None:
        while not self._stopping.is_set():
            batch = self._taken()
            try:
                self._answer_batch(batch)
            except Exception as error:  # a fault of this code: told to those it concerns, and the next batch is answered
                _log.exception("a batch of %d queries failed", len(batch))
                for request in batch:
                    _fail(request, error)

    def _answer_batch(self, batch: Sequence[_Request]) -> None:
        now = time.perf_counter()
        groups: dict[Snapshot, list[_Request]] = {}
        for request in batch:
            if not request.future.done() and self._prepared(request):
                groups.setdefault(request.prepared[0], []).append(request)
        for requests in groups.values():
            for request in requests:
                self._observe("wait_seconds", now - request.came)
            for start in range(0, len(requests), MOST_AT_ONCE):
                self._observe("batch_size", len(requests[start : start + MOST_AT_ONCE]))
                self._answer(requests[start : start + MOST_AT_ONCE])

    def _taken(self) -> list[_Request]:
        """What waits, once something has come in: a request, or word that a state or a model is there (None)."""
        batch = [self._requests.get()]
        while len(batch) < MOST_AT_ONCE:
            try:
                batch.append(self._requests.get_nowait())
            except queue.Empty:
                break
        batch, self._waiting = [*self._waiting, *batch], []
        return [request for request in batch if request is not None]

    def _prepared(self, request: _Request) -> bool:
        """Whether the request can be answered now; one that cannot yet comes again, one that never can fails."""
        here, error = self._snapshots.get(request.recipe), self._status[request.recipe]["error"]
        if here is None or (not here.model.loaded and self._needs_model(request, here)):
            if error is None:
                self._waiting.append(request)
            else:
                _fail(request, UserError(error))
            return False
        if request.prepared is not None and request.prepared[0] is here:
            return True
        if request.query.image is not None or (request.query.image_id is not None and self._needs_model(request, here)):
            self._decoding.add(request)
            try:
                self._decoders.submit(self._decode, request, here)  # comes again once its picture is decoded
            except RuntimeError:  # stop() came in between
                self._decoding.discard(request)
                _fail(request, UserError("the server is stopping"))
            return False
        return self._prepare(request, here)

    def _decode(self, request: _Request, here: Snapshot) -> None:
        if request.free_place is None:
            request.free_place = self._pixels.take(request.query.image, request.future)
            if request.free_place is None:
                return  # the service ends, and fails it
        ready = self._prepare(request, here)
        self._decoding.discard(request)
        if ready:
            self._requests.put(request)

    @staticmethod
    def _prepare(request: _Request, here: Snapshot) -> bool:
        try:
            request.prepared = (here, here.prepare(request.query))
            return True
        except Exception as error:
            _fail(request, error)
            return False

    @staticmethod
    def _needs_model(request: _Request, here: Snapshot) -> bool:
        query = request.query
        by_id = query.image_id is not None and here.model.asks_by_pictures
        return query.image is not None or bool(query.text.strip()) or by_id

    def _answer(self, requests: Sequence[_Request]) -> None:
        here = requests[0].prepared[0]
        started = time.perf_counter()
        try:
            vectors = here.encode([request.prepared[1] for request in requests])
        except Exception as error:
            if len(requests) > 1:  # one of them fails, the others do not
                for request in requests:
                    self._answer([request])
            else:
                _fail(requests[0], error)
            return
        encoded = time.perf_counter()
        if any(self._needs_model(request, here) for request in requests):
            self._observe("encode_seconds", encoded - started)
        for page in dict.fromkeys(request.page for request in requests):
            alike = [n for n, request in enumerate(requests) if request.page == page]
            if page.rerank is not None:
                for n in alike:
                    self._rerank_later(requests[n], vectors[n : n + 1])
                continue
            try:
                found = here.answer([requests[n].prepared[1] for n in alike], vectors[alike], page)
            except Exception as error:
                for n in alike:
                    _fail(requests[n], error)
                continue
            for n, result in zip(alike, found, strict=True):
                if requests[n].future.set_running_or_notify_cancel():
                    requests[n].future.set_result(result)
        self._observe("rank_seconds", time.perf_counter() - encoded)

    def _rerank_later(self, request: _Request, vector: np.ndarray) -> None:
        """Have the reranker read what the encoded query finds, in its turn. It waits with its picture undecoded, so that others
        are decoded meanwhile, however slow the reranker is."""
        here, prepared = request.prepared
        request.prepared = (here, prepared.undecoded())
        if request.free_place is not None:
            request.free_place()
        self._in_rerank.add(request)
        try:
            self._reranking.submit(self._rerank, request, vector)
        except RuntimeError:  # stop() came in between
            self._in_rerank.discard(request)
            _fail(request, UserError("the server is stopping"))

    def _rerank(self, request: _Request, vector: np.ndarray) -> None:
        try:
            if request.future.done():  # whoever asked has given up
                return
            started = time.perf_counter()
            here, prepared = request.prepared
            rerank = self.searcher.rerankers.of(request.page.rerank)
            found = here.answer([prepared.decoded()], vector, request.page, rerank)
            self._observe("rerank_seconds", time.perf_counter() - started)
            if not request.future.done() and request.future.set_running_or_notify_cancel():
                request.future.set_result(found[0])
        except Exception as error:
            _fail(request, error)
        finally:
            self._in_rerank.discard(request)

    # the thread that follows the lake

    def _follow(self) -> None:
        while True:
            look = self._may_have_changed()
            for recipe in self.recipes:
                here = self._snapshots.get(recipe)
                if look or here is None or not here.model.loaded or recipe in self._failed:
                    self._refresh(recipe)
            for recipe in self.rerankers:  # loaded before anybody asks, and anew when its checkpoint changes
                self._refresh_reranker(recipe)
            if self._stopping.wait(self.refresh_s):
                return

    def _may_have_changed(self) -> bool:
        try:
            return self._changes.maybe()
        except OSError as error:  # the object store does not answer: the states that there are do
            _log.warning("%s", error)
            return False

    def _refresh(self, recipe: str) -> None:
        searcher, status = self.searcher, self._status[recipe]
        before = self._snapshots.get(recipe)
        state: Any = None

        def report(task: str, done: int, total: int | None, note: str = "", counts: Any = None) -> None:
            status["loading"] = f"vectors: {done:,} of {total:,} pictures embedded" if total else "vectors"

        try:
            failed, at = self._failed.get(recipe, (None, -_RETRY_S))
            lately = time.monotonic() - at < _RETRY_S
            if lately and failed is None:
                return
            state = state_of(searcher.lake, searcher.profile, recipe)
            if before is not None and before.state == state and before.model.loaded:
                status["error"] = None
                return
            if lately and failed == state:
                return
            here = before
            if before is None or before.state != state:
                status["loading"] = "vectors"
                with reporting(report):
                    here = searcher.open(recipe, before)
            status["loading"] = "the model"
            if before is None:
                self._publish(recipe, here)
            here.model.retriever  # noqa: B018 - loads it
            self._failed.pop(recipe, None)
            status["error"] = None
            self._publish(recipe, here)
        except Exception as error:  # whatever is wrong with the new state, the old one goes on answering
            self._failed[recipe] = (state, time.monotonic())
            # queries that no older state can answer fail with it
            status["error"] = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: see the server's log"
            if isinstance(error, UserError):
                _log.warning("%s: %s", recipe, error)
            else:
                _log.error("%s: the newest state cannot be opened", recipe, exc_info=error)
            self._requests.put(None)
        finally:
            status["loading"] = None if recipe in self._snapshots and self._snapshots[recipe].model.loaded else status["loading"]

    def _refresh_reranker(self, recipe: str) -> None:
        try:
            self.searcher.rerankers.of(recipe)
            self._failed.pop(recipe, None)
        except Exception as error:  # queries that name it are told the same
            if recipe not in self._failed:
                _log.warning("%s: %s", recipe, error)
            self._failed[recipe] = (None, time.monotonic())

    def _publish(self, recipe: str, snapshot: Snapshot) -> None:
        self._snapshots[recipe] = snapshot
        self._requests.put(None)  # those that waited for it
        give_back()  # what reading and sketching took

    def _fail_all(self, error: Exception) -> None:
        left = [*self._waiting, *self._decoding, *self._in_rerank]
        while True:
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                break
            left += [request] if request is not None else []
        for request in left:
            _fail(request, error)


def _fail(request: _Request, error: Exception) -> None:
    """End ``request``; a UserError is one of its own, since one that many raise would keep what each of them held."""
    if not request.future.done() and request.future.set_running_or_notify_cancel():
        request.future.set_exception(UserError(str(error)) if isinstance(error, UserError) else error)
