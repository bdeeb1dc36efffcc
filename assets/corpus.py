"""Corpus: what the sources hold, sealed into shards, what was remarked on the way, the pictures and those that cannot be taken."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from assets.display.metadata import describe
from assets.display.progress import telling
from assets.graph import stage_asset, stage_assets
from assets.materialize import TRANSIENT, current_or_compute, materialize
from assets.partitions import register
from mmret.hashing import fingerprint
from mmret.lake import Facts, Lake
from mmret.lake.configuration import resolve
from mmret.settings import Profile
from mmret.stages import UNPARTITIONED
from resources.annotator import AnnotatorResource
from resources.declared import Declarations
from resources.lake import LakeResource, ProfileResource


class CorpusPlan(dg.Config):
    """Enlarge or shrink the corpus from the launchpad. The lake remembers these settings, as it does those given to `mmret run`.

    For settings of one run only use the resource ``profile``.
    """

    sources: list[str] = []
    remove: list[str] = []
    images: int | None = None
    shard_size: int | None = None
    forget_missing: bool = Field(False, description="take out pictures that are gone from their sources, this once")
    settings: dict[str, Any] = Field({}, description="any other settings by dotted name, as of --set: {'mine.k': 20}")

    def arguments(self) -> dict[str, Any]:
        """The plan as arguments of :func:`mmret.lake.configuration.resolve`."""
        overrides = self.settings | ({"corpus.images": self.images} if self.images else {})
        return {"sources": self.sources, "shard_size": self.shard_size, "overrides": overrides, "remove": self.remove}


@stage_assets(
    "corpus_manifest",
    {
        "corpus_manifest": ("Every row of every source, sealed into fixed-size, append-only shards.", {"parquet"}),
        "remarks": ("What the sources hold that became no row, counted by kind, each with an example.", {"parquet"}),
    },
)
def corpus_manifest(
    context: dg.AssetExecutionContext,
    config: CorpusPlan,
    lake: LakeResource,
    profile: ProfileResource,
    declared: Declarations,
) -> Iterator[dg.MaterializeResult]:
    """List the sources, seal what is new, and register shards and recipes as partitions. What is declared for this lake in
    ``defs.yaml`` files becomes part of its settings first.

    A row that a removed source or a lowered `corpus.images` no longer takes stays where it is, with the reason. What a source says
    of sealed rows (captions, licences, names) is changed in their shards; what is gone stays, and is remarked.
    """
    from mmret.ingest.stage import seal_corpus

    store = lake.open()
    plan = declared.added_to(config.arguments(), store)
    settings = resolve(store, **plan | {"overrides": profile.overrides | plan["overrides"]})[0]
    remembered, configuration = resolve(store, **plan)
    store.write_configuration(configuration)
    with telling(context, "corpus_manifest", UNPARTITIONED):
        sealed = seal_corpus(store, settings, fingerprint(configuration["sources"]), config.forget_missing)
    noticed = store.read("remarks").to_pylist()
    for remark in noticed:
        context.log.info("{root}: {remark} {count:,} ({path}: {detail})".format_map(remark))
    missing = sum(remark["count"] for remark in noticed if remark["remark"] == "missing")
    shards = store.shards()
    if gone := register(context.instance, shards, remembered.recipes):
        context.log.info(f"no longer a recipe of this lake: {', '.join(gone)}")
    rows = sum(store.facts("corpus_manifest", s).rows for s in shards)
    worked = sealed.rows + sealed.changed_rows
    last = describe(store, "corpus_manifest", shards[-1], store.facts("corpus_manifest", shards[-1]), worked) if shards else {}
    last.pop("dagster/partition_row_count", None)
    yield dg.MaterializeResult(
        asset_key="corpus_manifest",
        metadata={
            **last,
            "dagster/row_count": rows,
            "rows_computed": worked,
            "rows_changed": sealed.changed_rows,
            "pictures_missing": missing,
            "shards": len(shards),
            "shards_reselected": sealed.changed_shards,
            "sources": dg.MetadataValue.json(list(settings.corpus.sources)),
        },
        data_version=dg.DataVersion(fingerprint(*(store.facts("corpus_manifest", s).digest for s in shards))),
    )
    yield _remarks(store)


def _remarks(lake: Lake) -> dg.MaterializeResult:
    """They are of the whole listing, so nothing of them counts as computed: a run that finds the same is no run."""
    facts = lake.facts("remarks", UNPARTITIONED)
    shown: dict[str, Any] = {"dagster/row_count": 0, "rows_computed": 0}
    if facts is not None:
        shown |= describe(lake, "remarks", UNPARTITIONED, facts, 0)
        shown["dagster/row_count"] = shown.pop("dagster/partition_row_count")
    return dg.MaterializeResult(
        asset_key="remarks", metadata=shown, data_version=dg.DataVersion(facts.digest if facts else fingerprint("no remarks"))
    )


@stage_asset("written_captions", kinds={"parquet"}, retry_policy=TRANSIENT)
def written_captions(
    context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource, annotator: AnnotatorResource
) -> dg.MaterializeResult:
    """Captions where the source gives none, or a poor one: found in file and names, or written by a model, each with its origin."""
    from mmret.captions.stage import write_captions

    return materialize(
        context,
        lake,
        profile,
        "written_captions",
        lambda store, settings, shard, inputs: write_captions(store, shard, settings, annotator.captioner, inputs),
    )


@stage_assets(
    "images",
    {
        "images": ("One row per distinct picture: the file as found, its caption, size, licence and source.", {"lancedb"}),
        "rejects": ("Every row that could not be taken, and why.", {"parquet"}),
    },
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
        with telling(context, "images", shard):
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
