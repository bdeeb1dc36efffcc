"""Which rows of a lake a recipe trains on: its triplets, the rows of other tasks, those of some signals, or naive pairs made for
the comparison.

A recipe of fewer signals trains as if the others had not been there: on the pairs those signals found, with the hard
negatives they found. Who found a negative is not kept with the pair; it is looked up in ``neighbours``, which such a
recipe therefore depends on as well (:func:`also_reads`). Decisions, licences and signals are heeded for every task. Cost: one
pass over the neighbours of the recipe's signals, about 1 s for five million.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.curation.decisions import apply_decisions
from mmret.curation.licences import MAIN, licence_sets
from mmret.curation.opted_out import opted_out_today, without_opted_out
from mmret.lake import Lake
from mmret.retriever.train.neighbours import Neighbours
from mmret.retriever.train.task_rows import ragged
from mmret.schemas import SIGNALS, TASKS, TRIPLETS
from mmret.settings import EvaluateSettings, LicenceSettings, Recipe
from mmret.tasks import COMPOSED, TaskName

COLUMNS = ["pair_id", "query_id", "target_id", "texts", "hard_negatives", "signals", "split"]
"""Columns of TRIPLETS that training reads."""
TASK_COLUMNS = ["task_id", "task", "query_caption", "target_caption", "negative_captions"]
"""Columns of TASKS that training reads beside these."""
MIXTURE_COLUMNS = pa.schema([*(TRIPLETS.field(name) for name in COLUMNS), *(TASKS.field(name) for name in TASK_COLUMNS)])
"""What :func:`training_rows` returns for a recipe of other tasks than ``composed`` alone; ``task_id`` and captions are null in
rows of that task, whose ``pair_id`` tells them apart."""


def also_reads(recipe: Recipe, licences: LicenceSettings = LicenceSettings()) -> tuple[str, ...]:
    """Tables besides triplets and towers that decide what ``recipe`` trains on: ``images`` has the captions of naive pairs and the
    licences of hard negatives, ``neighbours`` says which signal found a negative and which rows a batch has together, ``tasks``
    has the rows of all but composed queries; filters learn from captions and vectors."""
    if recipe.pair_source == "naive":
        return ("images",)
    neighbours = ("neighbours",) if _of_some_signals(recipe) or recipe.batch_neighbours > 1 else ()
    tasks = () if set(recipe.tasks) == {COMPOSED} else ("tasks",)
    images = () if uses_all(recipe, licences) and not looks_at_lake(recipe) else ("images",)
    return (*neighbours, *tasks, *images, *(SIGNALS if looks_at_lake(recipe) else ()))


def looks_at_lake(recipe: Recipe) -> bool:
    """Whether filters of ``recipe`` learn from the lake's captions and vectors."""
    return any(name != "judge" for name in recipe.filters)


def training_rows(lake: Lake, recipe: Recipe, licences: LicenceSettings, evaluate: EvaluateSettings) -> pa.Table:
    """Columns :data:`COLUMNS` of the triplets that ``recipe`` may train on, held-out ones included, unsorted; of a mixture of tasks
    the rows of all of them, columns :data:`MIXTURE_COLUMNS`.

    ``licences`` part the triplets, and ``recipe.licence_set`` names the set that is returned; ``evaluate`` says which queries of
    naive pairs are held out. Pictures that have opted out since the state that ``lake`` is of are in no row. ``recipe.pairs`` is
    applied later, by :class:`mmret.retriever.train.data.TrainingSet`, but to naive pairs, which are drawn one by one. Raises
    UserError where the captions make fewer naive pairs than that.
    """
    if recipe.pair_source == "naive":
        return _naive_rows(lake, recipe, licences, evaluate)
    images = None if uses_all(recipe, licences) else lake.read("images", columns=["image_id", "licence"])
    retrieved = _retrieved(lake, recipe) if _of_some_signals(recipe) else None
    rows = []
    if COMPOSED in recipe.tasks:
        triplets = without_opted_out(allowed_rows(lake, recipe, licences, COLUMNS, images=images), lake)
        rows.append(triplets if retrieved is None else keep_negatives(triplets, retrieved))
    if set(recipe.tasks) == {COMPOSED}:
        return rows[0]
    rows.append(_made_rows(lake, recipe, licences, images, retrieved))
    return _as_mixture(rows)


