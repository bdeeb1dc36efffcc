"""The triplets a recipe trains on, as a table with random access by step.

What a step sees is a function of (recipe, step) and of the rows alone: no iterator, no RNG state. So a run resumes at
any step, and a triplet's text and negatives in an epoch do not depend on the other rows. Draws are 64-bit hashes
(splitmix64) of (seed, epoch, pair). Cost: a permutation of the table per epoch, some 0.1 s for a million rows; a
batch of 256 about 1 ms.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.errors import UserError
from mmret.hashing import draws
from mmret.settings import Recipe


@dataclass(frozen=True)
class Batch:
    """One step's rows. Numbers are positions in ``TrainingSet.images``, the distinct image ids.

    ``queries`` (b,) int64; ``texts`` b strings; ``candidates`` (m,) int64: the b targets in the order of the queries,
    then every explicit hard negative (b of them where each query brings one, fewer or more where they are ragged);
    ``negative_rows`` (m - b,) int64: the row that each of those belongs to.
    """

    queries: np.ndarray
    texts: list[str]
    candidates: np.ndarray
    negative_rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def targets(self) -> np.ndarray:
        return self.candidates[: len(self.queries)]

    def images(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The distinct images of the batch, and where in them the queries and the candidates are: each is embedded
        once."""
        distinct, where = np.unique(np.concatenate([self.queries, self.candidates]), return_inverse=True)
        return distinct, where[: len(self.queries)], where[len(self.queries) :]

    def distinct_texts(self) -> tuple[list[str], np.ndarray]:
        """The distinct texts, and for every query which of them is its own."""
        distinct, where = np.unique(np.array(self.texts, dtype=object), return_inverse=True)
        return list(distinct), where

    def distinct_queries(self) -> tuple[list[tuple[int, str]], np.ndarray]:
        """The distinct (image number, text) pairs, and for every row which of them is its own."""
        place: dict[tuple[int, str], int] = {}
        where = [place.setdefault(query, len(place)) for query in zip(self.queries.tolist(), self.texts, strict=True)]
        return list(place), np.array(where, np.int64)


def chosen_rows(triplets: pa.Table, recipe: Recipe) -> tuple[pa.Table, np.ndarray]:
    """Rows of split ``train`` that fit the recipe's signals, at most ``recipe.pairs`` of them, in the order of
    ``pair_id``; and their keys (n,) uint64, the first 64 bits of each ``pair_id``.

    A subset takes the pairs of lowest hash, so that a larger one of the same seed contains the smaller.
    Raises UserError where nothing is left to train on.
    """
    rows = fitting_rows(triplets, recipe)
    if not rows.num_rows:
        raise UserError(_nothing_left(triplets, recipe))
    rows = rows.sort_by("pair_id").combine_chunks()
    keys = pair_keys(rows)
    if recipe.pairs is not None and recipe.pairs < rows.num_rows:
        subset = lowest(keys, recipe)
        rows, keys = rows.take(pa.array(subset)), keys[subset]
    return rows, keys


