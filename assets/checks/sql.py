"""Asset checks that are a query for rows that must not exist, mostly in SQL. All checks of an asset run as one step.

A step costs 0.2 s whatever it does, and a run has the checks of every asset it makes: so there is one step and one DuckDB
connection an asset.

While a lake is being brought up to date, shards that are still to be computed again may contradict what is computed already, and
a run over four shards must not fail because of others. So the view of the asset itself has its current partitions only; those of
the other tables have all. Which shards the rows are of that must not exist is asked only where there are some
(:mod:`assets.checks.by_partition` records it).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.checks.by_partition import Finding, Scope, record
from assets.partitions import PARTITIONS
from mmret.freshness.survey import survey
from mmret.lake import Lake
from mmret.settings import Profile
from mmret.stages import FINGERPRINTED_TABLES, stage_of
from resources.lake import LakeResource, ProfileResource
from resources.warehouse import Warehouse

if TYPE_CHECKING:
    from mmret.warehouse.files import PartitionFile

_MAX_VIOLATIONS = 20

Files = Mapping[str, "PartitionFile"]
"""The file of each partition that is looked at."""
Rows = Sequence[Sequence[Any]]
Violations = Callable[[Lake, Any, Profile], Rows]
"""Function of (lake, DuckDB connection with a view per table, settings) that returns the rows that must not exist."""
Partitions = Callable[[Any, Files, Rows], set[str]]
"""Function of (the connection, files by partition, rows that must not exist) that returns the partitions these rows are of."""

ANY_PICTURE_IN_BAD = " OR ".join(
    (
        "query_id IN (SELECT {0} FROM bad)",
        "target_id IN (SELECT {0} FROM bad)",
        "list_has_any(hard_negatives, (SELECT list({0}) FROM bad))",
    )
)
"""Condition ``where`` of :func:`sql_check` for rows of which any picture is in the column ``{0}`` of ``bad``."""


def named_first(_connection: Any, _files: Files, rows: Rows) -> set[str]:
    """The partitions where every row that must not exist begins with the name of its own."""
    return {str(row[0]) for row in rows}


@dataclass(frozen=True)
class Check:
    """A check. ``blocking``: if it fails in a run, stages that read the asset are not computed. ``warn``: failing is a warning.

    ``partitions``: which partitions violate it; None: it is of the table as a whole. ``measured`` returns what else to show.
    """

    asset: str
    name: str
    description: str
    violations: Violations
    blocking: bool = False
    warn: bool = False
    partitions: Partitions | None = None
    measured: Callable[[Lake], dict[str, Any]] = lambda lake: {}

    @property
    def spec(self) -> dg.AssetCheckSpec:
        partitions = PARTITIONS[stage_of(self.asset).partitions] if self.partitions else None
        return dg.AssetCheckSpec(
            self.name, asset=self.asset, description=self.description, blocking=self.blocking, partitions_def=partitions
        )

    def find(self, lake: Lake, connection: Any, profile: Profile, files: Files) -> Finding:
        """What violates the check now, and which partitions it is of."""
        rows = self.violations(lake, connection, profile)
        return Finding(
            rows=[list(map(str, row)) for row in rows[:_MAX_VIOLATIONS]],
            partitions=self.partitions(connection, files, rows) if self.partitions and rows else set(),
            severity=dg.AssetCheckSeverity.WARN if self.warn else dg.AssetCheckSeverity.ERROR,
            measured=self.measured(lake),
        )


def sql_check(
    asset: str,
    name: str,
    description: str,
    sql: str,
    *,
    where: str = "",
    shards: str = "",
    prepare: Callable[[Lake, Any, Profile], None] = lambda lake, connection, profile: None,
    blocking: bool = False,
    warn: bool = False,
) -> Check:
    """A check that passes where ``sql`` returns no row; the first rows it returns are shown.

    Which shards fail is told by ``where``, a condition on their rows in ``asset``, or by ``shards``, a query for their names. In
    both ``bad`` is what ``sql`` returns. Without either the check is of the table as a whole. ``prepare`` makes what ``sql`` reads
    besides the tables.

    >>> sql_check("pairs", "ids", "...", "SELECT pair_id FROM pairs WHERE ...", where="pair_id IN (SELECT pair_id FROM bad)")
    """

    def violations(lake: Lake, connection: Any, profile: Profile) -> list[Any]:
        prepare(lake, connection, profile)
        return connection.execute(f"SELECT * FROM ({sql}) LIMIT {_MAX_VIOLATIONS}").fetchall()

    def partitions(connection: Any, files: Files, _rows: Rows) -> set[str]:
        from mmret.warehouse.views import table_view

        connection.execute(f"CREATE OR REPLACE TEMP TABLE bad AS {sql}")
        if shards:
            return {name for (name,) in connection.execute(shards).fetchall()}
        found = set()
        try:
            for partition, file in files.items():
                connection.execute(table_view(asset, [file]))
                if connection.execute(f'SELECT 1 FROM "{asset}" WHERE {where} LIMIT 1').fetchone():
                    found.add(partition)
        finally:
            connection.execute(table_view(asset, list(files.values())))
        return found

    return Check(asset, name, description, violations, blocking, warn, partitions if where or shards else None)


def restrict_to_current(connection: Any, lake: Lake, profile: Profile, asset: str) -> Files:
    """Reduce the view of ``asset`` to partitions that are current and that will not change when what they read is computed.

    Returns the files of these partitions; of a table without fingerprints all.
    """
    from mmret.warehouse.current import current_files
    from mmret.warehouse.views import table_view

    files = current_files(lake, (asset,))[asset]
    if asset not in FINGERPRINTED_TABLES:
        return files
    stage = stage_of(asset).name
    current = {s.partition for s in survey(lake, profile) if s.table == stage and s.state == "current"}
    files = {partition: file for partition, file in files.items() if partition in current}
    connection.execute(table_view(asset, list(files.values())))
    return files


def combine_checks(asset: str, checks: Iterable[Check]) -> dg.AssetChecksDefinition:
    """All checks of an asset as one step; the UI still runs and shows each by itself."""
    by_name = {check.name: check for check in checks}

    @dg.multi_asset_check(name=f"{asset}_checks", specs=[check.spec for check in by_name.values()], can_subset=True)
    def step(
        context: dg.AssetCheckExecutionContext, lake: LakeResource, profile: ProfileResource, warehouse: Warehouse
    ) -> Iterator[dg.AssetCheckEvaluation | dg.Output]:
        store = lake.open()
        connection = warehouse.connect(store)
        settings = profile.of(store)
        files = restrict_to_current(connection, store, settings, asset)
        scope = Scope.of(context, files)
        for key in sorted(context.selected_asset_check_keys):
            check = by_name[key.name]
            yield from record(scope, check.spec, check.find(store, connection, settings, files))

    return step
