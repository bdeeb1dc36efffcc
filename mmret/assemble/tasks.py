"""Rows of every kind of query but the composed one, made from what the lake holds: no model, nothing that has to be asked.

* text to image, image to text: a picture and its own caption. Hard negatives are its neighbours in the image signals under other
  captions.
* image to image, text to text: a picture and its twin, or the captions of both (:mod:`mmret.assemble.twins`).
* image + text to image + text: triplets, whose candidates carry their captions.

Cost: about 0.1 ms a picture of the shard; memory the neighbours of the shard, as for its pairs.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mmret.assemble.triplets import licence_of_both
from mmret.assemble.twins import find_twins, negatives_of
from mmret.curation.split import split_of, split_of_caption
from mmret.hashing import content_id
from mmret.mine.images import Images, normalise_caption
from mmret.schemas import SIGNALS, TASKS
from mmret.settings import EvaluateSettings
from mmret.tasks import MADE_TASKS

_SETS = pa.array(
    [[s for at, s in enumerate(SIGNALS) if bits >> at & 1] for bits in range(1 << len(SIGNALS))], pa.list_(pa.string())
)


def task_rows(
    neighbours: pa.Table, triplets: pa.Table, images: pa.Table, own: pa.Array, settings: EvaluateSettings
) -> tuple[pa.Table, dict[str, int]]:
    """TASKS of one shard, by task in the order of ``MADE_TASKS``, then by query and target, and the number of rows of each task.

    ``images`` must hold ``image_id, caption, licence`` of every picture that the other tables name; ``own`` are the ids of the
    shard's own pictures, whether they have neighbours or not. A picture without a caption, or not in ``images``, is in no row.

    >>> rows, counts = task_rows(neighbours, triplets, images, ids, profile.evaluate)
    """
    made = {
        **_from_neighbours(neighbours, images, own),
        "image_text_to_image_text": _from_triplets(triplets, images),
    }
    rows = pl.concat([made[name].with_columns(task=pl.lit(name)) for name in MADE_TASKS])
    about = pl.from_arrow(images).select("image_id", "caption", "licence")
    rows = (
        rows.join(_of_role("query", about), on="query_id", how="left", maintain_order="left")
        .join(_of_role("target", about), on="target_id", how="left", maintain_order="left")
        .with_columns(
            task_id=pl.Series(_ids(rows), dtype=pl.String),
            licence=licence_of_both(),
            texts=pl.coalesce("texts", _own_text()),
        )
    )
    rows = rows.with_columns(split=_split(rows, settings))
    counts = {name: made[name].height for name in MADE_TASKS}
    return rows.select(TASKS.names).to_arrow().cast(TASKS), counts


def _split(rows: pl.DataFrame, settings: EvaluateSettings) -> pl.Series:
    """Of triplets with captions the triplets' own, by the query picture. Of every other row ``test`` where either side is held out,
    its picture or its caption: evaluations ask captions back of which no such row was trained on."""
    pictures = [i for i in {*rows["query_id"], *rows["target_id"]} if split_of(i, settings) == "test"]
    captions = [
        c for c in {*rows["query_caption"], *rows["target_caption"]} if split_of_caption(normalise_caption(c), settings) == "test"
    ]

    def held_out(column: str, known: list[str]) -> pl.Expr:
        return pl.col(column).is_in(pl.Series(known, dtype=pl.String))

    asks = held_out("query_id", pictures)
    any_side = asks | held_out("target_id", pictures) | held_out("query_caption", captions) | held_out("target_caption", captions)
    test = pl.when(pl.col("task") == "image_text_to_image_text").then(asks).otherwise(any_side)
    return rows.select(split=pl.when(test).then(pl.lit("test")).otherwise(pl.lit("train")))["split"]


def _own_text() -> pl.Expr:
    """The query's caption where a text asks, nothing where an image does."""
    empty = pl.lit([], dtype=pl.List(pl.String))
    return pl.when(pl.col("task").is_in(["text_to_image", "text_to_text"])).then(pl.concat_list("query_caption")).otherwise(empty)


def _of_role(role: str, about: pl.DataFrame) -> pl.DataFrame:
    return about.rename({"image_id": f"{role}_id", "caption": f"{role}_caption", "licence": f"{role}_licence"})


def _ids(rows: pl.DataFrame) -> list[str]:
    columns: Iterable[tuple[str, str, str]] = rows.select("task", "query_id", "target_id").iter_rows()
    return [content_id(f"{task}:{query}:{target}".encode()) for task, query, target in columns]


