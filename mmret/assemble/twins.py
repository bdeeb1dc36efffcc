"""Finds, in a shard's neighbours, pictures of the same thing (*twins*) and pictures that are near and of another thing.

Pairs for composed queries differ in something that an instruction can name: near-duplicates and equal captions are kept out of
them. For image to image and text to text those are what is wanted, and table ``neighbours`` has them, above the bands:

* a picture *said to be the same*: the caption is above the caption band, and an image signal found it too, or few others are so
  (a caption that more than ``COMMON`` others have, "product photo", says nothing);
* a picture *seen to be the same*: found by all three signals, and above the band of an image signal.

A query's twin is the best of what is said to be the same, else of what is seen to be the same; the best has the same caption, is
above the most bands, and then has the highest sum of cosines. Near and wrong are pictures that an image signal found inside its
band and no signal above it, under another caption: first those that the caption signal did not find, of which fewest show the same
by chance.

Measured on the demo's corpus (7 attributes; a row each): twins agree in all attributes in 50 % and in all but one in 97 %, where
mined pairs that all three signals found have 22 and 84 %; of its hard negatives 0.5 % agree in all. On icons in two styles 95 % of
the twins have the same name, and no mined pair has.

Cost: about 0.5 us a neighbour row, in slices of a million rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mmret.hashing import pair_draws
from mmret.mine.images import Images
from mmret.mine.ordering import place_in_group
from mmret.schemas import SIGNALS

COMMON = 4
"""Pictures above the caption band of one picture, of equal text or of other text; where there are more, the caption alone does not
say that they show the same."""
NEGATIVES = 4
"""Hard negatives of a row, at most."""
_POOL = 16  # near and wrong pictures drawn for a query; a row takes the first that are wrong for its target too
_ROWS = 1_000_000  # neighbour rows worked on at a time
_CLIP, _DINO, _CAPTION = (1 << SIGNALS.index(signal) for signal in ("clip_image", "dino_image", "caption"))


@dataclass(frozen=True)
class Twins:
    """One row a query (n,), numbers of :class:`Images`: ``query``, ``target``, and ``signals``, a bit for each that found them."""

    query: np.ndarray
    target: np.ndarray
    signals: np.ndarray


@dataclass(frozen=True)
class NearAndWrong:
    """Up to ``_POOL`` pictures of each query, the best negatives first, sorted by query: ``query, target, signals`` (m,)."""

    query: np.ndarray
    target: np.ndarray
    signals: np.ndarray


@dataclass(frozen=True)
class Found:
    """``images``: twins as pictures; ``texts``: twins whose captions differ as text; ``wrong``: pictures for hard negatives."""

    images: Twins
    texts: Twins
    wrong: NearAndWrong


def find_twins(neighbours: pa.Table, images: Images) -> Found:
    """The twins and the hard negatives of every query in ``neighbours``, which ``images`` numbers.

    >>> find_twins(neighbours, Images(neighbours, captions)).images.target
    """
    found = [_of_slice(_retrieved(part), images) for part in _slices(neighbours, images)] or [_NOTHING]
    return Found(
        _joined(Twins, [images for images, _, _ in found]),
        _joined(Twins, [texts for _, texts, _ in found]),
        _joined(NearAndWrong, [wrong for _, _, wrong in found]),
    )


def negatives_of(queries: np.ndarray, targets: np.ndarray, wrong: NearAndWrong, images: Images) -> tuple[np.ndarray, ...]:
    """Hard negatives of rows (n,) whose answer is ``targets``, ascending by query: row, image number and signals of each, (m,).

    None is the target, has its caption or is a near-duplicate of it as far as the lists know.
    """
    first = np.searchsorted(wrong.query, queries)
    sizes = np.searchsorted(wrong.query, queries, side="right") - first
    row = np.repeat(np.arange(len(queries)), sizes)
    at = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(first, sizes)
    candidate, target = wrong.target[at], targets[row]
    allowed = ~((candidate == target) | images.same_caption(target, candidate) | images.near_duplicates(target, candidate))
    row, at = row[allowed], at[allowed]
    kept = place_in_group(row) < NEGATIVES
    return row[kept], wrong.target[at[kept]], wrong.signals[at[kept]]


def _slices(neighbours: pa.Table, images: Images) -> Iterator[pl.DataFrame]:
    """About a million rows at a time as numbers; a query's rows are never split."""
    bits = np.array([1 << n for n in range(len(SIGNALS))], np.int64)
    rows = pl.DataFrame(
        {
            "query": images.queries,
            "target": images.targets,
            "signal": bits[pc.index_in(neighbours["signal"], value_set=pa.array(SIGNALS)).to_numpy()],
            "above": neighbours["above_band"].to_numpy(),
            "score": neighbours["score"].to_numpy(),
        }
    ).sort("query")
    queries, start = rows["query"].to_numpy(), 0
    while start < len(queries):
        stop = int(np.searchsorted(queries, queries[min(start + _ROWS, len(queries)) - 1], side="right"))
        yield rows[start:stop]
        start = stop