def _made_rows(
    lake: Lake, recipe: Recipe, licences: LicenceSettings, images: pa.Table | None, retrieved: pa.Table | None
) -> pa.Table:
    """Rows of table ``tasks`` that decisions, licences and signals leave to ``recipe``, columns :data:`MIXTURE_COLUMNS`."""
    tasks = [name for name in recipe.tasks if name != COMPOSED]
    rows = allowed_task_rows(lake, recipe, licences, MIXTURE_COLUMNS.names, *tasks)
    if len(gone := opted_out_today(lake)):
        rows = rows.filter(pc.invert(pc.or_(*(pc.is_in(rows[side], value_set=gone) for side in ("query_id", "target_id")))))
        rows = _keep_named(rows, pc.invert(pc.is_in(_negatives(rows), value_set=gone)).to_numpy(zero_copy_only=False))
    if images is not None:
        sets = licence_sets(images, licences).sets
        allowed = pa.concat_tables([sets[name].select(["image_id"]) for name in {MAIN, recipe.licence_set} if name in sets])
        rows = _keep_named(rows, pc.is_in(_negatives(rows), allowed["image_id"]).to_numpy(zero_copy_only=False))
    if retrieved is not None:
        import polars as pl

        counts = pc.fill_null(pc.list_value_length(rows["hard_negatives"]), 0).combine_chunks()
        query = rows["query_id"].take(np.repeat(np.arange(rows.num_rows), counts))
        found = pl.DataFrame({"query_id": query.to_pylist(), "target_id": _negatives(rows).to_pylist()}).with_row_index("row")
        kept = np.zeros(len(found), dtype=bool)
        kept[found.join(pl.from_arrow(retrieved), on=["query_id", "target_id"], how="semi")["row"].to_numpy()] = True
        rows = _keep_named(rows, kept)
    return rows


def allowed_task_rows(lake: Lake, recipe: Recipe, licences: LicenceSettings, columns: list[str], *tasks: TaskName) -> pa.Table:
    """``columns`` of the rows of ``tasks`` that decisions and licences leave to ``recipe``, with all their hard negatives.

    People decide on pairs: rows that come from none of them stay, whatever was decided.
    """
    everything = uses_all(recipe, licences)
    read = list(dict.fromkeys([*columns, "pair_id", *([] if everything else ["licence"])]))
    rows = lake.read("tasks", columns=read, filters=pc.field("task").isin(tasks))
    if recipe.decisions != "ignore":
        decided = apply_decisions(lake, rows.filter(pc.is_valid(rows["pair_id"])), recipe.decisions)
        rows = pa.concat_tables([rows.filter(pc.is_null(rows["pair_id"])), decided])
    return (rows if everything else _licence_set(rows, recipe, licences)).select(columns)


def _negatives(rows: pa.Table) -> pa.Array:
    return ragged(rows["hard_negatives"])[0]


def _keep_named(rows: pa.Table, kept: np.ndarray) -> pa.Table:
    """``rows`` with only those hard negatives, and their captions, that ``kept`` (all of them in one row) says."""
    for name in ("hard_negatives", "negative_captions"):
        values, starts = ragged(rows[name])
        offsets = np.concatenate([[0], np.cumsum(kept)])[starts]
        column = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values.filter(pa.array(kept)))
        rows = rows.set_column(rows.column_names.index(name), name, column.cast(MIXTURE_COLUMNS.field(name).type))
    return rows


def _as_mixture(parts: list[pa.Table]) -> pa.Table:
    def complete(part: pa.Table) -> pa.Table:
        named = part if "task" in part.column_names else part.append_column("task", pa.array([COMPOSED] * len(part), pa.string()))
        missing = {f: pa.nulls(len(part), f.type) for f in MIXTURE_COLUMNS if f.name not in named.column_names}
        for field, column in missing.items():
            named = named.append_column(field, column)
        return named.select(MIXTURE_COLUMNS.names).cast(MIXTURE_COLUMNS)

    return pa.concat_tables([complete(part) for part in parts])


def allowed_rows(
    lake: Lake,
    recipe: Recipe,
    licences: LicenceSettings,
    columns: list[str],
    partitions: str | None = None,
    images: pa.Table | None = None,
) -> pa.Table:
    """``columns`` of the triplets of ``partitions`` (None: all) that decisions and licences leave to ``recipe``.

    With ``images`` (``image_id, licence``) hard negatives of other licence sets are left out too.
    """
    everything = uses_all(recipe, licences)
    read = columns if everything else [*columns, "licence"]
    rows = apply_decisions(lake, lake.read("triplets", partitions, read), recipe.decisions)
    return (rows if everything else _licence_set(rows, recipe, licences, images)).select(columns)


