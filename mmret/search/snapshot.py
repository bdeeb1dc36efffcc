"""One state of a lake as one checkpoint answers from it: its model, gallery, rows and filters belong together and never change.

When the corpus or the checkpoint changes a new snapshot is opened beside the old one and takes its place at once
(:mod:`mmret.search.search`, :mod:`mmret.search.service`), so no answer mixes two states. Cost: :class:`Gallery`'s, some 200 bytes a
picture for the rows of table ``images``, and the model, which is loaded when the first query needs it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmret.errors import UserError
from mmret.hashing import content_id
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.ranking import best_first, target_ranks
from mmret.search.corpus_vectors import StoredShard, each_of, gallery_shards
from mmret.search.encoder import Encoder
from mmret.search.filters import ImageFilter
from mmret.search.gallery import Gallery
from mmret.search.models import model_folder
from mmret.search.options import SearchOptions
from mmret.search.query import COLUMNS, Page, Query, SearchResult
from mmret.settings import Profile

State = tuple[Any, ...]
Rerank = Callable[["Prepared", list[str]], np.ndarray]
"""Scores (m,) float32 of a query's first hits, given by their image ids."""
_TRIES = 5  # to read a lake that is being written


class Model:
    """The checkpoint in ``folder``, loaded at its first use. Safe for threads, one at a time."""

    def __init__(self, folder: Path | str, digest: str):
        self.folder, self.digest = folder, digest
        self._lock = threading.RLock()
        self._retriever: Encoder | None = None

    @cached_property
    def _options(self) -> dict[tuple[bool, bool], dict[str, str]]:
        """Keywords of ``encode`` of a query with a picture or not, with a text or not."""
        from mmret.retriever.models.kinds import picture_options, query_options

        by_text = {(with_image, True): query_options(self.folder, composed=with_image) for with_image in (False, True)}
        return {**by_text, (True, False): picture_options(self.folder)}

    @property
    def asks_by_pictures(self) -> bool:
        """Whether a picture that asks alone has another vector than the same picture as a candidate."""
        return bool(self._options[True, False])

    @property
    def retriever(self) -> Encoder:
        """The model itself. Raises UserError where it cannot be loaded, or is another by now than the one asked for."""
        from mmret.retriever.models.kinds import embedding_digest
        from mmret.retriever.models.load import Retriever

        with self._lock:
            if self._retriever is None:
                loaded = Retriever.load(self.folder)
                if embedding_digest(self.folder) != self.digest:
                    raise UserError(f"{self.folder} was replaced while it was read: search again")
                _hold(loaded)
                self._retriever = loaded
            return self._retriever

    @property
    def loaded(self) -> bool:
        """Whether it is in memory."""
        return self._retriever is not None

    def encode(self, images: list[Any] | None, texts: list[str] | None) -> np.ndarray:
        """(n, dim) float32 of queries. Pictures alone bring an instruction only where the checkpoint was trained with one."""
        with self._lock:
            return self.retriever.encode(images, texts, **self._options[images is not None, texts is not None])


def _hold(retriever: Any) -> None:
    """Copy the weights into this process's own memory: mapped from a file, they would change, or end the process, with it."""
    model = getattr(retriever, "model", None)
    for tensors in (model.parameters(), model.buffers()) if model is not None else ():
        for tensor in tensors:
            if tensor.device.type == "cpu":
                tensor.data = tensor.data.clone()


@dataclass
class Prepared:
    """A query whose picture is decoded: ``own`` its position in the gallery, if it is there; ``vector`` (d,), where no model is
    needed; ``file``: what the picture was decoded from."""

    query: Query
    image: Any
    text: str
    own: int | None
    vector: np.ndarray | None
    file: bytes | None = None

    def undecoded(self) -> Prepared:
        """The same without its pixels, for a query that waits."""
        return replace(self, image=None)

    def decoded(self) -> Prepared:
        """The same with its pixels. Raises UserError where they cannot be read."""
        from mmret.retriever.models.clip import to_rgb

        return self if self.file is None or self.image is not None else replace(self, image=to_rgb(self.file))


