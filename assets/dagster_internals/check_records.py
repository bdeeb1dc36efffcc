"""What the instance knows of asset checks and of what they looked at, which Dagster's public interface does not tell.

Costs one small query a check, and one a partition whose result is recorded.
"""

from collections.abc import Iterable

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData as Target
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

_FAILED = AssetCheckExecutionRecordStatus.FAILED


def latest_materialization(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str | None) -> Target | None:
    """The materialisation that a result of now is about; without it Dagster takes a result for one of an earlier state."""
    partitions = None if partition is None else [partition]
    found = instance.fetch_materializations(dg.AssetRecordsFilter(asset_key=asset, asset_partitions=partitions), limit=1).records
    if not found:
        return None
    entry = found[0].event_log_entry
    return Target(storage_id=found[0].storage_id, run_id=entry.run_id, timestamp=entry.timestamp)


def failed_partitions(instance: dg.DagsterInstance, check: dg.AssetCheckKey, partitions: Iterable[str]) -> set[str]:
    """Those of ``partitions`` for which the last result of ``check`` was that it failed."""
    storage = instance.event_log_storage
    if not storage.get_asset_check_execution_history(check, limit=1, status={_FAILED}):
        return set()
    known = storage.get_asset_check_partition_info([check], partition_keys=list(partitions))
    return {each.partition_key for each in known if each.partition_key and each.latest_execution_status == _FAILED}
