"""Corpus: what the sources hold, sealed into shards, and the pictures themselves with those that could not be taken."""

from collections.abc import Iterator

import dagster as dg

from assets.automation.conditions import fill_missing
from assets.display.metadata import OWNERS, column_schema, describe
from assets.materialize import current_or_compute
from assets.partitions import SHARDS_PER_RUN, corpus_shards
from mmret.hashing import fingerprint
from mmret.lake import Facts, Lake
from mmret.lake.configuration import resolve
from mmret.settings import Profile
from resources.lake import LakeResource, ProfileResource


class CorpusPlan(dg.Config):
    """Enlarge or shrink the corpus from the launchpad: sources added and removed are remembered by the lake."""

    sources: list[str] = []
    remove: list[str] = []
    images: int | None = None
    shard_size: int | None = None


@dg.asset(
    group_name="corpus",
    kinds={"parquet"},
    owners=OWNERS,
    code_version="1",
    metadata={"dagster/column_schema": column_schema("corpus_manifest")},
)
def corpus_manifest(
    context: dg.AssetExecutionContext, config: CorpusPlan, lake: LakeResource, profile: ProfileResource
) -> dg.MaterializeResult:
    """Every row of every source, sealed into fixed-size, append-only shards; registers the shards as partitions.

    A row that a removed source or a lowered `corpus.images` no longer takes stays where it is, with the reason.
    """
    from mmret.ingest.stage import seal_corpus

    store = lake.open()
    overrides = profile.overrides | ({"corpus.images": config.images} if config.images else {})
    settings, choices = resolve(
        store, sources=config.sources, shard_size=config.shard_size, overrides=overrides, remove=config.remove
    )
    store.choose(choices)
    sealed = seal_corpus(store, settings, fingerprint(choices["sources"]))
    shards = store.shards()
    context.instance.add_dynamic_partitions(corpus_shards.name, shards)
    rows = sum(store.facts("corpus_manifest", s).rows for s in shards)
    last = describe(store, "corpus_manifest", shards[-1], store.facts("corpus_manifest", shards[-1]), sealed.rows) if shards else {}
    last.pop("dagster/partition_row_count", None)
    return dg.MaterializeResult(
        metadata={
            **last,
            "dagster/row_count": rows,
            "rows_computed": sealed.rows,
            "shards": len(shards),
            "shards_reselected": sealed.reselected,
            "sources": dg.MetadataValue.json(list(settings.corpus.sources)),
        },
        data_version=dg.DataVersion(fingerprint(*(store.facts("corpus_manifest", s).digest for s in shards))),
    )


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            "images",
            deps=[corpus_manifest],
            group_name="corpus",
            kinds={"lancedb"},
            owners=OWNERS,
            code_version="1",
            description="One row per distinct picture: the file as found, its caption, size, licence and source.",
            metadata={"dagster/column_schema": column_schema("images")},
            automation_condition=fill_missing(),
        ),
        dg.AssetSpec(
            "rejects",
            deps=[corpus_manifest],
            group_name="corpus",
            kinds={"parquet"},
            owners=OWNERS,
            code_version="1",
            description="Every row that could not be taken, and why.",
            metadata={"dagster/column_schema": column_schema("rejects")},
            automation_condition=fill_missing(),
        ),
    ],
    partitions_def=corpus_shards,
    pool="lake",
    backfill_policy=SHARDS_PER_RUN,
)
def images(context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource) -> Iterator[dg.MaterializeResult]:
    """Read, check and store the pictures of a shard."""
    from mmret.ingest.stage import ingest_shard

    store = lake.open()
    settings = profile.of(store)
    done = {}

    def compute(_lake: Lake, _settings: Profile, shard: str, inputs: str) -> tuple[Facts, int]:
        counts = ingest_shard(store, shard, settings.ingest, inputs)
        return store.facts("images", shard), counts["computed"]

    for shard in context.partition_keys:
        facts, computed = current_or_compute(store, settings, "images", shard, compute)
        rejected = store.facts("rejects", shard)
        context.log.info(f"images {shard}: {facts.rows:,} taken, {rejected.rows:,} rejected, {computed:,} computed")
        done = {"images": facts, "rejects": rejected}
        for table, recorded in done.items():
            worked = min(computed, recorded.rows) if table == "rejects" else computed
            context.add_asset_metadata(describe(store, table, shard, recorded, worked), asset_key=table, partition_key=shard)
    alone = len(context.partition_keys) == 1
    for table, recorded in done.items():
        yield dg.MaterializeResult(asset_key=table, data_version=dg.DataVersion(recorded.digest) if alone else None)
