"""Training and evaluation: one checkpoint per recipe, measured beside the untrained model on the same gallery."""

import dagster as dg

from assets.metadata import OWNERS, column_schema
from assets.partitions import every_shard, recipes
from assets.stage import materialize
from resources.lake import LakeResource, ProfileResource

RECIPE = {"partitions_def": recipes, "owners": OWNERS, "code_version": "1", "group_name": "training", "kinds": {"pytorch"}}


@dg.asset(**RECIPE, deps=[dg.AssetDep("triplets", partition_mapping=every_shard), "towers"], pool="gpu",
          metadata={"dagster/column_schema": column_schema("checkpoints")})
def checkpoints(context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource) -> dg.MaterializeResult:
    """A trained retriever: a folder that stock transformers loads, with its training log and the recipe it came from."""
    from mmret.retriever.recipes import train_recipe

    return materialize(context, lake, profile, "checkpoints", lambda store, settings, recipe, inputs:
                       train_recipe(store, recipe, settings.recipes[recipe], inputs))


@dg.asset(**RECIPE, deps=[checkpoints, *(dg.AssetDep(t, partition_mapping=every_shard) for t in ("images", "triplets"))],
          pool="gpu",
          metadata={"dagster/column_schema": column_schema("evaluations")})
def evaluations(context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource) -> dg.MaterializeResult:
    """Composed retrieval over the whole corpus, trained and untrained, on queries that were kept out of training."""
    from mmret.benchmarks.lake import evaluate_recipe

    return materialize(context, lake, profile, "evaluations", lambda store, settings, recipe, inputs:
                       evaluate_recipe(store, recipe, settings.recipes[recipe], settings.evaluate, inputs))
