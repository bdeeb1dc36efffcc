"""Searches a lake's corpus by a picture, a text, or a picture changed as a text says; for the command, the page and a server.

The first search with a checkpoint embeds the corpus if nobody has (the lake keeps the vectors); after that a query costs one
forward pass and one product with the gallery, about 10 ms over 100,000 pictures. Models stay in memory once used, with the gallery
(:class:`SearchOptions` says how much that is). torch is imported by the first search, not before.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from mmret.errors import UserError
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.lake.changes import Changes
from mmret.search.models import UNTRAINED, pick_recipe, trained_recipes
from mmret.search.names import ImageNames
from mmret.search.options import SearchOptions
from mmret.search.query import COLUMNS, Page, Query, SearchResult
from mmret.search.rerank import Rerankers
from mmret.settings import Profile

if TYPE_CHECKING:
    from mmret.search.snapshot import Snapshot

__all__ = ["COLUMNS", "Page", "Query", "SearchResult", "Searcher", "query_image"]


class Searcher:
    """Search of one lake with any of its checkpoints. Safe for threads; searches wait for each other.

    searcher = Searcher(lake, profile)
    searcher.search("demo", Query(text="a red circle"), k=5).hits
    """

    def __init__(
        self,
        lake: Lake,
        profile: Profile,
        options: SearchOptions = SearchOptions(),
        filter_rows: Callable[[pa.Table], pa.Table] = lambda rows: rows,
    ):
        """``filter_rows``: makes of rows of table ``images`` what filters see of them."""
        self.lake, self.profile, self.options, self._filter_rows = lake, profile, options, filter_rows
        self._lock = threading.RLock()
        self._snapshots: dict[str, Snapshot] = {}
        self._changes: dict[str, Changes] = {}
        self.rerankers = Rerankers(lake, profile)

    def recipes(self) -> list[str]:
        """Names that :meth:`search` takes: trained recipes, then ``untrained``."""
        return [*trained_recipes(self.lake, self.profile), UNTRAINED]

    def search(
        self,
        recipe: str,
        query: Query,
        k: int = 20,
        offset: int = 0,
        where: str = "",
        explain: bool = False,
        rerank: str | None = None,
        rerank_depth: int = 50,
    ) -> SearchResult:
        """The ``k`` images nearest to ``query`` by the checkpoint of ``recipe``, after the first ``offset``.

        ``where``: a SQL condition over table ``images`` that results must fulfil; ``explain``: with the scores of picture and text
        alone; ``rerank``: a reranker's recipe, by whose scores the first ``rerank_depth`` are ordered. A query picture that is in
        the corpus is not among its own results. While the corpus is embedded, progress is reported to
        :func:`mmret.progress.advance`. Raises UserError for an empty query, an unknown recipe or picture, a picture that cannot be
        read, a filter that is no condition, and a model whose vectors or scores are not finite.

        >>> searcher.search("demo", Query(image=Path("dress.jpg").read_bytes(), text="the same in blue"), k=5).hits[0]["path"]
        """
        return self.search_page(recipe, [query], Page(k, offset, where, explain, rerank, rerank_depth))[0]

    def search_many(
        self, recipe: str, queries: Sequence[Query], k: int = 20, offset: int = 0, where: str = "", explain: bool = False
    ) -> list[SearchResult]:
        """:meth:`search` of many queries at once, with one forward pass for those of a kind and one product for all."""
        return self.search_page(recipe, queries, Page(k, offset, where, explain))

    def search_page(self, recipe: str, queries: Sequence[Query], page: Page) -> list[SearchResult]:
        """:meth:`search_many`, with all that a page may ask for. A reranker reads its queries one after the other."""
        for query in queries:
            if query.image is None and query.image_id is None and not query.text.strip():
                raise UserError("give a picture, a text or both")
        rerank = None if page.rerank is None else self.rerankers.of(page.rerank)
        with self._lock:
            snapshot = self.snapshot(recipe)
            prepared = [snapshot.prepare(query) for query in queries]
            vectors = snapshot.encode(prepared) if prepared else []
        return snapshot.answer(prepared, vectors, page, rerank) if prepared else []

    def snapshot(self, recipe: str) -> Snapshot:
        """The lake's present state as ``recipe`` answers from it, opened anew if the checkpoint or the corpus has changed. Raises
        UserError for an unknown recipe."""
        from mmret.search.snapshot import state_of

        with self._lock:
            had = self._snapshots.get(recipe)
            if not self._changes.setdefault(recipe, Changes(self.lake)).maybe() and had is not None:
                return had
        pick_recipe(self.lake, self.profile, recipe)
        with self._lock:
            had = self._snapshots.get(recipe)
            if had is None or had.state != state_of(self.lake, self.profile, recipe):
                self._snapshots[recipe] = self.open(recipe, had)
            return self._snapshots[recipe]

    def open(self, recipe: str, before: Snapshot | None = None) -> Snapshot:
        """The lake as it is now, as :func:`mmret.search.snapshot.open_snapshot` opens it."""
        from mmret.search.snapshot import Source, open_snapshot

        return open_snapshot(Source(self.lake, self.profile, self.options, self._filter_rows), recipe, before)


def query_image(lake: Lake, image: Path) -> bytes:
    """File contents of ``image``: a file on disk, or a path or id of the corpus. Raises UserError where it is neither."""
    if image.is_file():
        return image.read_bytes()
    image_id = ImageNames(lake).resolve(str(image), "--image")
    if image_id is None:
        ask = f'`mmret sql --lake {shlex.quote(lake.address)} "SELECT * FROM rejects"`'
        raise UserError(f"--image {image}: rejected at ingest, see {ask}; give the file itself")
    return images_by_id(lake, [image_id])[image_id]
