"""Embeddings: the similarity models, and one vector table per signal (paper, section 3.1)."""

import dagster as dg

from assets.graph import stage_asset
from assets.materialize import TRANSIENT, materialize, materialize_whole
from mmret.lake import Facts, Lake
from mmret.settings import Profile
from resources.encoders import Encoders
from resources.lake import LakeResource, ProfileResource


@stage_asset("towers", kinds={"pytorch"}, retry_policy=TRANSIENT)
def towers(context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource) -> dg.MaterializeResult:
    """Tiny CLIP and DINOv2-shaped towers trained on the corpus itself (profile `demo`), with the band each space proposes.

    Trained once and pinned: a grown corpus does not train them again, for every vector would become stale.
    """
    from mmret.towers.stage import train_towers

    return materialize_whole(
        context, lake, profile, "towers", lambda store, settings, _, inputs: train_towers(store, settings, inputs)
    )


def _vectors(signal: str, description: str, kinds: set[str]) -> dg.AssetsDefinition:
    """The asset of one vector table. The three differ in the model, and in whether it embeds pictures or captions."""

    @stage_asset(signal, kinds={"lancedb", *kinds}, description=description, retry_policy=TRANSIENT)
    def vectors(
        context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource, encoders: Encoders
    ) -> dg.MaterializeResult:
        from mmret.encode.stage import encode_shard

        def compute(store: Lake, settings: Profile, shard: str, inputs: str) -> tuple[Facts, int]:
            spec = settings.encoders[signal]
            counts = encode_shard(store, shard, signal, spec, inputs, encoders.get(spec, signal, store.storage))
            return store.facts(signal, shard), counts["computed"]

        return materialize(context, lake, profile, signal, compute)

    return vectors


clip_image = _vectors("clip_image", "Visual-semantic vectors: the CLIP image tower.", {"pytorch"})
dino_image = _vectors("dino_image", "Visual-pattern vectors: DINOv2.", {"pytorch"})
caption = _vectors("caption", "Caption vectors: a text tower, or the words that captions share (tf-idf).", {"pytorch"})
