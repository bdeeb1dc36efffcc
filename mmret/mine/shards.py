"""Mining as it runs on a lake: which tables a shard's candidates, neighbours and pairs are read from and written to.

Memory: the vectors of two shards, one tile of similarities and the shard's own edges; :mod:`mmret.mine.tiles` has the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from mmret import progress
from mmret.encode.vectors import read_vectors
from mmret.errors import UserError
from mmret.lake import Facts, Lake
from mmret.mine.candidates import ShardVectors, candidates
from mmret.mine.choose import choose, pair_scores
from mmret.mine.merge import neighbours
from mmret.schemas import SIGNALS
from mmret.settings import BandSettings, MineSettings


def bands_of(lake: Lake, settings: MineSettings) -> dict[str, BandSettings]:
    """The band of each signal, 'proposed' ones taken from the towers table. Raises UserError where nothing was proposed."""
    proposed = {row["signal"]: row for row in lake.read("towers").to_pylist()}
    bands = {}
    for signal in settings.signals:
        band = settings.bands.get(signal, BandSettings())
        if band == "proposed":
            if signal not in proposed:
                raise UserError(f"mine.bands.{signal} is 'proposed', but only towers trained by the lake propose one: "
                                "set low and high, for example {low: 0.8, high: 0.96}")
            band = BandSettings(low=proposed[signal]["band_low"], high=proposed[signal]["band_high"])
        bands[signal] = band
    return bands


def shard_vectors(lake: Lake, shard: str, signals: Iterable[str] = SIGNALS) -> ShardVectors:
    """All signals' vectors of a shard, in position order."""
    read = {signal: read_vectors(lake, shard, signal) for signal in signals}
    ids = next(iter(read.values()))[0]
    return ShardVectors(shard, ids, {signal: vectors for signal, (_, vectors) in read.items()})


def mine_candidates(lake: Lake, shard: str, settings: MineSettings, inputs: str) -> Facts:
    """Compare ``shard`` with itself and every earlier one and write its candidates."""
    earlier = [s for s in lake.shards() if s < shard]

    def stream() -> Iterator[ShardVectors]:
        for done, other in enumerate(earlier):
            progress.advance("candidates", done, len(earlier) + 1, f"{shard} against {other}")
            yield shard_vectors(lake, other, settings.signals)

    bands = bands_of(lake, settings)
    edges = candidates(shard_vectors(lake, shard, settings.signals), stream(), settings, bands)
    return lake.write("candidates", shard, edges, inputs,
                      bands={s: [b.low, b.high] for s, b in bands.items()}, compared_with=len(earlier) + 1)


def mine_neighbours(lake: Lake, shard: str, settings: MineSettings, inputs: str) -> Facts:
    """Merge every file that speaks of ``shard``'s images: its own and those of all later shards."""
    later = (lake.read("candidates", s, filters=pc.field("query_shard") == shard) for s in lake.shards() if s >= shard)
    merged = neighbours(later, settings.k)
    in_band = pc.sum(pc.invert(merged["above_band"])).as_py() or 0
    return lake.write("neighbours", shard, merged, inputs, in_band=in_band, above_band=merged.num_rows - in_band)


def mine_pairs(lake: Lake, shard: str, settings: MineSettings, inputs: str) -> Facts:
    """Choose targets and hard negatives for the images of ``shard``."""
    retrieved = lake.read("neighbours", shard)
    leaked = lake.read("leaks", columns=["image_id"])["image_id"]
    clean = pc.invert(pc.or_(*(pc.is_in(retrieved[side], leaked) for side in ("query_id", "target_id"))))
    found = retrieved.filter(clean)
    named = pc.unique(pa.chunked_array([*found["query_id"].chunks, *found["target_id"].chunks], type=pa.string()))
    captions = lake.read("images", columns=["image_id", "caption", "shard"], filters=pc.field("image_id").isin(named))

    def score(pairs: pa.Table) -> pa.Table:
        return pair_scores(pairs, (shard_vectors(lake, s) for s in lake.shards()))

    chosen, reasons = choose(found, captions, score, settings)
    if dropped := retrieved.num_rows - found.num_rows:
        reasons["benchmark_picture"] = dropped
    images = lake.facts("images", shard).rows
    return lake.write("pairs", shard, chosen, inputs, queries=pc.count_distinct(chosen["query_id"]).as_py(), images=images,
                      reasons=reasons)
