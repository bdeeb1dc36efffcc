"""Asset checks that are a query for rows that must not exist, mostly in SQL. All checks of an asset run as one step.

A step costs 0.2 s whatever it does, and a run has the checks of every asset it makes: so there is one step and one DuckDB
connection an asset.

While a lake is being brought up to date, shards that are still to be computed again may contradict what is computed already, and
a run over four shards must not fail because of others. So the view of the asset itself has its current partitions only; those of
the other tables have all.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from mmret.freshness.survey import survey
from mmret.lake import Lake
from mmret.settings import Profile
from mmret.stages import FINGERPRINTED_TABLES, stage_of
from resources.lake import LakeResource, ProfileResource
from resources.warehouse import Warehouse

_MAX_VIOLATIONS = 20

Violations = Callable[[Lake, Any], Sequence[Sequence[Any]]]
"""Function of (lake, DuckDB connection with a view per table) that returns the rows that must not exist."""


@dataclass(frozen=True)
class Check:
    """A check. ``blocking``: if it fails in a run, stages that read the asset are not computed. ``warn``: failing is a warning."""

    asset: str
    name: str
    description: str
    violations: Violations
    blocking: bool = False
    warn: bool = False

    @property
    def spec(self) -> dg.AssetCheckSpec:
        return dg.AssetCheckSpec(self.name, asset=self.asset, description=self.description, blocking=self.blocking)

    def result(self, lake: Lake, connection: Any) -> dg.AssetCheckResult:
        found = [list(map(str, row)) for row in self.violations(lake, connection)]
        severity = dg.AssetCheckSeverity.WARN if self.warn else dg.AssetCheckSeverity.ERROR
        return dg.AssetCheckResult(
            passed=not found,
            asset_key=self.asset,
            check_name=self.name,
            severity=severity,
            metadata={"violations": dg.MetadataValue.json(found[:_MAX_VIOLATIONS])},
        )


def sql_check(asset: str, name: str, description: str, sql: str, *, blocking: bool = False, warn: bool = False) -> Check:
    """A check that passes where ``sql`` returns no row; the first rows it returns are shown."""

    def violations(_: Lake, connection: Any) -> list[Any]:
        return connection.execute(f"SELECT * FROM ({sql}) LIMIT {_MAX_VIOLATIONS}").fetchall()

    return Check(asset, name, description, violations, blocking, warn)


def restrict_to_current(connection: Any, lake: Lake, profile: Profile, asset: str) -> None:
    """Reduce the view of ``asset`` to partitions that are current and that will not change when what they read is computed."""
    from mmret.warehouse.catalogue import current_files
    from mmret.warehouse.views import table_view

    if asset not in FINGERPRINTED_TABLES:
        return
    stage = stage_of(asset).name
    current = {s.partition for s in survey(lake, profile) if s.table == stage and s.state == "current"}
    files = current_files(lake)[asset]
    connection.execute(table_view(asset, [path for partition, path in files.items() if partition in current]))


def combine_checks(asset: str, checks: Iterable[Check]) -> dg.AssetChecksDefinition:
    """All checks of an asset as one step; the UI still runs and shows each by itself."""
    by_name = {check.name: check for check in checks}

    @dg.multi_asset_check(name=f"{asset}_checks", specs=[check.spec for check in by_name.values()], can_subset=True)
    def step(
        context: dg.AssetCheckExecutionContext, lake: LakeResource, profile: ProfileResource, warehouse: Warehouse
    ) -> Iterator[dg.AssetCheckResult]:
        store, connection = lake.open(), warehouse.connect()
        restrict_to_current(connection, store, profile.of(store), asset)
        for key in sorted(context.selected_asset_check_keys):
            yield by_name[key.name].result(store, connection)

    return step
