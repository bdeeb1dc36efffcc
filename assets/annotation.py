"""Annotation: a description of every pair, instructions from it, the triplets assembled from both, and rows of the other tasks."""

import base64

import dagster as dg

from assets.display.metadata import has_charts
from assets.graph import stage_asset
from assets.materialize import TRANSIENT, materialize
from mmret.lake import Facts, Lake
from mmret.settings import Profile
from resources.annotator import AnnotatorResource
from resources.encoders import Encoders
from resources.lake import LakeResource, ProfileResource


@stage_asset("descriptions", kinds={"parquet"}, retry_policy=TRANSIENT)
def descriptions(
    context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource, annotator: AnnotatorResource
) -> dg.MaterializeResult:
    """What source and target share and where they differ, one text per pair (paper, section 3.2: the VLM's step)."""
    from mmret.annotate.stage import describe_shard

    result = materialize(
        context,
        lake,
        profile,
        "descriptions",
        lambda store, settings, shard, inputs: describe_shard(
            store, shard, annotator.get(settings.annotate, "descriptions"), settings.annotate, inputs
        ),
    )
    return with_time_left(context, lake, "descriptions", result)


@stage_asset("instructions", kinds={"parquet"}, retry_policy=TRANSIENT)
def instructions(
    context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource, annotator: AnnotatorResource
) -> dg.MaterializeResult:
    """Three or more instructions that lead from source to target, one row per pair (paper, section 3.2: the LLM's step)."""
    from mmret.annotate.stage import instruct_shard

    result = materialize(
        context,
        lake,
        profile,
        "instructions",
        lambda store, settings, shard, inputs: instruct_shard(
            store, shard, annotator.get(settings.annotate, "instructions"), settings.annotate, inputs
        ),
    )
    return with_time_left(context, lake, "instructions", result)


def with_time_left(
    context: dg.AssetExecutionContext, lake: LakeResource, table: str, result: dg.MaterializeResult
) -> dg.MaterializeResult:
    """``result``, whose last partition also shows how long the shards that are mined and not yet annotated will take."""
    from mmret.annotate.stage import seconds_left

    last = context.partition_keys[-1]
    left = seconds_left(lake.open(), table, last)
    if left is not None:
        context.add_asset_metadata({"seconds_left_for_mined_shards": left}, partition_key=last)
    return result


@stage_asset("triplets", kinds={"parquet"})
def triplets(
    context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource, encoders: Encoders
) -> dg.MaterializeResult:
    """The training set: query, instructions, target, hard negatives (the query image first), and the lineage of each row."""
    from mmret.annotate.quality.measure import measure_shard, reading_signal
    from mmret.assemble.stage import assemble_shard

    def compute(store: Lake, settings: Profile, shard: str, inputs: str) -> Facts:
        reads = reading_signal(settings)
        return assemble_shard(
            store,
            shard,
            settings.evaluate,
            inputs,
            lambda rows: measure_shard(
                store, shard, rows, settings, lambda: encoders.get(settings.encoders[reads], reads, store.storage)
            ),
        )

    result = materialize(context, lake, profile, "triplets", compute)
    store = lake.open()
    limits = profile.of(store).quality.model_dump()
    for shard in context.partition_keys:
        context.add_asset_metadata({"samples": samples(store, shard)}, partition_key=shard)
        if has_charts(store, shard):
            context.add_asset_metadata({"quality_picture": quality(store, shard, limits)}, partition_key=shard)
    return result


@stage_asset("tasks", kinds={"parquet"})
def tasks(context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource) -> dg.MaterializeResult:
    """Training rows of every other kind of query: text to image, image to text, image to image, text to text, and with captions."""
    from mmret.assemble.stage import make_tasks
    from mmret.score.stage import found_wanting

    return materialize(
        context,
        lake,
        profile,
        "tasks",
        lambda store, settings, shard, inputs: make_tasks(
            store, shard, settings.evaluate, inputs, lambda shards: found_wanting(store, shards, settings.scores)
        ),
    )


def samples(store: Lake, shard: str) -> dg.MarkdownMetadataValue:
    """A few triplets of a shard with their pictures."""
    from assets.display.contact_sheet import contact_sheet
    from mmret.ingest.pictures.images import images_by_id

    rows = store.head("triplets", shard, 200).to_pylist()[::40]
    if not rows:
        return dg.MetadataValue.md("no triplets in this shard")
    return picture("source, instruction, target", "jpeg", contact_sheet(rows, lambda ids: images_by_id(store, ids)))


def quality(store: Lake, shard: str, limits: dict[str, float]) -> dg.MarkdownMetadataValue:
    """Lengths, variety, leakage and modality redundancy of a shard's texts, as a picture."""
    from mmret.annotate.quality.picture import quality_picture

    measured = store.facts("triplets", shard).notes.get("quality")
    if not measured:
        return dg.MetadataValue.md("not measured; `mmret quality` measures it")
    return picture("quality of the texts", "png", quality_picture(measured, limits))


def picture(name: str, kind: str, data: bytes) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![{name}](data:image/{kind};base64,{base64.b64encode(data).decode()})")
