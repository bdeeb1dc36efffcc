"""The rows of one task in memory, with random access: what of them a step sees is a function of its epoch and of each row alone.

A *query* is a row with one of its texts. Where a visit shows one text, a row is one query, and its text is drawn; else each of its
texts is a query of its own, and an epoch has as many queries as texts. Draws are 64-bit hashes (splitmix64) of (seed, epoch, row).
Cost: a permutation of the queries per epoch (:mod:`.order`), some 0.1 s for a million.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.hashing import draws
from mmret.retriever.train.batch import NONE, Batch
from mmret.retriever.train.neighbours import Neighbours
from mmret.retriever.train.order import NeighbourOrder, flattened, visit_order
from mmret.settings import Recipe
from mmret.tasks import COMPOSED, Task


@dataclass(frozen=True)
class Columns:
    """What a training set takes from the chosen rows of a table, before pictures have numbers.

    ``texts``: of the queries, ``text_starts`` (n + 1,); ``query``, ``target`` and ``negatives`` (with ``negative_starts``): image
    ids; ``keys`` (n,) uint64 tell the rows apart.
    """

    task: Task
    keys: np.ndarray
    texts: pa.Array
    text_starts: np.ndarray
    query: pa.Array
    target: pa.Array
    negatives: pa.Array
    negative_starts: np.ndarray

    @classmethod
    def of(cls, task: Task, rows: pa.Table, keys: np.ndarray, with_negatives: bool) -> Columns:
        texts, text_starts = ragged(rows["texts"])
        negatives, starts = ragged(rows["hard_negatives"])
        if not with_negatives:
            negatives, starts = negatives.slice(0, 0), np.zeros_like(starts)
        query, target = (rows[c].cast(pa.large_string()).combine_chunks() for c in ("query_id", "target_id"))
        return cls(task, keys, texts, text_starts, query, target, negatives, starts)

    def used_as_images(self) -> list[pa.Array]:
        """The ids of pictures that are embedded as images."""
        asked = [self.query] if "image" in self.task.query else []
        return [*asked, self.target, self.negatives] if "image" in self.task.candidate else asked

    def all_ids(self) -> list[pa.Array]:
        return [self.query, self.target, self.negatives]


class Captions:
    """The captions of pictures by their numbers: ``of`` (p,) int64 into ``texts``, :data:`NONE` where none is known."""

    def __init__(self, pictures: pa.Array, ids: pa.ChunkedArray, captions: pa.ChunkedArray):
        known = pc.and_(pc.is_valid(captions), pc.not_equal(pc.fill_null(captions, ""), ""))
        encoded = captions.filter(known).combine_chunks().dictionary_encode()
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        self.texts = encoded.dictionary
        self.of = np.full(len(pictures), NONE, np.int64)
        places = pc.index_in(ids.filter(known), pictures).combine_chunks()
        here = places.is_valid().to_numpy(zero_copy_only=False)
        self.of[places.drop_null().to_numpy()] = encoded.indices.to_numpy(zero_copy_only=False)[here]

    def take(self, pictures: np.ndarray) -> list[str | None]:
        """The captions of ``pictures``."""
        numbers = self.of[pictures]
        return self.texts.take(pa.array(numbers, pa.int64(), mask=numbers == NONE)).to_pylist()


class TaskRows:
    """Rows of one task. Numbers of pictures are positions in ``pictures``, those of them that are used as images first.
    ``neighbours``: of query pictures, for a recipe of ``batch_neighbours``; ``alone`` rows have none of them, None: not asked."""

    def __init__(
        self,
        columns: Columns,
        pictures: pa.Array,
        recipe: Recipe,
        captions: Captions | None,
        neighbours: Neighbours | None = None,
    ):
        self.task, self.recipe, self.keys = columns.task, recipe, columns.keys
        self.texts, self.text_starts = columns.texts, columns.text_starts
        self.query, self.target, negative = (pc.index_in(c, pictures).to_numpy().astype(np.int64) for c in columns.all_ids())
        # hns[0] of a triplet is the query image, which `negatives` decides on; a target among them would contradict its pair
        row = np.repeat(np.arange(len(self)), np.diff(columns.negative_starts))
        mined = (negative != self.query[row]) & (negative != self.target[row])
        if self.task.searches_texts and captions is not None:
            mined &= captions.of[negative] != NONE
        self.mined = negative[mined]
        self.mined_starts = np.concatenate([[0], np.cumsum(np.bincount(row[mined], minlength=len(self)))])
        every = recipe.texts_at_once != "one" and "text" in self.task.query
        self.starts = self.text_starts if every else np.arange(len(self) + 1)
        self._permutation: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        self.alone: int | None = None
        if neighbours is not None:
            numbers, node = np.unique(self.query, return_inverse=True)
            edges = neighbours.among(pictures, numbers)
            self.alone = int(np.isin(node, np.concatenate(edges), invert=True).sum())
            self._neighbours = NeighbourOrder(self.keys, node, self.starts, edges, recipe.texts_at_once == "picture")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def queries(self) -> int:
        """That an epoch has: one of each row, or as many as it has texts. Those of row i are numbers ``starts[i]`` to
        ``starts[i + 1] - 1``."""
        return int(self.starts[-1])

    @property
    def several(self) -> int:
        """Rows of several queries."""
        return int((np.diff(self.starts) > 1).sum())

    def order(self, epoch: int) -> np.ndarray:
        """Numbers of queries in the order of ``epoch``."""
        if self._permutation[0] != epoch:
            self._permutation = (epoch, self._order(epoch))
        return self._permutation[1]

    def _order(self, epoch: int) -> np.ndarray:
        if self.alone is not None:
            return self._neighbours.order(self.recipe.batch_neighbours, self.recipe.seed, epoch)
        pictures = self.query if self.recipe.texts_at_once == "picture" else None
        return flattened(visit_order(self.keys, pictures, self.recipe.seed, epoch), self.starts)

    def batch_rows(self, number: int, size: int) -> Shown:
        """The ``number``-th batch of ``size`` queries. An epoch is as many whole batches as there are; its remainder is another one
        each epoch. Of a row that the end of a batch cuts, the next one shows the other texts."""
        epoch, number = divmod(number, self.queries // size)
        return self.show(self.order(epoch)[number * size : (number + 1) * size], epoch)

    def next_rows(self, start: int, count: int) -> list[Shown]:
        """``count`` queries from the ``start``-th on, epoch after epoch."""
        shown = []
        while count:
            epoch, place = divmod(start, self.queries)
            queries = self.order(epoch)[place : place + count]
            shown.append(self.show(queries, epoch))
            start, count = start + len(queries), count - len(queries)
        return shown

    def show(self, queries: np.ndarray, epoch: int) -> Shown:
        """What of ``queries`` is seen in ``epoch``. Explicit negatives come once a row, with its first query."""
        together = self.recipe.texts_at_once != "one"
        rows = np.searchsorted(self.starts, queries, side="right") - 1 if together else queries
        first, group = _first_of_each(rows) if together else (np.arange(len(rows)), None)
        visit = self.query[rows] if self.recipe.texts_at_once == "picture" else group
        texts: list[str | None] = [None] * len(rows)
        if "text" in self.task.query and together:
            texts = self.texts.take(pa.array(queries)).to_pylist()
        elif "text" in self.task.query:
            choices = np.diff(self.text_starts)[rows].astype(np.uint64)
            drawn = draws(self.keys[rows], self.recipe.seed, "text", epoch) % choices
            texts = self.texts.take(pa.array(self.text_starts[rows] + drawn.astype(np.int64))).to_pylist()
        nothing = np.empty(0, np.int64)
        # an image that asks alone is no wrong answer: only beside a text is it what is not wanted
        itself = "query" in self.recipe.negatives and len(self.task.query) == 2
        mined, mined_row = self._mined(rows[first], epoch) if "mined" in self.recipe.negatives else (nothing, nothing)
        own, own_row = (self.query[rows[first]], first) if itself else (nothing, nothing)
        return Shown(self.task, self.query[rows], texts, self.target[rows], (own, own_row), (mined, first[mined_row]), group, visit)

    def _mined(self, rows: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Up to ``mined_negatives`` of each of ``rows``, those of lowest hash in this epoch, row after row; and each one's row."""
        counts = np.diff(self.mined_starts)[rows]
        row = np.repeat(np.arange(len(rows)), counts)
        place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)  # 0, 1, ... within its row
        found = self.mined[np.repeat(self.mined_starts[rows], counts) + place]
        priority = draws(draws(self.keys[rows], self.recipe.seed, "mined", epoch)[row] + place.astype(np.uint64))
        order = np.lexsort((priority, row))  # rows stay in place, each sorted by priority
        first = place < self.recipe.mined_negatives
        return found[order][first], row[first]


