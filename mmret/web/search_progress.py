"""Searches for many visitors and tells those who wait what for, since the first search with a checkpoint embeds the whole corpus.

On a large corpus that takes hours, and a spinner alone would look as if the page hung. On any other what takes time is to
import the model's libraries, some seconds: :meth:`SearchProgress.prepare` begins with that before anybody searches.
"""

from __future__ import annotations

import threading

from mmret.progress import Counts, reporting
from mmret.search.reasons import Reasons, Why
from mmret.search.search import Query, Searcher, SearchResult


class SearchProgress:
    """A :class:`Searcher` that can say what its running search is doing. Safe for threads."""

    def __init__(self, searcher: Searcher):
        self.searcher = searcher
        self.reasons = Reasons(searcher.lake)
        self._lock = threading.Lock()
        self._embedding: dict[str, tuple[int, int | None]] = {}
        self._used: set[str] = set()
        self._preparing: threading.Thread | None = None

    def prepare(self) -> None:
        """Begin to import what a first search needs, in a thread; returns at once, and does nothing the second time."""
        with self._lock:
            if self._preparing is None:
                self._preparing = threading.Thread(target=_import_models, name="imports for the first search", daemon=True)
                self._preparing.start()

    def recipes(self) -> list[str]:
        """Names that :meth:`search` takes: trained recipes, then ``untrained``."""
        return self.searcher.recipes()

    def search(self, recipe: str, query: Query, k: int, offset: int = 0, where: str = "", explain: bool = False) -> SearchResult:
        """As :meth:`Searcher.search`; meanwhile :meth:`wait_message` tells how far it is."""

        def report(task: str, done: int, total: int | None, note: str = "", counts: Counts | None = None) -> None:
            with self._lock:
                self._embedding[recipe] = (done, total)

        try:
            with reporting(report):
                found = self.searcher.search(recipe, query, k, offset, where, explain)
        finally:
            with self._lock:
                self._embedding.pop(recipe, None)
        with self._lock:
            self._used.add(recipe)
        return found

    def why(self, recipe: str, query: Query, image_id: str) -> Why:
        """As :meth:`Reasons.why`."""
        return self.reasons.why(self.searcher.snapshot(recipe), recipe, query, image_id)

    def wait_message(self, recipe: str) -> str:
        """What a search with ``recipe`` is waiting for, in words: ``embedding the corpus with demo: 512 of 20,000``."""
        with self._lock:
            embedding, used = dict(self._embedding), recipe in self._used
        for name in (recipe, *embedding):
            if name in embedding:
                done, total = embedding[name]
                of = "" if total is None else f" of {total:,}"
                return f"embedding the corpus with {name}: {done:,}{of} pictures (once; the lake keeps the vectors)"
        return f"searching with {recipe}" if used else f"loading the checkpoint of {recipe}"


def _import_models() -> None:
    import mmret.retriever.models.load
    import mmret.search.snapshot  # noqa: F401  with torch and transformers
