"""What the views need to know of a partition's file, and how a file is named in SQL. A listing is all that is read here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from mmret.lake import Lake
from mmret.lake.partitions import Facts
from mmret.schemas import TABLES
from mmret.storage import Entry

_T = TypeVar("_T")
Keys = Mapping[str, Mapping[str, str]]
"""The key of each partition of each table."""

AT_ONCE = 32
"""Requests to an object store under way at the same time: a footer is little to read and long to wait for."""


@dataclass(frozen=True)
class PartitionFile:
    """What the views and the table ``partitions`` need to know of a partition's file. ``place``: its path or address, as DuckDB can
    name it; ``modified_ns``: since 1970; ``token``: of a file of this machine (:func:`mmret.storage.local.file_token`)."""

    place: str
    facts: Facts
    columns: tuple[str, ...]
    size: int
    modified_ns: int
    token: str = ""


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
    found = _each(lake, tables, lambda table: {e.key[len(table) + 1 :]: e for e in lake.storage.list(table, below=False)})
    return {table: {name[:-8]: e for name, e in parts.items() if name.endswith(".parquet")} for table, parts in found.items()}


def tokens(lake: Lake, tables: Iterable[str] = tuple(TABLES)) -> list[tuple[str, str, str]]:
    """Table, partition and token of every partition of ``tables``, in order; costs what :func:`entries` does."""
    found = _each(lake, tables, lake.storage.tokens)
    return [
        (table, name[:-8], parts[name]) for table, parts in found.items() for name in sorted(parts) if name.endswith(".parquet")
    ]


def _each(lake: Lake, tables: Iterable[str], ask: Callable[[str], _T]) -> dict[str, _T]:
    """``ask(table)`` of each of ``tables``; of an object store several at once."""
    tables = list(tables)
    if lake.storage.is_local:
        return {table: ask(table) for table in tables}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(tables, pool.map(ask, tables), strict=True))