def _from_neighbours(neighbours: pa.Table, images: pa.Table, own: pa.Array) -> dict[str, pl.DataFrame]:
    """Rows of the four tasks that ask by an image or a text alone, by task: ``query_id, target_id`` and what is found with them."""
    numbered = Images(neighbours, images)
    found = find_twins(neighbours, numbered)
    named = _Named(numbered, images)
    itself = named.numbers_of(own)
    alone = named.without_neighbours(own)
    own_caption = pl.concat([named.rows(itself, itself, found.wrong, None), alone])
    return {
        "text_to_image": own_caption.sort("query_id"),
        "image_to_text": own_caption.sort("query_id"),
        "image_to_image": named.rows(found.images.query, found.images.target, found.wrong, found.images.signals),
        "text_to_text": named.rows(found.texts.query, found.texts.target, found.wrong, found.texts.signals),
    }


class _Named:
    """Numbers of pictures back to their ids and captions."""

    def __init__(self, numbered: Images, images: pa.Table):
        self.numbered = numbered
        known = images.filter(pc.greater(pc.utf8_length(pc.fill_null(pc.utf8_trim_whitespace(images["caption"]), "")), 0))
        self.captioned = known["image_id"].combine_chunks()
        self.captions = known["caption"].take(pc.index_in(numbered.names, value_set=self.captioned)).combine_chunks()

    def numbers_of(self, ids: pa.Array) -> np.ndarray:
        """Numbers of those of ``ids`` that have a caption and neighbours, ascending."""
        at = pc.drop_null(pc.index_in(ids.filter(pc.is_in(ids, self.captioned)), value_set=self.numbered.names))
        return np.sort(at.to_numpy())

    def without_neighbours(self, ids: pa.Array) -> pl.DataFrame:
        """Rows of a picture and itself, without hard negatives, for those that have a caption and no neighbour."""
        alone = ids.filter(pc.and_(pc.is_in(ids, self.captioned), pc.invert(pc.is_in(ids, self.numbered.names))))
        empty = pa.array([[]] * len(alone), pa.list_(pa.string()))
        return _frame(alone, alone, empty, empty, empty)

    def rows(self, queries: np.ndarray, targets: np.ndarray, wrong, signals: np.ndarray | None) -> pl.DataFrame:
        """Rows for ``queries`` and ``targets`` (n,), ascending by query, with their hard negatives; ``signals``: a bit for each
        that found the pair, or None for those that found its hard negatives."""
        row, negative, found = negatives_of(queries, targets, wrong, self.numbered)
        if signals is None:
            signals = np.zeros(len(queries), np.int64)
            np.bitwise_or.at(signals, row, found)
        starts = pa.array(np.append(0, np.cumsum(np.bincount(row, minlength=len(queries)))), pa.int32())
        at = pa.array(negative)
        names = self.numbered.names
        return _frame(
            names.take(pa.array(queries)),
            names.take(pa.array(targets)),
            pa.ListArray.from_arrays(starts, names.take(at)),
            pa.ListArray.from_arrays(starts, self.captions.take(at)),
            _SETS.take(pa.array(signals)),
        )


def _frame(queries: pa.Array, targets: pa.Array, negatives: pa.Array, captions: pa.Array, signals: pa.Array) -> pl.DataFrame:
    texts, pairs = pa.nulls(len(queries), pa.list_(pa.string())), pa.nulls(len(queries), pa.string())
    columns = {"query_id": queries, "target_id": targets, "hard_negatives": negatives, "negative_captions": captions}
    return pl.from_arrow(pa.table(columns | {"signals": signals, "texts": texts, "pair_id": pairs}))


def _from_triplets(triplets: pa.Table, images: pa.Table) -> pl.DataFrame:
    """Triplets whose pictures both have captions; hard negatives without one, or with the answer's, are left out."""
    said = pl.from_arrow(images).filter(pl.col("caption").map_elements(normalise_caption, return_dtype=pl.String) != "")
    rows = pl.from_arrow(triplets).filter(pl.col("query_id").is_in(said["image_id"]) & pl.col("target_id").is_in(said["image_id"]))
    negatives = (
        rows.select("pair_id", "target_id", "hard_negatives")
        .explode("hard_negatives")
        .join(said.select(target_id="image_id", target_caption="caption"), on="target_id", maintain_order="left")
        .join(said.select(hard_negatives="image_id", negative_captions="caption"), on="hard_negatives", maintain_order="left")
        .filter(pl.col("negative_captions") != pl.col("target_caption"))
        .group_by("pair_id", maintain_order=True)
        .agg("hard_negatives", "negative_captions")
    )
    joined = rows.drop("hard_negatives").join(negatives, on="pair_id", how="left", maintain_order="left")
    names = ("query_id", "target_id", "hard_negatives", "negative_captions", "signals", "texts", "pair_id")
    empty = pl.lit([], dtype=pl.List(pl.String))
    return (
        joined.with_columns(pl.col(n).fill_null(empty) for n in ("hard_negatives", "negative_captions"))
        .select(names)
        .sort("query_id", "target_id")
    )