@dataclass(frozen=True)
class Shown:
    """Queries of one task as a step sees them; numbers are those of pictures. ``own`` and ``mined``: explicit negatives, and the
    query that brings each. ``group`` and ``visit``: equal numbers for queries of one row, and for those that are shown together;
    None where each row is one query."""

    task: Task
    query: np.ndarray
    texts: list[str | None]
    target: np.ndarray
    own: tuple[np.ndarray, np.ndarray]
    mined: tuple[np.ndarray, np.ndarray]
    group: np.ndarray | None = None
    visit: np.ndarray | None = None


def joined(parts: list[Shown], captions: Captions | None) -> Batch:
    """One batch of ``parts``: the targets of all, then their query images as negatives, then what was mined."""
    starts = np.cumsum([0, *(len(part.query) for part in parts)])
    offered = [
        *((part.task, part.target) for part in parts),
        *((part.task, part.own[0]) for part in parts),
        *((part.task, part.mined[0]) for part in parts),
    ]
    rows = [getattr(part, kind)[1] + start for kind in ("own", "mined") for part, start in zip(parts, starts[:-1], strict=True)]
    queries = np.concatenate([_images(part.query, "image" in part.task.query) for part in parts])
    texts = [text for part in parts for text in part.texts]
    candidates = np.concatenate([_images(pictures, "image" in task.candidate) for task, pictures in offered])
    negative_rows = np.concatenate(rows)
    groups, visits = (_numbered([getattr(part, kind) for part in parts]) for kind in ("group", "visit"))
    if captions is None or all(part.task.name == COMPOSED for part in parts):
        return Batch(queries, texts, candidates, negative_rows=negative_rows, groups=groups, visits=visits)
    carried = [captions.take(p) if "text" in task.candidate else [None] * len(p) for task, p in offered]
    asking, answering = np.concatenate([part.query for part in parts]), np.concatenate([pictures for _, pictures in offered])
    return Batch(
        queries,
        texts,
        candidates,
        [text for part in carried for text in part] if any("text" in part.task.candidate for part in parts) else None,
        negative_rows,
        [part.task.name for part in parts for _ in part.query],
        np.stack([asking, captions.of[asking]], axis=1),
        np.stack([answering, captions.of[answering]], axis=1),
        groups,
        visits,
    )


def _first_of_each(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each distinct value is first, ascending, and for every value (n,) which of them is its own."""
    _, first, where = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[where]


def _numbered(parts: list[np.ndarray | None]) -> np.ndarray | None:
    """Numbers from 0 on that are equal for what is equal in one part."""
    found: list[np.ndarray] = []
    for part in parts:
        if part is None:
            return None
        found.append(_first_of_each(part)[1] + (found[-1].max() + 1 if found else 0))
    return np.concatenate(found)


def _images(pictures: np.ndarray, shown: bool) -> np.ndarray:
    return pictures if shown else np.full(len(pictures), NONE, np.int64)


def ragged(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Values of a list column, and where each row's begin (n + 1,) int64; a null row has none."""
    lists = column.cast(pa.large_list(pa.large_string())).combine_chunks()
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return pc.list_flatten(lists), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
