"""A lake that has nothing but images' ids, captions and vectors: what mining reads, in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from mmret.freshness.fingerprints import inputs_of
from mmret.ingest.pictures.pair_images import read_images_of
from mmret.lake import Lake
from mmret.lake.inputs import linked_shards, record_inputs
from mmret.mine.choose import choose
from mmret.mine.lake_bands import mined_bands
from mmret.mine.lake_vectors import shard_vectors
from mmret.mine.negatives import beyond_full_lists
from mmret.mine.scores import pair_scores
from mmret.mine.stage import mine_candidates, mine_neighbours, mine_pairs
from mmret.schemas import CORPUS_MANIFEST, IMAGES_INDEX, LEAKS, TABLES, TOWERS
from mmret.schemas import vectors as vector_schema
from mmret.settings import MineSettings, Profile

MODEL = "tests@1+none"


def filled(schema: pa.Schema, columns: Mapping[str, Sequence]) -> pa.Table:
    """``columns``, the others null."""
    rows = len(next(iter(columns.values())))
    return pa.table([columns.get(f.name, pa.nulls(rows, f.type)) for f in schema], schema=schema)


def add_shard(lake: Lake, shard: str, ids: Sequence[str], vectors: Mapping[str, np.ndarray], model: str = MODEL) -> None:
    """Write what encoding leaves of ``shard``."""
    lake.write("corpus_manifest", shard, filled(CORPUS_MANIFEST, {"shard": [shard] * len(ids), "image_id": ids}), "x")
    lake.write("images", shard, filled(IMAGES_INDEX, {"image_id": ids, "shard": [shard] * len(ids), "caption": ids}), "x")
    if lake.facts("leaks", "all") is None:
        lake.write("leaks", "all", LEAKS.empty_table(), "x")
        lake.write("towers", "all", TOWERS.empty_table(), "x")
    for signal, values in vectors.items():
        width = values.shape[1]
        schema = TABLES[signal]
        index = {"image_id": ids, "shard": [shard] * len(ids), "model": [model] * len(ids), "truncated": [False] * len(ids)}
        rows = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)
        lake.lance(signal, vector_schema(width)).add(pa.table([*map(pa.array, index.values()), rows], schema=vector_schema(width)))
        lake.write(signal, shard, filled(schema, index), "x", model=model, width=width, truncated=0)


def mine_what_is_stale(lake: Lake, profile: Profile) -> list[tuple[str, str]]:
    """Mine as `mmret run` does, partition by partition where it is missing or stale, with recorded inputs; what was computed."""
    computed = []
    for tables in (("candidates",), ("neighbours", "pairs")):
        for shard in lake.shards():
            for table in tables:
                inputs, facts = inputs_of(lake, profile, table, shard), lake.facts(table, shard)
                if facts is not None and facts.inputs == inputs.fingerprint:
                    continue
                record_inputs(lake, inputs)
                compute(lake, profile.mine, table, shard, inputs.fingerprint)
                computed.append((table, shard))
    return computed


def compute(lake: Lake, settings: MineSettings, table: str, shard: str, inputs: str) -> None:
    """One partition of a mining stage, its bands being set."""
    if table == "candidates":
        mine_candidates(lake, shard, settings, inputs, no_encoder)
    else:
        {"neighbours": mine_neighbours, "pairs": mine_pairs}[table](lake, shard, settings, inputs)


def no_encoder(signal: str) -> None:
    raise AssertionError(f"the encoder of {signal} was loaded")


def pairs_by_reading_every_shard(lake: Lake, shard: str, settings: MineSettings) -> pa.Table:
    """The pairs of a shard by the vectors of all shards that its neighbours point to: what :func:`mine_pairs` has to equal."""
    linked = linked_shards(lake, "neighbours", shard)

    def score(pairs: pa.Table) -> pa.Table:
        return pair_scores(pairs, (shard_vectors(lake, s) for s in linked))

    bands, lists = mined_bands(lake, shard), lake.read("neighbours", shard)
    found = pa.concat_tables([lists, beyond_full_lists(lists, score, bands, settings.k)])
    return choose(found, read_images_of(lake, found, ("caption", "shard"), linked), score, settings, bands)[0]
