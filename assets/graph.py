"""Derives from the stage table (:mod:`mmret.stages`) an asset's dependencies, partitions, pool, version and when it runs.

An asset itself says only what it is for and which function computes it.
"""

from collections.abc import Callable
from typing import Any

import dagster as dg

from assets.automation.conditions import CONDITIONS
from assets.dagster_internals.retries import LOST_NODE
from assets.display.installation import installation
from assets.display.metadata import column_schema, tags
from assets.display.source import code_references, linked
from assets.partitions import PARTITIONS, every_shard
from mmret.stage_declaration import Reads, Stage
from mmret.stages import STAGES, stage_of

POOL_OF = {"cpu": "lake", "gpu": "gpu", "vlm": "vlm"}
"""Concurrency pool (:mod:`assets.automation.pools`) by what a stage needs."""
SHARDS_PER_RUN = dg.BackfillPolicy.multi_run(4)
"""Four shards of a backfill share a run, because a run costs some ten seconds whatever it does and loads its models once. Not
more, because Dagster marks none of a failed run's shards as done (the lake does, so none of them is computed twice)."""


def dependencies(stage: Stage) -> list[dg.AssetDep]:
    """A dependency for each table that every partition of the stage reads: on the same shard, or on all where it reads others."""
    found: dict[str, dg.AssetDep] = {}
    for read in stage.reads:
        found.setdefault(read.table, dg.AssetDep(read.table, partition_mapping=_mapping(stage, read)))
    return list(found.values())


def _mapping(stage: Stage, read: Reads) -> dg.PartitionMapping | None:
    upstream = STAGES[read.table]
    fan_in = upstream.partitions == "shard" and (read.scope != "same" or stage.partitions != "shard")
    return every_shard if fan_in else None


def _placement(stage: Stage) -> dict[str, Any]:
    """How the stage's steps run: partitions, pool, what they take on a cluster, and shards of a backfill per run."""
    pool = None if stage.trigger == "first" else POOL_OF[stage.needs]  # listing the sources waits for nobody
    ray = {"num_cpus": stage.resources.cores} | ({"num_gpus": stage.resources.gpus} if stage.resources.gpus else {})
    placement: dict[str, Any] = {
        "partitions_def": PARTITIONS[stage.partitions],
        "pool": pool,
        "retry_policy": LOST_NODE,
        "op_tags": {"dagster-ray/config": ray},  # what nodes have and a shard's size come to it: assets.cluster.demand
    }
    return placement | ({"backfill_policy": SHARDS_PER_RUN} if stage.partitions == "shard" else {})


def _facts_of(table: str, kinds: set[str], function: Callable[..., Any]) -> dict[str, Any]:
    """What the UI shows of a table's asset, and when it runs by itself."""
    stage = stage_of(table)
    return {
        "group_name": stage.group,
        "kinds": kinds,
        "owners": installation().owners,
        "tags": tags(stage),
        "freshness_policy": installation().freshness_policy(table),
        "code_version": stage.version,
        "metadata": {"dagster/column_schema": column_schema(table), "dagster/code_references": code_references(function)},
        "automation_condition": CONDITIONS[stage.trigger],
    }


def stage_asset(name: str, kinds: set[str], **more: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Decorator: the asset of the stage ``name``. ``more``: arguments that are not in the table, such as retries.

    >>> @stage_asset("pairs", kinds={"parquet"})
    ... def pairs(context, lake, profile): ...
    """
    stage = STAGES[name]

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        facts = _facts_of(name, kinds, function)
        made = dg.asset(name=name, deps=dependencies(stage), **facts, **(_placement(stage) | more))(function)
        return linked(made, installation().source)

    return decorate


def stage_assets(name: str, tables: dict[str, tuple[str, set[str]]]) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Decorator: the assets of a stage that writes several tables, ``{table: (description, kinds)}``."""
    stage = STAGES[name]

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        specs = [
            dg.AssetSpec(table, deps=dependencies(stage), description=description, **_facts_of(table, kinds, function))
            for table, (description, kinds) in tables.items()
        ]
        return linked(dg.multi_asset(name=name, specs=specs, **_placement(stage))(function), installation().source)

    return decorate
