"""Which rows of a lake a recipe trains on: its triplets, those of some signals, or naive pairs made for the comparison.

A recipe of fewer signals trains as if the others had not been there: on the pairs those signals found, with the hard
negatives they found. Who found a negative is not kept with the pair; it is looked up in ``neighbours``, which such a
recipe therefore depends on as well (:func:`also_reads`). Cost: one pass over the neighbours of the recipe's signals,
about 1 s for five million.
"""

from __future__ import annotations

from functools import partial

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mmret.curation.decisions import apply_decisions
from mmret.curation.licences import MAIN, licence_sets
from mmret.curation.opted_out import without_opted_out
from mmret.lake import Lake
from mmret.schemas import SIGNALS, TRIPLETS
from mmret.settings import EvaluateSettings, LicenceSettings, Recipe

COLUMNS = ["pair_id", "query_id", "target_id", "texts", "hard_negatives", "signals", "split"]
"""Columns of TRIPLETS that training reads."""


def also_reads(recipe: Recipe, licences: LicenceSettings = LicenceSettings()) -> tuple[str, ...]:
    """Tables besides triplets and towers that decide what ``recipe`` trains on: ``images`` has the captions of naive pairs and the
    licences of hard negatives, ``neighbours`` says which signal found a negative."""
    if recipe.pair_source == "naive":
        return ("images",)
    neighbours = () if set(recipe.signals) == set(SIGNALS) else ("neighbours",)
    return neighbours if uses_all(recipe, licences) else (*neighbours, "images")


def training_rows(lake: Lake, recipe: Recipe, licences: LicenceSettings, evaluate: EvaluateSettings) -> pa.Table:
    """Columns :data:`COLUMNS` of the triplets that ``recipe`` may train on, held-out ones included, unsorted.

    ``licences`` part the triplets, and ``recipe.licence_set`` names the set that is returned; ``evaluate`` says which queries of
    naive pairs are held out. Pictures that have opted out since the state that ``lake`` is of are in no row. ``recipe.pairs`` is
    applied later, by :class:`mmret.retriever.train.data.TrainingSet`, but to naive pairs, which are drawn one by one. Raises
    UserError where the captions make fewer naive pairs than that.
    """
    if recipe.pair_source == "naive":
        return _naive_rows(lake, recipe, licences, evaluate)
    images = None if uses_all(recipe, licences) else lake.read("images", columns=["image_id", "licence"])
    rows = without_opted_out(allowed_rows(lake, recipe, licences, COLUMNS, images=images), lake)
    return rows if "neighbours" not in also_reads(recipe) else keep_negatives(rows, _retrieved(lake, recipe))


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


def _retrieved(lake: Lake, recipe: Recipe) -> pa.Table:
    """(query_id, target_id) that some signal of ``recipe`` retrieved inside its band."""
    inside = pc.field("signal").isin(list(recipe.signals)) & ~pc.field("above_band")
    return lake.read("neighbours", columns=["query_id", "target_id"], filters=inside)
