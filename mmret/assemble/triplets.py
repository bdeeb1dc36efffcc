"""Assemble triplets: pairs with accepted instructions become training rows that carry their own lineage.

The query image itself is put first among the hard negatives, which MegaPairs makes mandatory (paper, section 3.2 and table 5).
A hash of the query image decides the split (:mod:`mmret.curation.split`).
Linear in the pairs of a shard; a shard of 100,000 images takes a few seconds.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from mmret.curation.split import split_of
from mmret.schemas import TRIPLETS
from mmret.settings import EvaluateSettings


def assemble(
    pairs: pa.Table, descriptions: pa.Table, instructions: pa.Table, images: pa.Table, settings: EvaluateSettings
) -> tuple[pa.Table, dict[str, int]]:
    """Join one shard's tables into TRIPLETS, sorted by (query_id, pair_id).

    ``images`` must hold ``image_id, path, licence`` of every query and target. Returns the triplets and, for the pairs that
    did not become one, counts by reason: ``no_description`` (failed or rejected), ``no_instructions``, ``unknown_image``.

    >>> triplets, left_out = assemble(pairs, descriptions, instructions, images, profile.evaluate)
    """
    described = pl.from_arrow(descriptions).select("pair_id", description_model="model", described=pl.col("status") == "ok")
    instructed = pl.from_arrow(instructions).select(
        "pair_id", "texts", instruction_model="model", instructed=pl.col("status") == "ok"
    )
    image = pl.from_arrow(images).select("image_id", "path", "licence")
    rows = (
        pl.from_arrow(pairs)
        .join(described, on="pair_id", how="left")
        .join(instructed, on="pair_id", how="left")
        .join(_image_columns("query", image), on="query_id", how="left")
        .join(_image_columns("target", image), on="target_id", how="left")
        .with_columns(
            pl.when(~pl.col("described").fill_null(False))
            .then(pl.lit("no_description"))
            .when(~pl.col("instructed").fill_null(False))
            .then(pl.lit("no_instructions"))
            .when(pl.col("query_path").is_null() | pl.col("target_path").is_null())
            .then(pl.lit("unknown_image"))
            .alias("left_out")
        )
    )
    left_out = dict(rows.drop_nulls("left_out").group_by("left_out").len().sort("left_out").iter_rows())
    triplets = (
        rows.filter(pl.col("left_out").is_null())
        .sort("query_id", "pair_id")
        .with_columns(
            hard_negatives=pl.concat_list("query_id", "hard_negatives"),
            split=pl.col("query_id").map_elements(lambda i: split_of(i, settings), return_dtype=pl.String),
            licence=licence_of_both(),
        )
    )
    return triplets.select(TRIPLETS.names).to_arrow().cast(TRIPLETS), left_out


def licence_of_both() -> pl.Expr:
    """The licence of rows with ``query_licence`` and ``target_licence``: both, joined with " | " where they differ."""
    query, target = pl.col("query_licence"), pl.col("target_licence")
    both = pl.concat_str(query.fill_null("unknown"), target.fill_null("unknown"), separator=" | ")
    return pl.when(query.eq_missing(target)).then(query).otherwise(both)


def _image_columns(role: str, image: pl.DataFrame) -> pl.DataFrame:
    return image.rename({"image_id": f"{role}_id", "path": f"{role}_path", "licence": f"{role}_licence"})
