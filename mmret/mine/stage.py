"""Mining as it runs on a lake: which tables a shard's candidates, neighbours and pairs are read from and written to.

Memory: the vectors of two shards, one tile of similarities and the shard's own edges; :mod:`mmret.mine.tiles` has the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret import progress
from mmret.encode.stage import read_vectors
from mmret.errors import UserError
from mmret.lake import Facts, Lake
from mmret.lake.inputs import read_inputs
from mmret.mine.approximate import index_candidates, uses_index
from mmret.mine.candidates import ShardVectors, candidates
from mmret.mine.choose import choose, pair_scores
from mmret.mine.lake_bands import Load, bands_of
from mmret.mine.merge import neighbours
from mmret.mine.recall import exact_lists, in_band_recall, sample
from mmret.schemas import SIGNALS
from mmret.settings import BandSettings, MineSettings


def shard_vectors(lake: Lake, shard: str, signals: Iterable[str] = SIGNALS) -> ShardVectors:
    """All signals' vectors of a shard, in position order."""
    read = {signal: read_vectors(lake, shard, signal) for signal in signals}
    ids = next(iter(read.values()))[0]
    return ShardVectors(shard, ids, {signal: vectors for signal, (_, vectors) in read.items()})


def one_model(lake: Lake, shards: Iterable[str], signals: Iterable[str]) -> None:
    """Raise UserError where two shards' vectors of one signal come from different models: their cosines mean nothing."""
    for signal in signals:
        models = {s: facts.notes["model"] for s in shards if (facts := lake.facts(signal, s))}
        if len(set(models.values())) > 1:
            (one, first), *others = models.items()
            other, second = next((s, m) for s, m in others if m != first)
            raise UserError(
                f"{signal}: {one} was encoded by {first}, {other} by {second}; the weights were changed in place: "
                f"delete {lake.path(signal, one).parent} and run again, and every shard is encoded by today's"
            )


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


def part(shard: ShardVectors, ids: Iterable[str]) -> ShardVectors:
    """The images ``ids`` of a shard."""
    place = {name: at for at, name in enumerate(shard.ids)}
    ids = list(ids)
    rows = [place[name] for name in ids]
    return ShardVectors(shard.shard, ids, {signal: vectors[rows] for signal, vectors in shard.vectors.items()})


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
    bands = {
        signal: BandSettings(low=low, high=high)
        for signal, (low, high) in lake.facts("candidates", shards[0]).notes["bands"].items()
    }
    exact = exact_lists(queries, (shard_vectors(lake, s, settings.signals) for s in shards), settings, bands)
    found = lake.read("neighbours", shards, filters=pc.field("query_id").isin(queries.ids))
    return in_band_recall(found, exact, settings.signals)


def mine_neighbours(lake: Lake, shard: str, settings: MineSettings, inputs: str) -> Facts:
    """Merge every file that speaks of ``shard``'s images: its own and those of all later shards.

    Where the partition of before is the merge of the first of them as they are today, it stands for them: a corpus that
    grew by a shard reads one new file. Noted are the shards that the rows may point to (``linked_shards``): the files say it.
    """
    files = [s for s in lake.shards() if s >= shard]
    done = _files_merged_before(lake, shard, inputs, files)
    linked = {s for s in lake.shards() if s <= shard}
    if done:
        linked |= set(lake.facts("neighbours", shard).notes.get("linked_shards", files[:done]))

    def parts() -> Iterator[pa.Table]:
        if done:
            yield lake.read("neighbours", shard)
        for file in files[done:]:
            rows = lake.read("candidates", file, filters=pc.field("query_shard") == shard)
            if rows.num_rows:
                linked.add(file)
            yield rows

    merged = neighbours(parts(), settings.k)
    in_band = pc.sum(pc.invert(merged["above_band"])).as_py() or 0
    notes = {"in_band": in_band, "above_band": merged.num_rows - in_band, "linked_shards": sorted(linked)}
    return lake.write("neighbours", shard, merged, inputs, **notes)


def _files_merged_before(lake: Lake, shard: str, inputs: str, files: list[str]) -> int:
    """How many of ``files``, from the first, the partition of before holds; 0 where what it was made from does not prove it:
    the same version, settings and content of every file."""
    facts = lake.facts("neighbours", shard)
    before, now = (read_inputs(lake, facts.inputs) if facts else None), read_inputs(lake, inputs)
    if before is None or now is None or any(before[part] != now[part] for part in ("version", "settings")):
        return 0
    held, wanted = (parts["upstream"].get("candidates", {}) for parts in (before, now))
    count = len(held)
    return count if count < len(files) and list(held.items()) == [(f, wanted.get(f)) for f in files[:count]] else 0


def mine_pairs(lake: Lake, shard: str, settings: MineSettings, inputs: str) -> Facts:
    """Choose targets and hard negatives for the images of ``shard``."""
    retrieved = lake.read("neighbours", shard)
    leaked = lake.read("leaks", columns=["image_id"])["image_id"]
    clean = pc.invert(pc.or_(*(pc.is_in(retrieved[side], leaked) for side in ("query_id", "target_id"))))
    found = retrieved.filter(clean)
    named = pc.unique(pa.chunked_array([*found["query_id"].chunks, *found["target_id"].chunks], type=pa.string()))
    captions = lake.read("images", columns=["image_id", "caption", "shard"], filters=pc.field("image_id").isin(named))

    one_model(lake, lake.shards(), SIGNALS)

    def score(pairs: pa.Table) -> pa.Table:
        return pair_scores(pairs, (shard_vectors(lake, s) for s in lake.shards()))

    chosen, reasons = choose(found, captions, score, settings)
    if dropped := retrieved.num_rows - found.num_rows:
        reasons["benchmark_picture"] = dropped
    images = lake.facts("images", shard).rows
    return lake.write(
        "pairs", shard, chosen, inputs, queries=pc.count_distinct(chosen["query_id"]).as_py(), images=images, reasons=reasons
    )
