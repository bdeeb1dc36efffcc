"""Mining: the candidate edges of a shard, the neighbours of every image, merged from them, and the pairs chosen."""

import base64

import dagster as dg

from assets.display.metadata import has_charts
from assets.graph import stage_asset
from assets.materialize import TRANSIENT, materialize, materialize_whole
from mmret.lake import Lake
from resources.encoders import Encoders
from resources.lake import LakeResource, ProfileResource


@stage_asset("candidates", kinds={"pytorch", "parquet"})
def candidates(
    context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource, encoders: Encoders
) -> dg.MaterializeResult:
    """Exact in-band edges between this shard and itself and every earlier one, for both sides: N x dN comparisons."""
    from mmret.mine.stage import mine_candidates

    return materialize(
        context,
        lake,
        profile,
        "candidates",
        lambda store, settings, shard, inputs: mine_candidates(
            store, shard, settings.mine, inputs, lambda signal: encoders.get(settings.encoders[signal], signal, store.storage)
        ),
    )


@stage_asset("neighbours", kinds={"parquet"})
def neighbours(context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource) -> dg.MaterializeResult:
    """The k nearest images inside the band for every image and signal, merged from all candidate files that speak of them."""
    from mmret.mine.stage import mine_neighbours

    made = materialize(
        context,
        lake,
        profile,
        "neighbours",
        lambda store, settings, shard, inputs: mine_neighbours(store, shard, settings.mine, inputs),
    )
    for shard in context.partition_keys:
        if has_charts(lake.open(), shard):
            context.add_asset_metadata({"bands": band_picture(lake.open(), profile, shard)}, partition_key=shard)
    return made


def band_picture(store: Lake, profile: ProfileResource, shard: str) -> dg.MarkdownMetadataValue:
    """A picture of the scores and the band of each signal, and of how many pairs the signals found together."""
    from mmret.mine.band_report import plot
    from mmret.mine.lake_bands import lake_report

    image = base64.b64encode(plot(lake_report(store, profile.of(store).mine, [shard]))).decode()
    return dg.MetadataValue.md(f"![scores, bands and agreement of the signals](data:image/png;base64,{image})")


@stage_asset("duplicates", kinds={"parquet"})
def duplicates(context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource) -> dg.MaterializeResult:
    """Groups of near-duplicates, above the bands of the models of pictures (setting `duplicates`); exact copies are rejects."""
    from mmret.mine.stage import mine_duplicates

    return materialize_whole(
        context,
        lake,
        profile,
        "duplicates",
        lambda store, settings, _, inputs: mine_duplicates(store, settings.duplicates, inputs),
    )


@stage_asset("scores", kinds={"pytorch", "parquet"}, retry_policy=TRANSIENT)
def scores(context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource) -> dg.MaterializeResult:
    """Quality and safety of every picture by the scorers of setting `scores`; without any there is nothing to compute."""
    from mmret.score.stage import score_shard

    return materialize(
        context,
        lake,
        profile,
        "scores",
        lambda store, settings, shard, inputs: score_shard(store, shard, settings.scores, inputs),
    )


@stage_asset("leaks", kinds={"parquet"})
def leaks(context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource) -> dg.MaterializeResult:
    """Pictures of the corpus that a benchmark is measured with (setting `leaks.benchmarks`); they are kept out of pairs."""
    from mmret.leaks.stage import write_leaks

    return materialize_whole(
        context, lake, profile, "leaks", lambda store, settings, _, inputs: write_leaks(store, settings, inputs)
    )


@stage_asset("pairs", kinds={"parquet"})
def pairs(context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource) -> dg.MaterializeResult:
    """Targets and hard negatives of every query image, with all three scores and the signals that found them."""
    from mmret.mine.stage import mine_pairs
    from mmret.score.stage import found_wanting

    made = materialize(
        context,
        lake,
        profile,
        "pairs",
        lambda store, settings, shard, inputs: mine_pairs(
            store, shard, settings.mine, inputs, lambda shards: found_wanting(store, shards, settings.scores)
        ),
    )
    for shard in context.partition_keys:
        if has_charts(lake.open(), shard) and (table := changes_table(lake.open(), shard)):
            context.add_asset_metadata({"changes": table}, partition_key=shard)
    return made


def changes_table(store: Lake, shard: str) -> dg.MarkdownMetadataValue | None:
    """What the pairs of ``shard`` change, as their captions tell: kinds of words and shares; None where it has no pairs."""
    from mmret.annotate.quality.coverage import kinds_shown, lake_coverage, sentences
    from mmret.export.markdown import plain, table

    found = lake_coverage(store, [shard])
    if found is None:
        return None
    rows = [[plain(name), f"{100 * there:.1f}", f"{100 * one_sided:.1f}"] for name, there, one_sided in kinds_shown(found)]
    parts = [table(["kind of words", "replaced in % of the pairs", "added or removed in %"], rows), *map(plain, sentences(found))]
    return dg.MetadataValue.md("\n\n".join(part for part in parts if part))
