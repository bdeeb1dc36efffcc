"""A sensor, switched on by default, that makes a lake's shards and recipes partitions of the Dagster instance that serves it.

So a lake made by `mmret run`, by an earlier version or with another instance opens with all its partitions, and a recipe that was
added to the settings or taken out shows without a person doing anything. A tick costs reading ``lake.yaml`` and a list of files.
"""

import dagster as dg

from assets.partitions import corpus_shards, recipes
from mmret.errors import UserError
from mmret.lake.configuration import resolve
from mmret.lake.lease import is_leased
from resources.declared import Declarations
from resources.lake import LakeResource


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Registers the lake's shards and recipes as partitions. Launches nothing.",
)
def known_partitions(
    context: dg.SensorEvaluationContext, lake: LakeResource, declared: Declarations
) -> dg.SensorResult | dg.SkipReason:
    """Register what the lake has and this instance does not know; take out recipes that the settings no longer have."""
    store = lake.open()
    if is_leased(store):
        return dg.SkipReason("`mmret run` registers its own")
    try:
        names = list(resolve(store)[0].recipes)
    except UserError as error:  # a lake whose settings do not load still opens in the UI; its runs say what is wrong
        return dg.SkipReason(str(error))
    known = {each.name: context.instance.get_dynamic_partitions(each.name) for each in (corpus_shards, recipes)}
    shards = [shard for shard in store.shards() if shard not in known[corpus_shards.name]]
    new = [name for name in names if name not in known[recipes.name]]
    gone = [name for name in known[recipes.name] if name not in names]
    requests = [corpus_shards.build_add_request(shards)] if shards else []
    requests += [recipes.build_add_request(new)] if new else []
    requests += [recipes.build_delete_request(gone)] if gone else []
    if requests:
        return dg.SensorResult(dynamic_partitions_requests=requests)
    if waiting := declared.unknown_to(store):
        said = f"declared, and not yet in the lake: {', '.join(waiting)}"
        return dg.SkipReason(f"{said}. Materialise corpus_manifest (job seal_corpus)")
    return dg.SkipReason("all partitions are known")
