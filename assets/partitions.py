"""Partition sets. A shard is a sealed, append-only slice of the corpus; a recipe is one training run described by data.

Both are the lake's and not the code's: they are registered with a Dagster instance by whoever seals the corpus
(``corpus_manifest``, `mmret run`), and for a lake that this instance has not seen yet by the sensor ``known_partitions``.
"""

from collections.abc import Iterable

import dagster as dg

corpus_shards = dg.DynamicPartitionsDefinition(name="corpus_shards")

recipes = dg.DynamicPartitionsDefinition(name="recipes")

PARTITIONS: dict[str, dg.PartitionsDefinition | None] = {"whole": None, "shard": corpus_shards, "recipe": recipes}
"""The partitions of a stage's assets by ``partitions`` in the stage table."""

every_shard = dg.AllPartitionMapping()
"""Fan-in: a partition that reads every shard there is (candidates of earlier shards, training sets)."""


def register(instance: dg.DagsterInstance, shards: Iterable[str], names: Iterable[str]) -> list[str]:
    """Make the lake's shards and the recipes ``names`` partitions of ``instance``; returns the recipes taken out again.

    A recipe that the settings no longer have is no partition: a backfill of all of them could not train it. Its history stays.
    """
    shards, names = list(shards), list(names)
    instance.add_dynamic_partitions(corpus_shards.name, shards)
    instance.add_dynamic_partitions(recipes.name, names)
    gone = [name for name in instance.get_dynamic_partitions(recipes.name) if name not in names]
    for name in gone:
        instance.delete_dynamic_partition(recipes.name, name)
    return gone