@dataclass(frozen=True, eq=False)
class Snapshot:
    """``rows``: :data:`COLUMNS` of the pictures, in the gallery's order. ``state``: what :func:`state_of` said when it was
    opened."""

    lake: Lake
    model: Model
    gallery: Gallery
    rows: pa.Table
    filter: ImageFilter
    state: State
    weights_now: Callable[[], State]
    """The part of :func:`state_of` that is of the weights, asked for anew."""

    def weights_are_current(self) -> bool:
        """Whether the checkpoint's files are still those that this snapshot was opened with."""
        try:
            return self.weights_now() == self.state[0]
        except (FileNotFoundError, UserError):
            return False

    def prepare(self, query: Query) -> Prepared:
        """Read and decode what the query needs. Raises UserError for an empty query, an unknown picture and one that cannot be
        read."""
        text = query.text.strip()
        if query.image is None and query.image_id is None:
            if not text:
                raise UserError("give a picture, a text or both")
            return Prepared(query, None, text, None, None)
        own = self.gallery.ids.position(query.image_id if query.image is None else content_id(query.image))
        data = query.image
        if data is None:
            if own is None:
                raise UserError(f"no picture of the corpus has the id '{query.image_id[:64]}'")
            if not text and not self.model.asks_by_pictures:
                return Prepared(query, None, "", own, self.gallery.vectors([own])[0])
            data = images_by_id(self.lake, [query.image_id]).get(query.image_id)
            if data is None:
                raise UserError(f"the picture '{query.image_id}' is gone from the lake: search again")
        return Prepared(query, None, text, own, None, data).decoded()

    def encode(self, prepared: Sequence[Prepared]) -> np.ndarray:
        """Unit vectors (n, d) float32 of queries; those of one kind share a forward pass."""
        kinds: dict[tuple[bool, bool], list[int]] = {}
        vectors: list[Any] = [p.vector for p in prepared]
        for at, p in enumerate(prepared):
            if p.vector is None:
                kinds.setdefault((p.image is not None, bool(p.text)), []).append(at)
        for (with_image, with_text), places in kinds.items():
            images = [prepared[at].image for at in places] if with_image else None
            texts = [prepared[at].text for at in places] if with_text else None
            for at, vector in zip(places, self.model.encode(images, texts), strict=True):
                vectors[at] = vector
        return np.stack(vectors)

    def answer(
        self, prepared: Sequence[Prepared], vectors: np.ndarray, page: Page, rerank: Rerank | None = None
    ) -> list[SearchResult]:
        """Results for queries whose ``vectors`` (n, d) :meth:`encode` gave, all for the same ``page``.

        ``rerank``: gives scores of a query's first hits, by which these are ordered. Raises UserError for a bad filter, and what
        ``rerank`` raises.
        """
        if page.k < 1 or page.offset < 0:
            raise UserError(f"k {page.k}, offset {page.offset}: give k from 1 and an offset from 0")
        allowed = self.filter.matching(page.where) if page.where.strip() else None
        # one more, for the query's own picture
        depth = page.rerank_depth if rerank is not None else 0
        found = self.gallery.nearest(vectors, max(depth, page.k + page.offset) + 1, allowed)
        parts = self._parts(prepared, vectors) if page.explain else [None] * len(prepared)
        results = []
        for p, vector, (rows, scores), part in zip(prepared, vectors, found, parts, strict=True):
            others = rows != (-1 if p.own is None else p.own)
            window = slice(page.offset, page.offset + page.k)
            rows, scores = rows[others], scores[others]
            said = None if rerank is None else rerank(p, [self.gallery.ids[row] for row in rows[:depth]])
            target = self._rank_of(p, vector)
            if said is not None:
                order = np.concatenate([best_first(said), np.arange(len(said), len(rows))])
                rows, scores = rows[order], scores[order]
                said = np.concatenate([said, np.full(len(rows) - len(said), np.nan, np.float32)])[order]
                target = self._reranked(p, rows[:depth], target)
            hits = self._hits(rows[window], scores[window], part)
            for hit, score in zip(hits, [] if said is None else said[window].tolist(), strict=said is not None):
                hit["rerank_score"] = None if math.isnan(score) else score
            results.append(
                SearchResult(
                    hits,
                    target,
                    len(self.gallery),
                    _matching(len(self.gallery), allowed, p.own),
                    self.model.digest,
                    self.exact,
                    self.gallery.recall,
                )
            )
        return results

    @property
    def exact(self) -> bool:
        """Whether every query is compared with every picture by its full vector."""
        return self.gallery.index is None and self.gallery.options.exact

    def _hits(self, rows: np.ndarray, scores: np.ndarray, parts: tuple[Any, Any] | None) -> list[dict[str, Any]]:
        found = self.rows.take(pa.array(rows)).to_pylist()
        hits = [{"score": float(score), **row} for score, row in zip(scores, found, strict=True)]
        if parts is not None and len(rows):
            of_rows = self.gallery.vectors(rows)
            for name, vector in zip(("image_score", "text_score"), parts, strict=True):
                alone = [None] * len(hits) if vector is None else (of_rows @ vector).tolist()
                for hit, score in zip(hits, alone, strict=True):
                    hit[name] = score
        return hits

    def _parts(self, prepared: Sequence[Prepared], vectors: np.ndarray) -> list[tuple[Any, Any]]:
        """Vector of the picture alone and of the text alone of each query, None where it has no such part."""
        parts: list[tuple[Any, Any]] = []
        both = [p for p in prepared if p.text and p.image is not None]
        texts = dict(zip(map(id, both), self.model.encode(None, [p.text for p in both]), strict=True)) if both else {}
        unknown = [p for p in both if p.own is None or self.model.asks_by_pictures]
        images = dict(zip(map(id, unknown), self.model.encode([p.image for p in unknown], None), strict=True)) if unknown else {}
        for p, vector in zip(prepared, vectors, strict=True):
            if id(p) in texts:
                parts.append((images[id(p)] if id(p) in images else self.gallery.vectors([p.own])[0], texts[id(p)]))
            else:
                parts.append((None, vector) if p.text else (vector, None))
        return parts

    def _reranked(self, p: Prepared, rows: np.ndarray, rank: int | None) -> int | None:
        """The target's place among the reranked ``rows``; ``rank`` where it is not among them."""
        target = self.gallery.ids.position(p.query.target) if p.query.target else None
        there = np.flatnonzero(rows == target) if target is not None else []
        return int(there[0]) + 1 if len(there) else rank

    def _rank_of(self, p: Prepared, vector: np.ndarray) -> int | None:
        target = self.gallery.ids.position(p.query.target) if p.query.target else None
        if target is None:
            return None
        excluded = {p.own} - {None, target}
        scores = self.gallery.scores(vector)
        return int(target_ranks(np.ones((1, 1), np.float32), scores[:, None], [{target}], [excluded])[0])


