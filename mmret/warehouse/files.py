"""What the views need to know of a partition's file, and how a file is named in SQL. A listing is all that is read here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mmret.lake import Lake
from mmret.lake.partitions import Facts
from mmret.storage import Entry

Keys = Mapping[str, Mapping[str, str]]
"""The key of each partition of each table."""

AT_ONCE = 32
"""Requests to an object store under way at the same time: a footer is little to read and long to wait for."""


@dataclass(frozen=True)
class PartitionFile:
    """What the views and the table ``partitions`` need to know of a partition's file. ``place``: its path or address, as DuckDB can
    name it; ``modified_ns``: since 1970."""

    place: str
    facts: Facts
    columns: tuple[str, ...]
    size: int
    modified_ns: int


Files = Mapping[str, Mapping[str, PartitionFile]]
"""The file of each partition of each table."""


def sql_literal(text: object) -> str:
    """``text`` as a string literal of SQL."""
    return "'" + str(text).replace("'", "''") + "'"


def file_pattern(path: object) -> str:
    """``path`` as DuckDB's ``read_parquet`` and ``allowed_directories`` need it: a pattern that fits this one path only.

    A backslash beside signs of a pattern cannot be written at all (:func:`mmret.warehouse.current.readable_root`).
    """
    return re.sub(r"[*?\[]", r"[\g<0>]", str(path))


def listed(files: Sequence[PartitionFile]) -> str:
    """The places of ``files`` as elements of a list of SQL."""
    return ", ".join(sql_literal(file_pattern(file.place)) for file in files)


def entries(lake: Lake, tables: Iterable[str]) -> dict[str, dict[str, Entry]]:
    """What listings tell of every partition of ``tables``; of an object store a request a table and 1,000 partitions."""
    tables = list(tables)

    def listed(table: str) -> dict[str, Entry]:
        found = lake.storage.list(table, below=False)
        return {e.key.rpartition("/")[2].removesuffix(".parquet"): e for e in found if e.key.endswith(".parquet")}

    if lake.storage.is_local:
        return {table: listed(table) for table in tables}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(tables, pool.map(listed, tables), strict=True))
