"""Jobs by stage, and from pictures to triplets. Partitioned, so that the UI can backfill any of their partitions."""

from functools import partial

import dagster as dg

from assets.automation.upkeep import compact
from assets.partitions import corpus_shards, recipes
from mmret.stages import assets_of, names_of

SHARDS = dg.AssetSelection.assets(*assets_of(names_of("shard")))
UP_TO_TRIPLETS = SHARDS | dg.AssetSelection.assets(*names_of("whole"))
"""Everything that is computed from the corpus; training waits for people or for enough new pairs."""


seal_corpus = dg.define_asset_job(
    "seal_corpus",
    dg.AssetSelection.assets(*assets_of(["corpus_manifest"])),
    description="List the sources and register new shards.",
)

stale_shards = dg.define_asset_job(
    "stale_shards",
    UP_TO_TRIPLETS,
    description="What the schedule launches: any stages up to triplets and tasks, over a range of shards.",
)


_shard_job = partial(dg.define_asset_job, partitions_def=corpus_shards)

JOBS = [
    seal_corpus,
    _shard_job(
        "ingest",
        dg.AssetSelection.assets(*assets_of(["written_captions", "images"])),
        description="Read, check and store the pictures of a shard.",
    ),
    dg.define_asset_job(
        "train_towers", dg.AssetSelection.assets("towers"), description="Train the demo's similarity models on the corpus, once."
    ),
    _shard_job("encode", SHARDS & dg.AssetSelection.groups("embeddings"), description="The three vector tables of a shard."),
    _shard_job("mine", dg.AssetSelection.groups("mining"), description="Candidates, neighbours and pairs of a shard."),
    _shard_job(
        "annotate", dg.AssetSelection.groups("annotation"), description="Descriptions, instructions, triplets and tasks of a shard."
    ),
    _shard_job(
        "synthesise",
        SHARDS | dg.AssetSelection.assets("duplicates", "leaks"),
        description="From pictures to triplets, shard by shard.",
    ),
    dg.define_asset_job(
        "train_and_evaluate",
        dg.AssetSelection.groups("training"),
        partitions_def=recipes,
        description="One retriever per recipe, with its evaluation.",
    ),
    dg.define_asset_job("verify", dg.AssetSelection.all_asset_checks(), description="Every asset check over the whole lake."),
    stale_shards,
    compact,
]
