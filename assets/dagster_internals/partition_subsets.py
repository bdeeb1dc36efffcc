"""The result of an automation condition, a set of partitions by name, which Dagster's public interface has no constructor for."""

from collections.abc import Iterable

import dagster as dg
from dagster._core.definitions.events import AssetKeyPartitionKey


def partitions_result(context: dg.AutomationContext, partitions: Iterable[str | None]) -> dg.AutomationResult:
    """The condition holds for these partitions (None: of an asset without) that exist and are under evaluation."""
    keys = {AssetKeyPartitionKey(context.key, partition) for partition in partitions}
    subset = context.asset_graph_view.get_asset_subset_from_asset_partitions(context.key, keys, validate_existence=True)
    return dg.AutomationResult(context, subset.compute_intersection(context.candidate_subset))
