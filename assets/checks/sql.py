"""Checks that are one question, mostly in SQL: passed where nothing answers it. All checks of an asset run as one step.

A step costs 0.2 s whatever it does, and a run has the checks of every asset it makes: so one step an asset, one DuckDB connection.

While a lake is brought up to date, shards that are still to be computed again may contradict what was computed already: a run over
four shards must not fail for the others. So the asset's own view holds its current partitions alone; the other tables are whole.
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
"""(lake, DuckDB connection with a view per table) -> rows that should not be."""


@dataclass(frozen=True)
class Check:
    """``blocking``: in a run, stages that stand on the asset are not computed where it fails. ``warn``: it is never more."""

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
    """Let the view of ``asset`` hold the partitions that are current, and that nothing before them will change."""
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
