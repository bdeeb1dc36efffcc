"""Annotation: a description of every pair, instructions from it, and the triplets assembled from both."""

import base64

import dagster as dg

from assets.automation import fill_missing
from assets.metadata import OWNERS, column_schema
from assets.mining import pairs
from assets.partitions import SHARDS_PER_RUN, corpus_shards, every_shard
from assets.stage import TRANSIENT, materialize
from mmret.lake import Lake
from resources.annotator import AnnotatorResource
from resources.lake import LakeResource, ProfileResource

SHARD = {"partitions_def": corpus_shards, "owners": OWNERS, "group_name": "annotation", "backfill_policy": SHARDS_PER_RUN,
         "automation_condition": fill_missing(), "kinds": {"parquet"}}


@dg.asset(**SHARD, deps=[pairs, dg.AssetDep("images", partition_mapping=every_shard)], pool="vlm", retry_policy=TRANSIENT,
          metadata={"dagster/column_schema": column_schema("descriptions")})
def descriptions(context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource,
                 annotator: AnnotatorResource) -> dg.MaterializeResult:
    """What source and target share and where they differ, one text per pair (paper, section 3.2: the VLM's step)."""
    from mmret.annotate.shards import describe_shard

    return materialize(context, lake, profile, "descriptions", lambda store, settings, shard, inputs:
                       describe_shard(store, shard, annotator.get(settings.annotate), settings.annotate, inputs))


@dg.asset(**SHARD, deps=[descriptions, pairs], pool="vlm", retry_policy=TRANSIENT,
          metadata={"dagster/column_schema": column_schema("instructions")})
def instructions(context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource,
                 annotator: AnnotatorResource) -> dg.MaterializeResult:
    """Three or more instructions that lead from source to target, one row per pair (paper, section 3.2: the LLM's step)."""
    from mmret.annotate.shards import instruct_shard

    return materialize(context, lake, profile, "instructions", lambda store, settings, shard, inputs:
                       instruct_shard(store, shard, annotator.get(settings.annotate), settings.annotate, inputs))


@dg.asset(**SHARD, deps=[pairs, descriptions, instructions], pool="lake",
          metadata={"dagster/column_schema": column_schema("triplets")})
def triplets(context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource) -> dg.MaterializeResult:
    """The training set: query, instructions, target, hard negatives (the query image first), and the lineage of each row."""
    from mmret.annotate.shards import assemble_shard

    made = materialize(context, lake, profile, "triplets", lambda store, settings, shard, inputs:
                       assemble_shard(store, shard, settings.evaluate, inputs))
    for shard in context.partition_keys:
        context.add_asset_metadata({"samples": samples(lake.open(), shard)}, partition_key=shard)
    return made


def samples(store: Lake, shard: str) -> dg.MarkdownMetadataValue:
    """A few triplets of a shard with their pictures."""
    from mmret.contact_sheet import contact_sheet
    from mmret.ingest.images import images_by_id

    rows = store.head("triplets", shard, 200).to_pylist()[::40]
    if not rows:
        return dg.MetadataValue.md("no triplets in this shard")
    sheet = base64.b64encode(contact_sheet(rows, lambda ids: images_by_id(store, ids))).decode()
    return dg.MetadataValue.md(f"![source, instructions, target](data:image/jpeg;base64,{sheet})")
