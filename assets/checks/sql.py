"""A check that is one SQL question: it passes where no row answers it."""

import dagster as dg

from resources.warehouse import Warehouse


def sql_check(asset: str, name: str, description: str, sql: str, *, blocking: bool = False) -> dg.AssetChecksDefinition:
    """A check that passes where ``sql`` returns no row; the rows it returns are shown."""

    @dg.asset_check(asset=asset, name=name, description=description, blocking=blocking)
    def check(warehouse: Warehouse) -> dg.AssetCheckResult:
        connection = warehouse.connect()
        found = connection.execute(f"SELECT * FROM ({sql}) LIMIT 20").fetchall()
        violations = dg.MetadataValue.json([list(map(str, row)) for row in found])
        return dg.AssetCheckResult(passed=not found, metadata={"violations": violations})

    return check
