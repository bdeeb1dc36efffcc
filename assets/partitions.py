"""Partition sets. A shard is a sealed, append-only slice of the corpus; a recipe is one training run described by data.

Shards are registered by ``corpus_manifest`` when it seals them (Dagster has no command that adds a dynamic partition).
Recipes come from the profile, so a changed profile shows after the code location is reloaded.
"""

import dagster as dg

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.configuration import DEFAULT_PROFILE
from mmret.settings import load_profile
from resources.lake import lake_folder

corpus_shards = dg.DynamicPartitionsDefinition(name="corpus_shards")


def _recipe_names() -> list[str]:
    configuration = Lake(lake_folder()).read_configuration()
    try:
        return list(load_profile(configuration.get("profile", DEFAULT_PROFILE), configuration.get("overrides")).recipes)
    except UserError:  # a lake whose settings no longer load must still open in the UI; its runs say what is wrong
        return list(load_profile(DEFAULT_PROFILE).recipes)


recipes = dg.StaticPartitionsDefinition(_recipe_names())

PARTITIONS: dict[str, dg.PartitionsDefinition | None] = {"whole": None, "shard": corpus_shards, "recipe": recipes}
"""The partitions of a stage's assets by ``partitions`` in the stage table."""

every_shard = dg.AllPartitionMapping()
"""Fan-in: a partition that reads every shard there is (candidates of earlier shards, training sets)."""
