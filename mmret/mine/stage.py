"""The stages `candidates`, `duplicates`, `neighbours` and `pairs`: which tables of a lake each reads and writes.

Memory: the vectors of two shards, one tile of similarities and the shard's own edges; :mod:`mmret.mine.tiles` has the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret import progress
from mmret.ingest.pictures.pair_images import image_ids, read_images_of
from mmret.lake import Facts, Lake
from mmret.lake.inputs import LINKED, linked_shards, read_inputs
from mmret.mine.above_band import NearDuplicates, keep_above_band, proven
from mmret.mine.approximate import index_candidates, uses_index
from mmret.mine.candidates import ShardVectors, candidates
from mmret.mine.choose import choose
from mmret.mine.duplicates import duplicate_groups
from mmret.mine.lake_bands import Load, bands_of, mined_bands
from mmret.mine.lake_scores import LakeScores, NumberedImages, ScoredPairs
from mmret.mine.lake_vectors import check_one_model, select_images, shard_vectors
from mmret.mine.merge import neighbours
from mmret.mine.negatives import beyond_full_lists
from mmret.mine.recall import exact_lists, in_band_recall, sample
from mmret.mine.scores import SCORES
from mmret.schemas import SIGNALS
from mmret.settings import DuplicateSettings, MineSettings

Wanting = Callable[[list[str]], Mapping[str, pa.ChunkedArray]]
"""Function of shards that returns, by reason, ids of their pictures that are in no pair."""


def mine_candidates(lake: Lake, shard: str, settings: MineSettings, inputs: str, load: Load) -> Facts:
    """Compare ``shard`` with itself and every earlier one and write its candidates.

    ``load`` returns the encoder of a signal; it is called only if a band has to be proposed. Raises UserError for vectors of
    different models.

    >>> load = lambda signal: load_encoder(profile.encoders[signal], signal, lake.storage)
    >>> mine_candidates(lake, "shard-00000", profile.mine, fingerprint, load).rows
    """
    earlier = [s for s in lake.shards() if s < shard]
    check_one_model(lake, [*earlier, shard], settings.signals)

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
        queries = select_images(own, sample(own.ids, settings.index.checked))
        exact = exact_lists(queries, chain([own], stream()), settings, bands)
        found = edges.filter(pc.is_in(edges["query_id"], value_set=pa.array(queries.ids)))
        notes |= {"index": settings.index.kind, "recall": in_band_recall(found, exact, settings.signals)}
    else:
        edges = candidates(own, stream(), settings, bands)
    facts = lake.write("candidates", shard, edges, inputs, **notes)
    keep_above_band(lake, shard, edges, facts.digest)
    return facts


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
        parts.append(select_images(own, sorted(wanted & set(own.ids))))
    queries = ShardVectors(
        "sample",
        [name for p in parts for name in p.ids],
        {s: np.concatenate([p.vectors[s] for p in parts]) for s in settings.signals},
    )
    bands = mined_bands(lake, shards[0])
    exact = exact_lists(queries, (shard_vectors(lake, s, settings.signals) for s in shards), settings, bands)
    found = lake.read("neighbours", shards, filters=pc.field("query_id").isin(queries.ids))
    return in_band_recall(found, exact, settings.signals)


def mine_duplicates(lake: Lake, settings: DuplicateSettings, inputs: str) -> Facts:
    """Write ``duplicates``: the groups of near-duplicates of the whole lake, by the candidates above the bands.

    >>> mine_duplicates(lake, profile.duplicates, fingerprint).notes["groups"]
    """
    shards = lake.partitions("candidates")
    wanted = pc.field("above_band") & pc.field("signal").isin(settings.signals)
    columns = ["query_id", "target_id", "signal", "score"]

    def files() -> Iterator[pa.Table]:
        for done, shard in enumerate(shards):
            progress.advance("duplicates", done, len(shards), shard)
            yield lake.read("candidates", shard, columns, wanted)

    listed = [(shard, lake.read("images", shard, ["image_id"])) for shard in lake.shards()]
    none = pa.table(
        {"image_id": pa.array([], pa.string()), "shard": pa.array([], pa.string())}
    )  # a lake of imported triplets alone
    parts = [rows.append_column("shard", pa.array([shard] * len(rows), pa.string())) for shard, rows in listed]
    images = pa.concat_tables([none, *parts])
    found = duplicate_groups(images, files(), settings)
    groups = pc.sum(found["first"]).as_py() or 0
    return lake.write("duplicates", "all", found, inputs, groups=groups, largest=pc.max(found["pictures"]).as_py() or 0)


def mine_neighbours(lake: Lake, shard: str, settings: MineSettings, inputs: str) -> Facts:
    """Write ``neighbours`` of ``shard``: the merge of its own candidates and those of all later shards.

    If the partition that is there is the merge of some of these files as they still are, only the other files are read: one new
    file where the corpus grew by a shard. The note ``linked_shards`` lists the shards that the rows may point to, of those by which
    the corpus grew only such as have an image in a list.

    >>> mine_neighbours(lake, "shard-00000", profile.mine, fingerprint).rows
    """
    files = [s for s in lake.shards() if s >= shard]
    done = _files_merged_before(lake, shard, inputs, files)
    linked = {s for s in lake.shards() if s <= shard}
    if done:
        linked |= set(lake.facts("neighbours", shard).notes.get(LINKED, files[:done]))
    offered: dict[str, pa.Array] = {}

    def parts() -> Iterator[pa.Table]:
        if done:
            yield lake.read("neighbours", shard)
        for file in files[done:]:
            rows = lake.read("candidates", file, filters=pc.field("query_shard") == shard)
            if done and file != shard:  # all of these targets lie in the new shard
                offered[file] = pc.unique(rows["target_id"])
            elif rows.num_rows:
                linked.add(file)
            yield rows

    merged = neighbours(parts(), settings.k)
    listed = pc.unique(merged["target_id"])
    linked |= {file for file, targets in offered.items() if pc.any(pc.is_in(targets, value_set=listed)).as_py()}
    in_band = pc.sum(pc.invert(merged["above_band"])).as_py() or 0
    notes = {"in_band": in_band, "above_band": merged.num_rows - in_band, LINKED: sorted(linked)}
    return lake.write("neighbours", shard, merged, inputs, **notes)


def _files_merged_before(lake: Lake, shard: str, inputs: str, files: list[str]) -> int:
    """How many of ``files``, counted from the first, the partition that is there was merged from.

    0 unless its recorded inputs prove it: the same version and settings, and the same content of every file.
    """
    facts = lake.facts("neighbours", shard)
    before, now = (read_inputs(lake, facts.inputs) if facts else None), read_inputs(lake, inputs)
    if before is None or now is None or any(before[part] != now[part] for part in ("version", "settings")):
        return 0
    held, wanted = (parts["upstream"].get("candidates", {}) for parts in (before, now))
    count = len(held)
    return count if count < len(files) and list(held.items()) == [(f, wanted.get(f)) for f in files[:count]] else 0


def mine_pairs(lake: Lake, shard: str, settings: MineSettings, inputs: str, wanting: Wanting | None = None) -> Facts:
    """Choose targets and hard negatives for the images of ``shard``.

    Reads the shard's neighbours, the bands in the notes of its candidates, the leaks, and captions from the shards that the
    neighbours point to. Vectors are read by row, of images in pairs whose score neither a list nor the partition of before has
    (:mod:`mmret.mine.lake_scores`), and to tell near-duplicates only where the candidates' lists cannot
    (:mod:`mmret.mine.above_band`). Memory: the neighbours, the edges above the band between their images, and the vectors of a
    block of pairs. The note ``linked_shards`` lists the shards of the pairs' images. ``wanting``: pictures that a score keeps out.
    Raises UserError for vectors of different models.

    >>> mine_pairs(lake, "shard-00000", profile.mine, fingerprint).notes["linked_shards"]
    """
    linked = linked_shards(lake, "neighbours", shard)
    vectors = check_one_model(lake, linked, SIGNALS)
    bands, lists = mined_bands(lake, shard), lake.read("neighbours", shard)
    images = read_images_of(lake, lists, ("caption", "shard"), linked)
    numbered = NumberedImages(images)
    score = LakeScores(lake, vectors, numbered, lists, _scored_before(lake, shard, inputs))
    near = NearDuplicates(lake, numbered, proven(lake, shard, vectors, settings.k), bands, settings.k, score)
    retrieved = pa.concat_tables([lists, beyond_full_lists(lists, near, bands, settings.k)])
    leaked = lake.read("leaks", columns=["image_id"])["image_id"]
    found = _without(retrieved, leaked)
    kept_out = {"benchmark_picture": retrieved.num_rows - found.num_rows}
    if settings.duplicates == "one_of_group":
        others = lake.read("duplicates", columns=["image_id"], filters=~pc.field("first"))["image_id"]
        before, found = found.num_rows, _without(found, others)
        kept_out["not_first_of_its_duplicates"] = before - found.num_rows
    for reason, pictures in (wanting(linked) if wanting else {}).items():
        before, found = found.num_rows, _without(found, pictures)
        kept_out[reason] = before - found.num_rows
    chosen, reasons = choose(found, images, score, settings, bands, near)
    reasons |= {reason: rows for reason, rows in kept_out.items() if rows}
    paired = images.filter(pc.is_in(images["image_id"], value_set=image_ids(chosen)))
    notes = {
        "queries": pc.count_distinct(chosen["query_id"]).as_py(),
        "images": lake.facts("images", shard).rows,
        "reasons": reasons,
        LINKED: sorted(pc.unique(paired["shard"]).to_pylist()),
    }
    return lake.write("pairs", shard, chosen, inputs, **notes)


def _scored_before(lake: Lake, shard: str, inputs: str) -> ScoredPairs | None:
    """The pairs that are there, where their recorded inputs tell what vectors they were computed from."""
    facts = lake.facts("pairs", shard)
    before, now = (read_inputs(lake, facts.inputs) if facts else None), read_inputs(lake, inputs)
    if before is None or now is None or before["version"] != now["version"]:
        return None
    held, wanted = (parts["upstream"] for parts in (before, now))
    unchanged = {
        signal: {s for s, content in wanted.get(signal, {}).items() if held.get(signal, {}).get(s) == content} for signal in SIGNALS
    }
    return ScoredPairs(lake.read("pairs", shard, ["query_id", "target_id", *SCORES]), unchanged)


def _without(neighbours: pa.Table, pictures: pa.ChunkedArray) -> pa.Table:
    """The rows of which neither side is one of ``pictures``."""
    return neighbours.filter(pc.invert(pc.or_(*(pc.is_in(neighbours[side], pictures) for side in ("query_id", "target_id")))))
