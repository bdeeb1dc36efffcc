"""Jobs: the stages one shard goes through, and training. Partitioned, so that the UI can backfill any of their partitions."""

import dagster as dg

from assets.partitions import corpus_shards, recipes

SHARD_STAGES = (dg.AssetSelection.groups("corpus", "embeddings", "mining", "annotation")
                - dg.AssetSelection.assets("corpus_manifest", "towers"))

JOBS = [
    dg.define_asset_job("seal_corpus", dg.AssetSelection.assets("corpus_manifest"),
                        description="List the sources and register new shards."),
    dg.define_asset_job("train_towers", dg.AssetSelection.assets("towers"),
                        description="Train the demo's similarity models on the corpus, once."),
    dg.define_asset_job("synthesise", SHARD_STAGES, partitions_def=corpus_shards,
                        description="From pictures to triplets, shard by shard."),
    dg.define_asset_job("train_and_evaluate", dg.AssetSelection.groups("training"), partitions_def=recipes,
                        description="One retriever per recipe, with its evaluation."),
    dg.define_asset_job("verify", dg.AssetSelection.all_asset_checks(), description="Every asset check over the whole lake."),
]

automation = dg.AutomationConditionSensorDefinition(
    "fill_missing_shards", target=SHARD_STAGES, default_status=dg.DefaultSensorStatus.STOPPED,
    description="Carries new shards through every stage up to triplets. Switch it on to run without a hand.")