def _matching(pictures: int, allowed: np.ndarray | None, own: int | None) -> int:
    """How many of ``pictures`` can be found by a query whose picture is ``own``."""
    if allowed is None:
        return pictures - (own is not None)
    return int(allowed.sum()) - (own is not None and bool(allowed[own]))


def state_of(lake: Lake, profile: Profile, recipe: str) -> State:
    """Changes whenever the pictures of the lake or the weights of ``recipe`` do. Costs a ``stat`` a shard and file, in an object
    store a listing and a look at the checkpoint's record."""
    images = tuple(sorted((e.key, e.token) for e in lake.storage.list("images", below=False) if e.key.endswith(".parquet")))
    return (_weights_state(lake, profile, recipe), images)


def _weights_state(lake: Lake, profile: Profile, recipe: str) -> State:
    folder = model_folder(lake, profile, recipe)
    return (str(folder), _stats(sorted(folder.iterdir())) if isinstance(folder, Path) else ())


def _stats(files: Sequence[Path]) -> State:
    return tuple((path.name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for path in files if (stat := path.stat()))


@dataclass(frozen=True)
class Source:
    """What snapshots are made of. ``filter_rows``: makes of rows of table ``images`` what filters see of them."""

    lake: Lake
    profile: Profile
    options: SearchOptions = SearchOptions()
    filter_rows: Callable[[pa.Table], pa.Table] = lambda rows: rows


def open_snapshot(source: Source, recipe: str, before: Snapshot | None = None) -> Snapshot:
    """The lake as it is now with the checkpoint of ``recipe``; pictures without vectors are embedded, which may take long.

    What ``before`` has of it is used again: its model where the weights are the same, and its blocks of vectors. Raises UserError
    where the lake has no pictures, the model cannot be read, or the lake changes faster than it can be read.
    """
    for _ in range(_TRIES):
        opened = _open(source, recipe, before)
        weights, shards = state_of(source.lake, source.profile, recipe)
        if weights == opened.state[0] and set(opened.state[1]) <= set(shards):  # what came meanwhile is for the next
            return opened
    raise UserError(f"{source.lake.address} changed while it was read: search again")


def _open(source: Source, recipe: str, before: Snapshot | None) -> Snapshot:
    from mmret.retriever.models.kinds import embedding_digest

    lake, options = source.lake, source.options
    state = state_of(lake, source.profile, recipe)
    folder = model_folder(lake, source.profile, recipe)
    digest = embedding_digest(folder)
    same = before is not None and before.model.digest == digest and before.gallery.options == options
    model = before.model if same else Model(folder, digest)
    shards = list(gallery_shards(lake, folder, known=before.gallery.digests if same else None, load=lambda: model.retriever))
    if not shards:
        raise UserError(f"{lake.address} holds no images yet: run `mmret run --lake {lake.address}` first")
    gallery = Gallery(shards, options, before.gallery if same else None)
    rows = _rows(lake, shards)
    filter_ = ImageFilter(lambda: source.filter_rows(_filter_rows(lake, shards)))
    return Snapshot(lake, model, gallery, rows, filter_, state, partial(_weights_state, lake, source.profile, recipe))


def _rows(lake: Lake, shards: Sequence[StoredShard]) -> pa.Table:
    table = _of_shards(lake, shards, COLUMNS)
    for column in ("root", "licence"):
        table = table.set_column(table.column_names.index(column), column, table[column].dictionary_encode())
    return table.combine_chunks()


def _filter_rows(lake: Lake, shards: Sequence[StoredShard]) -> pa.Table:
    return _of_shards(lake, shards, None)  # all of them: an older lake may lack some, and then they are null


def _of_shards(lake: Lake, shards: Sequence[StoredShard], columns: list[str] | None) -> pa.Table:
    """Rows of ``images`` in the gallery's order. Raises UserError where the lake has changed meanwhile."""
    parts = each_of(lake, lambda shard: lake.read("images", shard.shard, columns), shards)
    if any(rows["image_id"].to_pylist() != shard.ids for rows, shard in zip(parts, shards, strict=True)):
        raise UserError(f"{lake.address} changed while it was read: search again")
    return pa.concat_tables(parts)
