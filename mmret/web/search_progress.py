"""Searches for many visitors and tells those who wait what for, since the first search with a checkpoint embeds the whole corpus.

On a large corpus that takes hours, and a spinner alone would look as if the page hung.
"""

from __future__ import annotations

import threading

from mmret.progress import Counts, reporting
from mmret.search.search import Query, Searcher, SearchResult


class SearchProgress:
    """A :class:`Searcher` that can say what its running search is doing. Safe for threads."""

    def __init__(self, searcher: Searcher):
        self.searcher = searcher
        self._lock = threading.Lock()
        self._embedding: dict[str, tuple[int, int | None]] = {}
        self._used: set[str] = set()

    def recipes(self) -> list[str]:
        """Names that :meth:`search` takes: trained recipes, then ``untrained``."""
        return self.searcher.recipes()

    def search(self, recipe: str, query: Query, k: int) -> SearchResult:
        """As :meth:`Searcher.search`; meanwhile :meth:`wait_message` tells how far it is."""

        def report(task: str, done: int, total: int | None, note: str = "", counts: Counts | None = None) -> None:
            with self._lock:
                self._embedding[recipe] = (done, total)

        try:
            with reporting(report):
                found = self.searcher.search(recipe, query, k)
        finally:
            with self._lock:
                self._embedding.pop(recipe, None)
        with self._lock:
            self._used.add(recipe)
        return found

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
