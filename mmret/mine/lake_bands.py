"""The band of each signal of a lake: set by hand, measured by the lake's own towers, or proposed from its oldest shard.

A proposal must not change when the corpus grows, or every neighbour would have to be mined again. So it is made from the
oldest shard, which is sealed, and stored in the notes of that shard's candidates, where later shards read it. Where
near-duplicates begin is measured with the model itself, on a sample of pictures and slightly cropped copies of them. Cost,
once a model: 256 forward passes and a few thousand images against the shard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmret.encode.bands import propose
from mmret.encode.protocol import Encoder
from mmret.encode.vectors import read_vectors
from mmret.errors import UserError
from mmret.hashing import uniform
from mmret.lake import Lake
from mmret.settings import BandSettings, MineSettings

COPIES = 256  # pictures whose near-duplicates are looked at

Load = Callable[[str], Encoder]
"""Function from a signal to its loaded encoder; called only where a band has to be proposed."""


@dataclass(frozen=True)
class LakeBand:
    """``source``: "set", "towers", or the model and the shard it was proposed from."""

    band: BandSettings
    source: str


def bands_of(lake: Lake, settings: MineSettings, load: Load) -> dict[str, LakeBand]:
    """The band of each signal in use; a proposal is made once and then read from the lake.

    Raises UserError where a band is to be proposed and the oldest shard has no vectors yet or fewer than three images.
    """
    bands = {}
    for signal in settings.signals:
        setting = settings.bands.get(signal, BandSettings())
        bands[signal] = _proposal(lake, signal, load) if setting == "proposed" else LakeBand(setting, "set")
    return bands


def mined_bands(lake: Lake, shard: str) -> dict[str, BandSettings]:
    """The bands that the candidates of ``shard`` were mined with, by signal. Raises UserError where there are none yet."""
    facts = lake.facts("candidates", shard)
    if facts is None:
        raise UserError(f"{shard} has no candidates yet: run `mmret run --lake {lake.address}` first")
    return {signal: BandSettings(low=low, high=high) for signal, (low, high) in facts.notes["bands"].items()}


def _proposal(lake: Lake, signal: str, load: Load) -> LakeBand:
    oldest = lake.shards()[0]
    facts = lake.facts(signal, oldest)
    if facts is None:
        raise UserError(
            f"mine.bands.{signal} is 'proposed', which needs the vectors of {oldest}, the oldest shard: encode it "
            "first, or set low and high, for example {low: 0.8, high: 0.96}"
        )
    model = facts.notes["model"]
    for row in lake.read("towers").to_pylist():
        if row["signal"] == signal and model.startswith(f"{row['model']}+"):
            return LakeBand(BandSettings(low=row["band_low"], high=row["band_high"]), "towers")
    source = f"proposed from {oldest} for {model}"
    mined = lake.facts("candidates", oldest)
    if mined and mined.notes.get("band_sources", {}).get(signal) == source:
        low, high = mined.notes["bands"][signal]
        return LakeBand(BandSettings(low=low, high=high), source)
    return LakeBand(propose_band(lake, signal, load), source)


def propose_band(lake: Lake, signal: str, load: Load) -> BandSettings:
    """The band that the oldest shard's vectors propose for ``signal`` (see :func:`mmret.encode.bands.propose`)."""
    oldest = lake.shards()[0]
    ids, vectors = read_vectors(lake, oldest, signal)
    if signal == "caption":  # two captions are near-duplicates where they are one and the same to the model
        return propose(vectors, np.ones(1, np.float32))
    return propose(vectors, _copies(lake, oldest, ids, load(signal)))


def _copies(lake: Lake, shard: str, ids: list[str], encoder: Encoder) -> np.ndarray:
    """(COPIES,) cosines of pictures and nearly identical copies of them, as this model sees them."""
    import torch

    from mmret.encode.augment import NEAR_DUPLICATE_VIEWS, seeded_generator, views
    from mmret.ingest.pictures.images import read_images

    chosen = set(sorted(ids, key=lambda image_id: uniform("copies", image_id))[:COPIES])
    scores = []
    for number, rows in enumerate(read_images(lake, shard, min(32, encoder.batch_size), chosen)):
        pixels = torch.stack([encoder.preprocess(data.as_py()) for data in rows["data"]])
        copies = encoder.encode_images(views(pixels, NEAR_DUPLICATE_VIEWS, seeded_generator("copies", number)))
        scores.append((encoder.encode_images(pixels) * copies).sum(1))
    return np.concatenate(scores)


def lake_report(lake: Lake, settings: MineSettings, shards: list[str] | None = None) -> dict[str, Any]:
    """:func:`mmret.mine.band_report.report` of the neighbours of ``shards`` (None: all that have any), with the bands they
    were mined with.

    Raises UserError where nothing has been mined yet. Cost: one pass over the neighbours, a shard in memory at a time.
    """
    from mmret.mine.band_report import report

    mined = lake.partitions("neighbours")
    shards = mined if shards is None else shards
    noted = next((f.notes["bands"] for s in lake.shards() if (f := lake.facts("candidates", s)) and f.notes.get("bands")), None)
    if not mined or noted is None:
        raise UserError(f"{lake.address} has no neighbours yet: run `mmret run --lake {lake.address}` first")
    bands = {signal: BandSettings(low=low, high=high) for signal, (low, high) in noted.items()}
    images = sum(lake.facts("images", shard).rows for shard in shards)
    return report((lake.read("neighbours", shard) for shard in shards), bands, images, settings.k)
