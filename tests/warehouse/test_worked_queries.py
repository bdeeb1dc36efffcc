"""The rows of each worked query of docs/sql.md are those of plain Polars over the lake's own tables."""

import math

import polars as pl
import pytest

from mmret.lake import Lake
from mmret.schemas import TABLES
from mmret.warehouse import connect
from tests.warehouse.test_docs import QUERIES

SIDES = ("caption", "licence", "source", "width", "height", "extra")
SCORES = ("clip_image_score", "dino_image_score", "caption_score")


@pytest.fixture(scope="module")
def lake(small_lake) -> Lake:
    return Lake(small_lake[0])


@pytest.fixture(scope="module")
def of(lake):
    """A table of the lake as a frame."""
    return lambda table: pl.from_arrow(lake.read(table))


def asked(lake: Lake, number: int) -> pl.DataFrame:
    with connect(lake) as connection:
        return pl.from_arrow(connection.sql(QUERIES[number - 1]).to_arrow_table())


def rows(frame: pl.DataFrame, *columns: str) -> list[tuple]:
    """The rows of ``columns`` in an order of their own, figures to nine digits, which is less than sums of any order share."""
    return sorted((tuple(map(plain, row)) for row in frame.select(columns or frame.columns).rows()), key=repr)


def plain(value):
    return float(f"{value:.9g}") if isinstance(value, float) and not math.isnan(value) else value


def sides(frame: pl.DataFrame, of, *columns: str) -> pl.DataFrame:
    """``frame`` with ``columns`` of its query and target pictures."""
    for side in ("query", "target"):
        named = {"image_id": f"{side}_id"} | {c: f"{side}_{c}" for c in columns}
        frame = frame.join(of("images").select(named.keys()).rename(named), on=f"{side}_id", how="left")
    return frame


def test_1_counts_the_rows_of_every_table(lake):
    facts = {t: [lake.facts(t, p) for p in lake.partitions(t)] for t in TABLES}
    expected = [(t, len(each), sum(f.rows for f in each)) for t, each in facts.items() if each]
    assert rows(asked(lake, 1), "table_name", "files", "rows") == sorted(expected, key=repr)


def test_2_says_what_became_of_the_rows_of_each_source(lake, of):
    taken = of("images").group_by("source").len("pictures").select(pl.lit("taken").alias("outcome"), "source", "pictures")
    refused = of("rejects").group_by("reason", "source").len("pictures")
    expected = pl.concat([taken, refused.select(pl.col("reason").alias("outcome"), "source", "pictures")])
    found = asked(lake, 2)
    assert rows(found) == rows(expected) and found["pictures"].is_sorted(descending=True)


def test_3_says_which_signals_find_pairs_and_how_alike_those_are(lake, of):
    pairs = of("pairs").with_columns(
        pl.col("signals").list.join("+").alias("found_by"), *(pl.col(s).cast(pl.Float64) for s in SCORES)
    )
    expected = pairs.group_by("found_by").agg(pl.len().alias("pairs"), *(pl.col(s).mean() for s in SCORES))
    assert len(expected) > 1 and rows(asked(lake, 3)) == rows(expected)


def test_4_counts_pairs_by_score(lake, of):
    expected = of("pairs").group_by((pl.col("clip_image_score") * 50).floor().alias("step")).len("pairs")
    found = asked(lake, 4).with_columns((pl.col("at_least") * 50).round().alias("step"))
    assert rows(found, "step", "pairs") == rows(expected) and found["step"].drop_nulls().is_sorted()
    longest = found["shape"].str.len_chars()
    assert longest.max() == longest[found["pairs"].arg_max()], "the most have the longest bar"


def test_5_is_the_whole_lineage_of_one_triplet(lake, of):
    found = asked(lake, 5)
    wide = sides(of("triplets").filter(pl.col("pair_id") == found["pair_id"][0]), of, *SIDES)
    wide = wide.join(of("images").select(query_id="image_id", shard="shard"), on="query_id")
    wide = wide.join(of("pairs").select("pair_id", *SCORES), on="pair_id")
    for kind in ("description", "instruction"):
        named = {"prompt_version": "prompt", "parser_version": "parser", "request_key": "request"}
        named |= {c: c for c in ("status", "tokens_in", "tokens_out")}
        columns = {f"{kind}_{name}": column for column, name in named.items()} | (
            {"description": "text"} if kind == "description" else {}
        )
        wide = wide.join(of(f"{kind}s").select("pair_id", **columns), on="pair_id")
    assert len(found) == 1 and set(found.columns) == set(wide.columns)
    assert rows(found) == rows(wide, *found.columns)


def test_6_counts_what_each_model_wrote_and_what_was_refused(lake, of):
    keys = ("model", "prompt_version", "status", "reason")
    expected = of("instructions").group_by(keys).agg(pl.len().alias("pairs"), pl.col("tokens_in").sum(), pl.col("tokens_out").sum())
    assert rows(asked(lake, 6)) == rows(expected)


def test_7_counts_held_out_triplets_by_both_licences(lake, of):
    held_out = sides(of("triplets").filter(pl.col("split") == "test"), of, "source", "licence")
    columns = ["query_source", "query_licence", "target_source", "target_licence"]
    expected = held_out.group_by(columns).len("triplets")
    assert len(held_out) and rows(asked(lake, 7)) == rows(expected)


def test_8_is_what_is_asked_of_pictures_whose_caption_has_a_word(lake, of):
    triplets = sides(of("triplets"), of, "caption").filter(pl.col("query_caption").str.to_lowercase().str.contains("circle"))
    every = triplets.select("query_caption", pl.col("texts").list.first().alias("text"), "target_caption")
    found = asked(lake, 8)
    assert len(found) == min(20, len(every)) > 0 and set(found.rows()) <= set(every.rows()), "any twenty"


def test_9_is_the_twenty_pictures_that_are_targets_most_often(lake, of):
    often = of("pairs").group_by("target_id").len("pairs").sort(["pairs", "target_id"], descending=[True, False]).head(20)
    expected = often.join(of("images"), left_on="target_id", right_on="image_id").sort(["pairs", "path"], descending=[True, False])
    assert asked(lake, 9).rows() == expected.select("pairs", "caption", "path").rows()


def test_10_counts_pictures_by_their_pairs_those_without_included(lake, of):
    pairs = of("pairs").group_by(image_id="query_id").len("pairs")
    every = of("images").join(pairs, on="image_id", how="left").with_columns(pl.col("pairs").fill_null(0))
    found = asked(lake, 10)
    assert rows(found) == rows(every.group_by("pairs").len("pictures")) and found["pictures"].sum() == len(of("images"))


def test_11_is_every_near_duplicate_and_how_many_copies_of_it_were_refused(lake, of):
    copies = of("rejects").filter(pl.col("reason") == "duplicate").group_by("image_id").len("copies")
    every = of("duplicates").join(of("images").select("image_id", "path"), on="image_id")
    every = every.join(copies, on="image_id", how="left").with_columns(pl.col("copies").fill_null(0))
    found = asked(lake, 11)
    assert rows(found) == rows(every, *found.columns)