def _retrieved(rows: pl.DataFrame) -> pl.DataFrame:
    """A row each (query, target): ``inside`` and ``above``, a bit for each signal, and ``score``, the sum of the cosines."""
    signal = pl.col("signal")
    return rows.group_by("query", "target").agg(
        inside=signal.filter(~pl.col("above")).sum(), above=signal.filter("above").sum(), score=pl.col("score").sum()
    )


def _of_slice(rows: pl.DataFrame, images: Images) -> tuple[Twins, Twins, NearAndWrong]:
    query, target = rows["query"].to_numpy(), rows["target"].to_numpy()
    draw = pair_draws(images.hashes[query], images.hashes[target], np.uint64(0))
    inside, above = pl.col("inside"), pl.col("above")
    found = inside | above
    said_alike = (above & _CAPTION) > 0
    rows = (
        rows.with_columns(same_text=pl.Series(images.same_caption(query, target)))
        .with_columns(
            found=found,
            draw=pl.Series(draw),
            said=said_alike & (((found & (_CLIP | _DINO)) > 0) | (said_alike.sum().over("query", "same_text") <= COMMON)),
            seen=(found == _CLIP | _DINO | _CAPTION) & ((above & (_CLIP | _DINO)) > 0),
            bands=((above & _CLIP) > 0).cast(pl.Int8) + ((above & _DINO) > 0).cast(pl.Int8),
            told=pl.Series((images.captions[query] >= 0) & (images.captions[target] >= 0)),
        )
        .filter("told")
    )
    twins = rows.filter(pl.col("said") | pl.col("seen")).sort(
        "query", "said", "same_text", "bands", "score", "draw", descending=[False, True, True, True, True, False]
    )
    wrong = (
        rows.filter((above == 0) & ((inside & (_CLIP | _DINO)) > 0) & ~pl.col("same_text"))
        .sort("query", (inside & _CAPTION) > 0, "draw")
        .group_by("query", maintain_order=True)
        .head(_POOL)
    )
    images_of, texts_of = (
        t.unique("query", keep="first", maintain_order=True) for t in (twins, twins.filter(~pl.col("same_text")))
    )
    return _arrays(Twins, images_of), _arrays(Twins, texts_of), _arrays(NearAndWrong, wrong)


def _arrays(kind: type, rows: pl.DataFrame):
    return kind(rows["query"].to_numpy(), rows["target"].to_numpy(), rows["found"].to_numpy())


def _joined(kind: type, parts: list):
    return kind(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("query", "target", "signals")))


_NONE = np.zeros(0, np.int64)
_NOTHING = (Twins(_NONE, _NONE, _NONE), Twins(_NONE, _NONE, _NONE), NearAndWrong(_NONE, _NONE, _NONE))
