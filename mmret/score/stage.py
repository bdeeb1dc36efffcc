"""The stage `scores`: what each scorer of the settings says of each picture of a shard. A lake without scorers has no such table.

Rows that the same scorer made before are kept, so another scorer costs its own work alone. Pictures that a threshold finds wanting
are kept out of pairs (:mod:`mmret.mine.stage`); they stay in the lake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret import progress
from mmret.encode.vectors import read_vectors
from mmret.errors import UserError
from mmret.ingest.pictures.decode import open_rgb
from mmret.ingest.pictures.images import read_images
from mmret.lake import Facts, Lake
from mmret.schemas import SCORES
from mmret.score.classifier import Classifier
from mmret.score.head import Head
from mmret.score.measures import PIXELS, measure_pixels, measure_shape
from mmret.settings import ScorerSettings

_MEASURED = "measured-1"
Values = Iterator[tuple[list[str], np.ndarray]]


def score_shard(lake: Lake, shard: str, scorers: Mapping[str, ScorerSettings], inputs: str) -> tuple[Facts, int]:
    """Write ``scores`` of ``shard``: a row for each picture and scorer; returns the facts and how many rows were computed.

    Raises UserError for a model that cannot be read or does not fit, and for a score that is not finite, naming the picture.

    >>> score_shard(lake, "shard-00000", profile.scores, fingerprint)
    """
    images = lake.read("images", shard, ["image_id", "width", "height"])
    ids = images["image_id"].to_pylist()
    before = lake.read("scores", shard) if lake.facts("scores", shard) else SCORES.empty_table()
    parts, computed = [], 0
    for done, (name, settings) in enumerate(scorers.items()):
        progress.advance("scores", done, len(scorers), f"{shard} by {name}")
        model, compute = _scorer(lake, shard, name, settings, images)
        same = before.filter(pc.and_(pc.equal(before["scorer"], name), pc.equal(before["model"], model)))
        found = dict(zip(same["image_id"].to_pylist(), same["value"].to_pylist(), strict=True))
        missing = [i for i in ids if i not in found]
        for some, values in compute(missing) if missing else ():
            if len(bad := np.flatnonzero(~np.isfinite(values))):
                raise UserError(f"scores.{name}: {model} gave image {some[bad[0]]} no finite number: its weights are damaged")
            found |= zip(some, np.asarray(values, np.float32).tolist(), strict=True)
        computed += len(missing)
        rows = {"image_id": ids, "scorer": [name] * len(ids), "value": [found[i] for i in ids], "model": [model] * len(ids)}
        parts.append(pa.table(rows, schema=SCORES))
    written = lake.write("scores", shard, pa.concat_tables([SCORES.empty_table(), *parts]), inputs)
    return written, computed


def _scorer(
    lake: Lake, shard: str, name: str, settings: ScorerSettings, images: pa.Table
) -> tuple[str, Callable[[list[str]], Values]]:
    """Its model's name, and a function from image ids to their scores, some at a time."""
    if settings.kind == "head":
        head = Head(name, settings)
        return f"{head.model} on {lake.facts('clip_image', shard).notes['model']}", lambda ids: _by_vectors(lake, shard, head, ids)
    if settings.kind == "classifier":
        classifier = Classifier(name, settings)
        return classifier.model, lambda ids: _by_pictures(lake, shard, settings.batch_size, ids, classifier)
    measure = str(settings.measure)
    if measure in PIXELS:

        def look(pictures: list) -> np.ndarray:
            return np.array([measure_pixels(picture, measure) for picture in pictures])

        return f"{measure}@{_MEASURED}", lambda ids: _by_pictures(lake, shard, settings.batch_size, ids, look)
    sizes = {row["image_id"]: (row["width"], row["height"]) for row in images.to_pylist()}
    return f"{measure}@{_MEASURED}", lambda ids: iter([(ids, np.array([measure_shape(*sizes[i], measure) for i in ids]))])


def _by_vectors(lake: Lake, shard: str, head: Head, wanted: list[str]) -> Values:
    ids, vectors = read_vectors(lake, shard, "clip_image")
    place = {image_id: at for at, image_id in enumerate(ids)}
    yield wanted, head(vectors[[place[i] for i in wanted]])


def _by_pictures(lake: Lake, shard: str, batch_size: int, wanted: list[str], score: Callable[[list], np.ndarray]) -> Values:
    for batch in read_images(lake, shard, batch_size, wanted):
        yield batch["image_id"].to_pylist(), score([open_rgb(data) for data in batch["data"].to_pylist()])


def found_wanting(lake: Lake, shards: list[str], scorers: Mapping[str, ScorerSettings]) -> dict[str, pa.ChunkedArray]:
    """By reason (``score_<name>``) of each scorer with a threshold, ids of the pictures of ``shards`` that lie outside of it."""
    limited = {name: s for name, s in scorers.items() if s.minimum is not None or s.maximum is not None}
    if not limited:
        return {}
    rows = lake.read("scores", shards, ["image_id", "scorer", "value"])
    found = {}
    for name, settings in limited.items():
        own = rows.filter(pc.equal(rows["scorer"], name))
        low, high = (-np.inf if settings.minimum is None else settings.minimum), settings.maximum
        out = pc.or_(pc.less(own["value"], low), pc.greater(own["value"], np.inf if high is None else high))
        found[f"score_{name}"] = own.filter(out)["image_id"]
    return found
