"""The rows a recipe trains on, of one task or of a mixture, as tables with random access by step.

What a step sees is a function of (recipe, step) and of the rows alone: no iterator, no RNG state. So a run resumes at
any step, and a row's text and negatives in an epoch do not depend on the other rows (:mod:`.task_rows`). Which tasks a
step has follows from the mixture's shares (:mod:`.mixture`). Cost: a permutation of a task's rows per epoch, some 0.1 s
for a million; a batch of 256 about 1 ms.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.errors import UserError
from mmret.hashing import draws
from mmret.retriever.train.batch import Batch
from mmret.retriever.train.mixture import Deal
from mmret.retriever.train.neighbours import Neighbours
from mmret.retriever.train.task_rows import Captions, Columns, Shown, TaskRows, joined, ragged
from mmret.settings import Recipe
from mmret.tasks import COMPOSED, TASKS, Task, TaskName

__all__ = ["Batch", "TrainingSet", "chosen_rows", "fitting_rows", "lowest", "pair_keys"]


def chosen_rows(table: pa.Table, recipe: Recipe, task: TaskName = COMPOSED) -> tuple[pa.Table, np.ndarray]:
    """Rows of ``task`` and of split ``train`` that fit the recipe's signals, at most ``recipe.pairs`` of them, in the order of
    ``pair_id`` (``task_id`` for tasks other than ``composed``); and their keys (n,) uint64, the first 64 bits of that id.

    A subset takes the pairs of lowest hash, so that a larger one of the same seed contains the smaller.
    Raises UserError where nothing is left to train on.
    """
    own = table if task == COMPOSED and "task" not in table.column_names else table.filter(pc.equal(table["task"], task))
    rows = fitting_rows(own, recipe, TASKS[task])
    if not rows.num_rows:
        raise UserError(_nothing_left(own, recipe, TASKS[task]))
    column = "pair_id" if task == COMPOSED else "task_id"
    rows = rows.sort_by(column).combine_chunks()
    keys = pair_keys(rows, column)
    if recipe.pairs is not None and recipe.pairs < rows.num_rows:
        pairs = keys if task == COMPOSED else pair_keys(rows, "pair_id", keys)
        subset = lowest(pairs, recipe)
        rows, keys = rows.take(pa.array(subset)), keys[subset]
    return rows, keys


def lowest(keys: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Positions, ascending, of the ``recipe.pairs`` of ``keys`` (n,) uint64 that its seed draws."""
    return np.sort(np.argsort(draws(keys, recipe.seed, "pairs"), kind="stable")[: recipe.pairs])


def pair_keys(rows: pa.Table, column: str = "pair_id", otherwise: np.ndarray | None = None) -> np.ndarray:
    """The first 64 bits of each ``pair_id`` of ``rows``, or of each id of another ``column``: (n,) uint64. ``otherwise``: what
    stands for a null."""
    if otherwise is None:
        return np.array([int(i[:16], 16) for i in rows[column].to_pylist()], dtype=np.uint64)
    pairs = zip(rows[column].to_pylist(), otherwise.tolist(), strict=True)
    return np.array([int(i[:16], 16) if i else key for i, key in pairs], dtype=np.uint64)


