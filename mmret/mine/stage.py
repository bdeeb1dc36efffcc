"""The stages `candidates`, `neighbours` and `pairs`: which tables of a lake each reads and writes.

Memory: the vectors of two shards, one tile of similarities and the shard's own edges; :mod:`mmret.mine.tiles` has the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret import progress
from mmret.freshness.fingerprints import STAGES, Inputs
from mmret.lake import Facts, Lake
from mmret.mine.approximate import index_candidates, uses_index
from mmret.mine.candidates import ShardVectors, candidates
from mmret.mine.choose import choose
from mmret.mine.lake_bands import Load, bands_of, mined_bands
from mmret.mine.lake_vectors import one_model, part, shard_vectors
from mmret.mine.merge import neighbours
from mmret.mine.negatives import beyond_full_lists
from mmret.mine.recall import exact_lists, in_band_recall, sample
from mmret.mine.scores import pair_scores
from mmret.schemas import SIGNALS
from mmret.settings import MineSettings


def mine_candidates(lake: Lake, shard: str, settings: MineSettings, inputs: str, load: Load) -> Facts:
    """Compare ``shard`` with itself and every earlier one and write its candidates.

    ``load`` gives the encoder of a signal whose band is proposed and not known yet. Raises UserError for vectors of
    different models.
    """
    earlier = [s for s in lake.shards() if s < shard]
    one_model(lake, [*earlier, shard], settings.signals)

    def stream() -> Iterator[ShardVectors]:
        for done, other in enumerate(earlier):
            progress.advance("candidates", done, len(earlier) + 1, f"{shard} against {other}")
            yield shard_vectors(lake, other, settings.signals)

    chosen = bands_of(lake, settings, load)
    bands = {signal: of.band for signal, of in chosen.items()}
    notes = {
        "compared_with": len(earlier) + 1,
        "bands": {signal: [band.low, band.high] for signal, band in bands.items()},
        "band_sources": {signal: of.source for signal, of in chosen.items()},
    }
    own = shard_vectors(lake, shard, settings.signals)
    if uses_index(sum(lake.facts("images", s).rows for s in [*earlier, shard]), settings.index):
        edges = index_candidates(lake, shard, settings, bands)
        queries = part(own, sample(own.ids, settings.index.checked))
        exact = exact_lists(queries, chain([own], stream()), settings, bands)
        found = edges.filter(pc.is_in(edges["query_id"], value_set=pa.array(queries.ids)))
        notes |= {"index": settings.index.kind, "recall": in_band_recall(found, exact, settings.signals)}
    else:
        edges = candidates(own, stream(), settings, bands)
    return lake.write("candidates", shard, edges, inputs, **notes)


def lake_recall(lake: Lake, settings: MineSettings) -> dict[str, float] | None:
    """Per signal the share of the exact in-band neighbours that table ``neighbours`` has, for a sample of the whole lake.

    None where no index was used, so that nothing can be missing. Cost: one pass over all vectors.
    """
    shards = lake.partitions("neighbours")
    if not any((facts := lake.facts("candidates", s)) and "index" in facts.notes for s in shards):
        return None
    wanted = set(sample(lake.read("images", shards, ["image_id"])["image_id"].to_pylist(), settings.index.checked))
    parts = []
    for shard in shards:
        own = shard_vectors(lake, shard, settings.signals)
        parts.append(part(own, sorted(wanted & set(own.ids))))
    queries = ShardVectors(
        "sample",
        [name for p in parts for name in p.ids],
        {s: np.concatenate([p.vectors[s] for p in parts]) for s in settings.signals},
    )
    bands = mined_bands(lake, shards[0])
    exact = exact_lists(queries, (shard_vectors(lake, s, settings.signals) for s in shards), settings, bands)
    found = lake.read("neighbours", shards, filters=pc.field("query_id").isin(queries.ids))
    return in_band_recall(found, exact, settings.signals)


def mine_neighbours(lake: Lake, shard: str, settings: MineSettings, inputs: str) -> Facts:
    """Merge every file that speaks of ``shard``'s images: its own and those of all later shards.

    Where the partition of before is the merge of the first of them as they are today, it stands for them: a corpus that
    grew by a shard reads one new file.
    """
    files = [s for s in lake.shards() if s >= shard]
    done = _merged_before(lake, shard, settings.k, files)
    before = [lake.read("neighbours", shard)] if done else []
    later = (lake.read("candidates", s, filters=pc.field("query_shard") == shard) for s in files[done:])
    merged = neighbours(chain(before, later), settings.k)
    in_band = pc.sum(pc.invert(merged["above_band"])).as_py() or 0
    return lake.write("neighbours", shard, merged, inputs, in_band=in_band, above_band=merged.num_rows - in_band)


def _merged_before(lake: Lake, shard: str, k: int, files: list[str]) -> int:
    """How many of ``files``, from the first, the partition of before holds; 0 where its fingerprint does not prove it.

    The fingerprint covers the stage's version, ``k`` and the content of every file, so nothing that changed is kept.
    """
    before = lake.facts("neighbours", shard)
    seen = [("candidates", s, lake.facts("candidates", s)) for s in files]
    if before is None or any(facts is None for *_, facts in seen):
        return 0
    version = STAGES["neighbours"].version
    return next(
        (
            count
            for count in range(len(files) - 1, 0, -1)
            if Inputs("neighbours", version, k, tuple(seen[:count])).fingerprint == before.inputs
        ),
        0,
    )


def mine_pairs(lake: Lake, shard: str, settings: MineSettings, inputs: str) -> Facts:
    """Choose targets and hard negatives for the images of ``shard``.

    Reads the shard's neighbours and the bands noted with its candidates, the leaks, and of every shard the captions of
    images that the neighbours name and the vectors of all signals: once for the scores, and again where a list above the
    band is full or a pair draws many near-duplicates of its target. Memory: the neighbours, one shard's vectors, and those
    of the images that chosen pairs and the candidates for their negatives name. Raises UserError for vectors of different
    models.
    """
    one_model(lake, lake.shards(), SIGNALS)

    def score(pairs: pa.Table) -> pa.Table:
        return pair_scores(pairs, (shard_vectors(lake, s) for s in lake.shards()))

    bands, lists = mined_bands(lake, shard), lake.read("neighbours", shard)
    retrieved = pa.concat_tables([lists, beyond_full_lists(lists, score, bands, settings.k)])
    leaked = lake.read("leaks", columns=["image_id"])["image_id"]
    clean = pc.invert(pc.or_(*(pc.is_in(retrieved[side], leaked) for side in ("query_id", "target_id"))))
    found = retrieved.filter(clean)
    named = pc.unique(pa.chunked_array([*found["query_id"].chunks, *found["target_id"].chunks], type=pa.string()))
    captions = lake.read("images", columns=["image_id", "caption", "shard"], filters=pc.field("image_id").isin(named))
    chosen, reasons = choose(found, captions, score, settings, bands)
    if dropped := retrieved.num_rows - found.num_rows:
        reasons["benchmark_picture"] = dropped
    images = lake.facts("images", shard).rows
    return lake.write(
        "pairs", shard, chosen, inputs, queries=pc.count_distinct(chosen["query_id"]).as_py(), images=images, reasons=reasons
    )
