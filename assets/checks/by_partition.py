"""Records what a check found partition by partition, so that a red shard is a red shard in the UI.

Every check looks at the whole table, once, whatever shards a run makes, and each result is an event of some milliseconds. So there
are results of the run's own partitions, of those that failed, and of those that failed before and do no longer; not one of every
sound shard. Only the run's own partitions hold back what stands on them.

Dagster shows as the state of a check its last result, whichever partition that is of. Hence the order: what passed, what failed,
and in a run without partitions, as `mmret run` makes one at its end, a result of the whole lake behind all.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dagster as dg

from assets.dagster_internals.check_records import failed_partitions, latest_materialization

MOST_RECORDED = 100
"""Failed partitions that are recorded one by one; of all others the table of the check tells."""


@dataclass(frozen=True)
class Finding:
    """What a check found: rows that must not exist, as far as they are shown, and the partitions they are of, if that is known."""

    rows: Sequence[Sequence[str]]
    partitions: Collection[str]
    severity: dg.AssetCheckSeverity
    measured: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        return not self.rows

    def failed_in(self, partition: str) -> bool:
        """Rows of which nobody knows the partition are everybody's."""
        return not self.passed and (partition in self.partitions or not self.partitions)


@dataclass(frozen=True)
class Scope:
    """The partitions of a run (None: the whole lake) and those that its checks look at."""

    instance: dg.DagsterInstance
    own: Sequence[str] | None
    looked_at: Collection[str]

    @classmethod
    def of(cls, context: dg.AssetCheckExecutionContext, looked_at: Collection[str]) -> "Scope":
        step = context.op_execution_context
        return cls(
            context.instance, step.partition_keys if step.has_partition_key or step.has_partition_key_range else None, looked_at
        )

    @cached_property
    def _targets(self) -> dict[tuple[dg.AssetKey, str | None], Any]:
        return {}

    def target(self, asset: dg.AssetKey, partition: str | None) -> Any:
        if (asset, partition) not in self._targets:
            self._targets[asset, partition] = latest_materialization(self.instance, asset, partition)
        return self._targets[asset, partition]


def record(scope: Scope, spec: dg.AssetCheckSpec, found: Finding) -> Iterator[dg.AssetCheckEvaluation | dg.Output]:
    """The results of one check in the order in which Dagster has to have them, and its output, for which later steps wait."""

    def result(partition: str | None, passed: bool, own: bool) -> dg.AssetCheckEvaluation:
        return dg.AssetCheckEvaluation(
            asset_key=spec.asset_key,
            check_name=spec.name,
            passed=passed,
            metadata=shown(spec.asset_key.path[-1], found),
            target_materialization_data=scope.target(spec.asset_key, partition),
            severity=found.severity,
            blocking=spec.blocking and own,
            partition=partition,
        )

    whole = scope.own is None or spec.partitions_def is None
    if spec.partitions_def is not None:
        own = scope.own or ()
        others = [p for p in sorted(found.partitions) if p not in own]
        passed = [p for p in own if not found.failed_in(p)]
        if found.passed or found.partitions:  # of others nothing can be said else
            passed += sorted(failed_partitions(scope.instance, spec.key, scope.looked_at) - {*own, *others})
        for partition in passed:
            yield result(partition, True, partition in own)
        for partition in [*(p for p in own if found.failed_in(p)), *others[:MOST_RECORDED]]:
            yield result(partition, False, partition in own)
    yield dg.Output(None, output_name=spec.get_python_identifier())
    if whole:
        yield result(None, found.passed, True)


def shown(asset: str, found: Finding) -> dict[str, Any]:
    """The metadata of a result: the first violations, and each failed partition with a link to its page."""
    metadata: dict[str, Any] = {"violations": dg.MetadataValue.json([list(row) for row in found.rows]), **found.measured}
    if found.partitions:
        names = sorted(found.partitions)
        lines = [f"| [{p}](/assets/{asset}?view=partitions&partition={p}) |" for p in names[:MOST_RECORDED]]
        metadata["failed partitions"] = len(names)
        metadata["which"] = dg.MetadataValue.md("\n".join(["| partition |", "|---|", *lines]))
    return metadata