class TrainingSet:
    """The rows of :func:`chosen_rows`, for each task of the recipe: ``of`` by name. Raises UserError where nothing is left to train
    on.

    ``table``: columns of TRIPLETS; for a mixture those of :func:`mmret.retriever.train.rows.training_rows`. ``images``: the ids of
    what is embedded as an image, ascending. ``left_out``: tasks of which there is no row, and why; the others share their steps.
    ``neighbours``: of the query pictures, which a recipe of ``batch_neighbours`` needs.
    """

    def __init__(self, table: pa.Table, recipe: Recipe, neighbours: Neighbours | None = None):
        self.recipe = recipe
        if recipe.batch_neighbours > 1 and neighbours is None:
            raise UserError("batch_neighbours needs to know which pictures are neighbours: train on a lake, or leave it out")
        chosen, self.left_out = {}, {}
        for name in recipe.shares():
            try:
                chosen[name] = chosen_rows(table, recipe, name)
            except UserError as nothing:
                self.left_out[name] = str(nothing)
        if not chosen:
            raise UserError("; ".join(self.left_out.values()))
        columns = {name: Columns.of(TASKS[name], rows, keys, "mined" in recipe.negatives) for name, (rows, keys) in chosen.items()}
        self.images = _sorted(part for c in columns.values() for part in c.used_as_images())
        pictures, self.captions = self.images, None
        if set(columns) != {COMPOSED}:
            every = _sorted(part for c in columns.values() for part in c.all_ids())
            only_texts = every.filter(pc.invert(pc.is_in(every, self.images)))
            pictures = pa.concat_arrays([self.images, only_texts])
            self.captions = Captions(pictures, *_captions(table))
        near = neighbours if recipe.batch_neighbours > 1 else None
        self.of = {name: TaskRows(c, pictures, recipe, self.captions, near) for name, c in columns.items()}
        if near is not None and all(rows.alone == len(rows) for rows in self.of.values()):
            raise UserError(
                "batch_neighbours finds no two query pictures that are neighbours: widen mine.bands, raise mine.k, or leave "
                "batch_neighbours out of the recipe"
            )
        self.tasks = list(self.of)
        at_once = recipe.task_batches == "mixed" and len(self.of) > 1
        queries = [rows.queries for rows in self.of.values()]
        self.sizes = [sum(queries)] * len(queries) if at_once else queries
        self.sizes = [min(recipe.batch_size, size) for size in self.sizes]
        self.batch_size = max(self.sizes)
        shares = np.array([recipe.shares()[name] for name in self.tasks])
        self._deal = Deal(shares / shares.sum(), self.batch_size if at_once else 1, recipe.seed)
        self._at_once = at_once

    def __len__(self) -> int:
        return sum(map(len, self.of.values()))

    @property
    def keys(self) -> np.ndarray:
        """Those of all rows, task by task: (n,) uint64."""
        return np.concatenate([rows.keys for rows in self.of.values()])

    def batch(self, step: int) -> Batch:
        """Queries of ``step``: of one task, or of all of them in proportion where the recipe's ``task_batches`` is ``mixed``."""
        before, here = self._deal.before(step), self._deal.at(step)
        parts: list[Shown] = []
        for rows, size, done, count in zip(self.of.values(), self.sizes, before.tolist(), here.tolist(), strict=True):
            if self._at_once:
                parts += rows.next_rows(done, count)
            elif count:
                parts.append(rows.batch_rows(done, size))
        return joined(parts, self.captions)

    def seen(self, step: int) -> dict[TaskName, int]:
        """How many queries of each task all steps before ``step`` have shown: rows, or texts of rows where each is a query."""
        before = self._deal.before(step).tolist()
        return {t: n if self._at_once else n * size for t, n, size in zip(self.tasks, before, self.sizes, strict=True)}

    def task_of(self, step: int) -> TaskName | None:
        """The task of all rows of ``step``; None where batches are of several."""
        return None if self._at_once else self.tasks[int(np.argmax(self._deal.at(step)))]


def fitting_rows(table: pa.Table, recipe: Recipe, task: Task = TASKS[COMPOSED]) -> pa.Table:
    """Rows of split ``train`` that have the texts of ``task``, found by one of the recipe's signals: by columns ``split, texts,
    signals``, and ``query_id, target_id, target_caption`` for tasks other than ``composed``. A picture and its own caption were
    found by no signal, and need none."""
    texted = _texted(table.filter(pc.equal(table["split"], "train")), task)
    if recipe.pair_source == "naive":  # no signal found them
        return texted
    signals, starts = ragged(texted["signals"])
    hits = pc.is_in(signals, pa.array(recipe.signals, pa.large_string())).to_numpy(zero_copy_only=False)
    found = np.diff(np.concatenate([[0], np.cumsum(hits)])[starts]) > 0
    if task.name != COMPOSED:
        found |= pc.equal(texted["query_id"], texted["target_id"]).to_numpy()
    return texted.filter(pa.array(found))


def _texted(rows: pa.Table, task: Task) -> pa.Table:
    if "text" in task.query:
        rows = rows.filter(pc.greater(pc.list_value_length(rows["texts"]), 0))
    if "text" in task.candidate:
        rows = rows.filter(pc.not_equal(pc.fill_null(rows["target_caption"], ""), ""))
    return rows


def _nothing_left(rows: pa.Table, recipe: Recipe, task: Task) -> str:
    train = rows.filter(pc.equal(rows["split"], "train"))
    what = "triplets" if task.name == COMPOSED else f"rows of task {task.name}"
    lost = (
        "Widen mine.bands, raise mine.k or add images that have near neighbours; `mmret sql` on neighbours, pairs and "
        "instructions shows where they were lost"
        if task.name == COMPOSED
        else "`mmret sql` on tasks shows which there are; or leave the task out of the recipe's tasks"
    )
    return (
        f"no {what} to train on: {rows.num_rows} in all, {train.num_rows} of split 'train', "
        f"{_texted(train, task).num_rows} with texts, 0 found by the recipe's signals ({', '.join(recipe.signals)}). {lost}"
    )


def _sorted(columns: Iterable[pa.Array]) -> pa.Array:
    return pc.unique(pa.chunked_array(list(columns), pa.large_string())).sort()


def _captions(table: pa.Table) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Ids of pictures and their captions, as far as the rows of ``table`` say them, those of split ``test`` too."""
    ids = [table["query_id"], table["target_id"]]
    captions = [table["query_caption"], table["target_caption"]]
    told = table.filter(pc.is_valid(table["negative_captions"]))
    ids.append(pa.chunked_array([ragged(told["hard_negatives"])[0]]))
    captions.append(pa.chunked_array([ragged(told["negative_captions"])[0]]))
    return tuple(
        pa.chunked_array([chunk for column in columns for chunk in column.cast(pa.large_string()).chunks], pa.large_string())
        for columns in (ids, captions)
    )