def _naive_rows(lake: Lake, recipe: Recipe, licences: LicenceSettings, evaluate: EvaluateSettings) -> pa.Table:
    from mmret.retriever.train.naive_pairs import naive_triplets  # with the annotator, which other recipes do without

    images = lake.read("images", columns=["image_id", "caption", "path", "licence"])
    images = images.filter(pc.invert(pc.is_in(images["image_id"], value_set=opted_out_today(lake))))
    if uses_all(recipe, licences):
        return naive_triplets(images, recipe.pairs or 0, recipe.seed, evaluate).select(COLUMNS)
    # a picture that is excluded, or kept apart from set main, makes no pair: drawing it would be in vain
    sets = licence_sets(images, licences).sets
    images = sets[MAIN] if recipe.licence_set == MAIN else pa.concat_tables(sets.values())
    accept = partial(_licence_set, recipe=recipe, licences=licences)
    return naive_triplets(images, recipe.pairs or 0, recipe.seed, evaluate, accept).select(COLUMNS)


def uses_all(recipe: Recipe, licences: LicenceSettings) -> bool:
    """Whether no licence keeps a row from ``recipe``."""
    return licences.keeps_all() and recipe.licence_set == MAIN


def _licence_set(rows: pa.Table, recipe: Recipe, licences: LicenceSettings, images: pa.Table | None = None) -> pa.Table:
    """Those of ``rows`` that are in the recipe's licence set; with ``images`` hard negatives of other sets are left out too."""
    return licence_sets(rows, licences, images).sets.get(recipe.licence_set, rows.slice(0, 0))


def keep_negatives(triplets: pa.Table, retrieved: pa.Table) -> pa.Table:
    """``triplets`` with only those mined hard negatives that are a target of their query in ``retrieved`` (query_id, target_id).

    The query image, first among a row's negatives, stays; which rows are trained on is decided by their ``signals``.
    """
    import polars as pl

    rows = pl.from_arrow(triplets).with_row_index("row")
    negatives = rows.select("row", "query_id", target_id="hard_negatives").explode("target_id").with_row_index("place")
    own = pl.col("query_id") == pl.col("target_id")
    theirs = negatives.filter(~own).join(pl.from_arrow(retrieved), on=["query_id", "target_id"], how="semi")
    kept = (
        pl.concat([negatives.filter(own), theirs])
        .sort("place")
        .group_by("row", maintain_order=True)
        .agg(hard_negatives="target_id")
    )
    joined = (
        rows.drop("hard_negatives")
        .join(kept, on="row", how="left", maintain_order="left")
        .with_columns(pl.col("hard_negatives").fill_null([]))
    )
    return joined.select(triplets.column_names).to_arrow().cast(pa.schema([TRIPLETS.field(c) for c in triplets.column_names]))


def _of_some_signals(recipe: Recipe) -> bool:
    return set(recipe.signals) != set(SIGNALS)


def neighbours_of(lake: Lake, recipe: Recipe, rows: pa.Table) -> Neighbours | None:
    """Which query pictures of ``rows`` some signal of ``recipe`` found to be neighbours, inside its band; None where its batches
    ask for none. Near-duplicates, above the band of any signal, are none: one's target would often answer the other's query.

    Cost: a pass over ``neighbours``, a partition in memory at a time; then 8 bytes a pair."""

    def found() -> Iterator[tuple[pa.Table, pa.Table]]:
        for partition in lake.partitions("neighbours"):
            table = lake.read("neighbours", partition, ["query_id", "target_id", "signal", "above_band"])
            signals = pc.is_in(table["signal"], pa.array(recipe.signals, table["signal"].type))
            yield table.filter(pc.and_(signals, pc.invert(table["above_band"]))), table.filter(table["above_band"])

    return Neighbours.of(rows["query_id"].combine_chunks(), found()) if recipe.batch_neighbours > 1 else None


def _retrieved(lake: Lake, recipe: Recipe) -> pa.Table:
    """(query_id, target_id) that some signal of ``recipe`` retrieved inside its band."""
    inside = pc.field("signal").isin(list(recipe.signals)) & ~pc.field("above_band")
    return lake.read("neighbours", columns=["query_id", "target_id"], filters=inside)
