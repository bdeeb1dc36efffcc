"""Which rows of a lake a recipe trains on: its triplets, those of some signals, or naive pairs made for the comparison.

A recipe of fewer signals trains as if the others had not been there: on the pairs those signals found, with the hard
negatives they found. Who found a negative is not kept with the pair; it is looked up in ``neighbours``, which such a
recipe therefore depends on as well (:func:`also_reads`). Cost: one pass over the neighbours of the recipe's signals,
about 1 s for five million.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mmret.curation.decisions import apply_decisions
from mmret.curation.licences import MAIN, licence_sets
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.schemas import SIGNALS, TRIPLETS
from mmret.settings import LicenceSettings, Recipe

COLUMNS = ["pair_id", "query_id", "target_id", "texts", "hard_negatives", "signals", "split"]
"""Of TRIPLETS, what training reads."""


def also_reads(recipe: Recipe) -> tuple[str, ...]:
    """Tables besides triplets and towers that decide what ``recipe`` trains on."""
    if recipe.pair_source == "naive":
        return ("images",)
    return () if set(recipe.signals) == set(SIGNALS) else ("neighbours",)


def training_rows(lake: Lake, recipe: Recipe, licences: LicenceSettings | None = None) -> pa.Table:
    """Columns :data:`COLUMNS` of the triplets of ``recipe``, held-out ones included; how many it takes is its own affair.

    ``licences`` part them (None: the lake's own settings), and ``recipe.licence_set`` names the set that is returned.
    """
    if recipe.pair_source == "naive":
        from mmret.studies.naive import naive_triplets

        images = lake.read("images", columns=["image_id", "caption", "path", "licence"])
        rows = naive_triplets(images, recipe.pairs or 0, recipe.seed, resolve(lake)[0].evaluate)
        return rows.select(COLUMNS)
    rows = apply_decisions(lake, lake.read("triplets", columns=[*COLUMNS, "licence"]), recipe.decisions)
    rows = _of_licences(lake, rows, recipe, licences or resolve(lake)[0].licences).select(COLUMNS)
    return rows if "neighbours" not in also_reads(recipe) else of_signals(rows, _found(lake, recipe))


def _of_licences(lake: Lake, rows: pa.Table, recipe: Recipe, licences: LicenceSettings) -> pa.Table:
    """The set of ``rows`` that ``licences`` let ``recipe`` train on."""
    if licences.keeps_all() and recipe.licence_set == MAIN:
        return rows
    images = lake.read("images", columns=["image_id", "licence"])
    return licence_sets(rows, licences, images).sets.get(recipe.licence_set, rows.slice(0, 0))


def of_signals(triplets: pa.Table, found: pa.Table) -> pa.Table:
    """``triplets`` with only those mined hard negatives that are a target of their query in ``found`` (query_id, target_id).

    The query image, first among a row's negatives, stays; which rows are trained on is decided by their ``signals``.
    """
    rows = pl.from_arrow(triplets).with_row_index("row")
    negatives = rows.select("row", "query_id", target_id="hard_negatives").explode("target_id").with_row_index("place")
    own = pl.col("query_id") == pl.col("target_id")
    theirs = negatives.filter(~own).join(pl.from_arrow(found), on=["query_id", "target_id"], how="semi")
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


def _found(lake: Lake, recipe: Recipe) -> pa.Table:
    """(query_id, target_id) that some signal of ``recipe`` retrieved inside its band."""
    inside = pc.field("signal").isin(list(recipe.signals)) & ~pc.field("above_band")
    return lake.read("neighbours", columns=["query_id", "target_id"], filters=inside)