def lowest(keys: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Positions, ascending, of the ``recipe.pairs`` of ``keys`` (n,) uint64 that its seed draws."""
    return np.sort(np.argsort(draws(keys, recipe.seed, "pairs"), kind="stable")[: recipe.pairs])


def pair_keys(rows: pa.Table) -> np.ndarray:
    """The first 64 bits of each ``pair_id`` of ``rows``: (n,) uint64."""
    return np.array([int(i[:16], 16) for i in rows["pair_id"].to_pylist()], dtype=np.uint64)


class TrainingSet:
    """The rows of :func:`chosen_rows`. Raises UserError where nothing is left to train on."""

    def __init__(self, triplets: pa.Table, recipe: Recipe):
        self.recipe = recipe
        rows, keys = chosen_rows(triplets, recipe)
        self.keys = keys
        self.texts, self.text_starts = _ragged(rows["texts"])
        negatives, starts = _ragged(rows["hard_negatives"])
        columns = [*(rows[c].cast(pa.large_string()).combine_chunks() for c in ("query_id", "target_id")), negatives]
        if recipe.negatives != "query+mined":
            columns[2], starts = negatives.slice(0, 0), np.zeros_like(starts)
        self.images = pc.unique(pa.chunked_array(columns)).sort()
        self.query, self.target, negative = (pc.index_in(c, self.images).to_numpy().astype(np.int64) for c in columns)
        # hns[0] is the query image, which `negatives` decides on; a target among them would contradict its pair
        row = np.repeat(np.arange(len(keys)), np.diff(starts))
        mined = (negative != self.query[row]) & (negative != self.target[row])
        self.mined = negative[mined]
        self.mined_starts = np.concatenate([[0], np.cumsum(np.bincount(row[mined], minlength=len(keys)))])
        self.batch_size = min(recipe.batch_size, len(self))
        self._permutation: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.keys)

    def order(self, epoch: int) -> np.ndarray:
        """Row numbers in the order of ``epoch``."""
        if self._permutation[0] != epoch:
            self._permutation = (epoch, np.argsort(draws(self.keys, self.recipe.seed, "order", epoch), kind="stable"))
        return self._permutation[1]

    def batch(self, step: int) -> Batch:
        """Rows of ``step``. An epoch is as many whole batches as there are; its remainder is another one each epoch."""
        epoch, number = divmod(step, len(self) // self.batch_size)
        rows = self.order(epoch)[number * self.batch_size : (number + 1) * self.batch_size]
        choices = np.diff(self.text_starts)[rows].astype(np.uint64)
        drawn = draws(self.keys[rows], self.recipe.seed, "text", epoch) % choices
        texts = self.text_starts[rows] + drawn.astype(np.int64)
        parts, of = [self.target[rows]], [np.empty(0, np.int64)]
        if self.recipe.negatives != "none":
            parts.append(self.query[rows])
            of.append(np.arange(len(rows)))
        if self.recipe.negatives == "query+mined":
            parts.append(self._mined(rows, epoch))
            counts = np.minimum(np.diff(self.mined_starts)[rows], self.recipe.mined_negatives)
            of.append(np.repeat(np.arange(len(rows)), counts))
        return Batch(self.query[rows], self.texts.take(pa.array(texts)).to_pylist(), np.concatenate(parts), np.concatenate(of))

    def _mined(self, rows: np.ndarray, epoch: int) -> np.ndarray:
        """Up to ``mined_negatives`` of each of ``rows``, those of lowest hash in this epoch, row after row."""
        counts = np.diff(self.mined_starts)[rows]
        row = np.repeat(np.arange(len(rows)), counts)
        place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)  # 0, 1, ... within its row
        found = self.mined[np.repeat(self.mined_starts[rows], counts) + place]
        priority = draws(draws(self.keys[rows], self.recipe.seed, "mined", epoch)[row] + place.astype(np.uint64))
        order = np.lexsort((priority, row))  # rows stay in place, each sorted by priority
        return found[order][place < self.recipe.mined_negatives]


def fitting_rows(triplets: pa.Table, recipe: Recipe) -> pa.Table:
    """Rows of split ``train`` with a text, found by one of the recipe's signals: by columns ``split, texts, signals``."""
    texted = _texted(triplets.filter(pc.equal(triplets["split"], "train")))
    if recipe.pair_source == "naive":  # no signal found them
        return texted
    signals, starts = _ragged(texted["signals"])
    hits = pc.is_in(signals, pa.array(recipe.signals, pa.large_string())).to_numpy(zero_copy_only=False)
    return texted.filter(pa.array(np.diff(np.concatenate([[0], np.cumsum(hits)])[starts]) > 0))


def _texted(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.greater(pc.list_value_length(rows["texts"]), 0))


def _nothing_left(triplets: pa.Table, recipe: Recipe) -> str:
    train = triplets.filter(pc.equal(triplets["split"], "train"))
    return (
        f"no triplets to train on: {triplets.num_rows} in all, {train.num_rows} of split 'train', "
        f"{_texted(train).num_rows} with texts, 0 found by the recipe's signals ({', '.join(recipe.signals)}). Widen "
        "mine.bands, raise mine.k or add images that have near neighbours; `mmret sql` on neighbours, pairs and "
        "instructions shows where they were lost"
    )


def _ragged(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Values of a list column, and where each row's begin (n + 1,) int64; a null row has none."""
    lists = column.cast(pa.large_list(pa.large_string())).combine_chunks()
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return pc.list_flatten(lists), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
