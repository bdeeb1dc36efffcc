"""Training and evaluation: one checkpoint per recipe, measured beside the untrained model on the same gallery."""

import base64
from functools import partial

import dagster as dg

from assets.external_training.launch import train_on_cluster, train_outside
from assets.graph import stage_asset
from assets.materialize import materialize
from mmret.lake import Facts, Lake
from mmret.settings import Profile
from resources.lake import LakeResource, ProfileResource


@stage_asset("checkpoints", kinds={"pytorch"})
def checkpoints(context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource) -> dg.MaterializeResult:
    """A trained retriever: a folder that stock transformers loads, with its training log and the recipe it came from."""
    from mmret.retriever.train.log import log_line
    from mmret.retriever.train.stage import TrainingJob, train_on_lake, train_recipe

    def compute(store: Lake, settings: Profile, name: str, inputs: str) -> Facts:
        job = TrainingJob.of(store, settings, name)
        inside = partial(train_on_lake, on_row=lambda row: context.log.info(log_line(row)))
        elsewhere = partial(train_outside, context) if job.recipe.outside else inside
        return train_recipe(job, inputs, partial(train_on_cluster, context) if job.recipe.workers else elsewhere)

    made = materialize(context, lake, profile, "checkpoints", compute)
    for name in context.partition_keys:
        context.add_asset_metadata({"training": curve(lake.open(), name)}, partition_key=name)
    return made


def curve(store: Lake, name: str) -> dg.MarkdownMetadataValue:
    """Loss and held-out recall over the steps of a recipe's training."""
    from mmret.retriever.train.log import LOG, plot_log
    from mmret.retriever.train.stage import checkpoint_folder

    folder = checkpoint_folder(store, name)
    if not (folder / LOG).is_file():
        return dg.MetadataValue.md("no training log")
    picture = base64.b64encode(plot_log(folder)).decode()
    return dg.MetadataValue.md(f"![loss and held-out recall](data:image/png;base64,{picture})")


@stage_asset("evaluations", kinds={"pytorch"})
def evaluations(context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource) -> dg.MaterializeResult:
    """Every kind of query over the whole corpus, trained and untrained, on pictures that were kept out of training."""
    from mmret.benchmarks.stage import evaluate_recipe
    from mmret.export.model_card import with_model_card

    made = materialize(
        context,
        lake,
        profile,
        "evaluations",
        lambda store, settings, recipe, inputs: with_model_card(
            store, settings, recipe, evaluate_recipe(store, settings, recipe, inputs)
        ),
    )
    for name in context.partition_keys:
        context.add_asset_metadata({"every_kind_of_query": directions(lake.open(), name)}, partition_key=name)
    return made


def directions(store: Lake, name: str) -> dg.MarkdownMetadataValue:
    """Every kind of query before and after a recipe's training, strongest first."""
    from mmret.benchmarks.figures import by_direction, markdown, nest

    return dg.MetadataValue.md(markdown(by_direction(nest(store.read("evaluations", name).to_pylist()), name), name))
