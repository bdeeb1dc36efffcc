"""DuckDB over the lake: one view per table, nothing copied.

Every table has Parquet files, so the views are plain ``read_parquet`` globs that see each file whole or not at all; a table not yet
written is an empty view with its columns. Vectors and picture bytes stay in Lance and out of SQL.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from mmret.lake import Lake
from mmret.schemas import SIGNALS, TABLES

_SQL_TYPES = {"string": "VARCHAR", "int32": "INTEGER", "int64": "BIGINT", "float": "FLOAT", "double": "DOUBLE", "bool": "BOOLEAN"}


def _sql_type(type_: pa.DataType) -> str:
    if pa.types.is_list(type_):
        return _sql_type(type_.value_type) + "[]"
    return _SQL_TYPES[str(type_)]


def view_sql(lake: Lake, table: str) -> str:
    """``CREATE VIEW`` statement of ``table`` over its current Parquet files."""
    partitions = lake.partitions(table)
    if not partitions:
        columns = ", ".join(f'NULL::{_sql_type(f.type)} AS "{f.name}"' for f in TABLES[table])
        return f'CREATE OR REPLACE VIEW "{table}" AS SELECT {columns} WHERE false'
    files = ", ".join("'" + str(lake.path(table, p)).replace("'", "''") + "'" for p in partitions)
    columns = ", ".join(f'"{f.name}"' for f in TABLES[table])
    return f'CREATE OR REPLACE VIEW "{table}" AS SELECT {columns} FROM read_parquet([{files}], union_by_name = true)'


def connect(lake: Lake, path: str = ":memory:") -> Any:
    """A DuckDB connection with a view per table, and ``embeddings`` over the three signals."""
    import duckdb

    connection = duckdb.connect(path)
    for table in TABLES:
        connection.execute(view_sql(lake, table))
    union = " UNION ALL ".join(f"SELECT '{s}' AS signal, * FROM \"{s}\"" for s in SIGNALS)
    connection.execute(f"CREATE OR REPLACE VIEW embeddings AS {union}")
    return connection
