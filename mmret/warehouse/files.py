"""The files behind the views: where DuckDB finds each, and what its footer says.

Of a local lake they are its own files. Of a lake in an object store they are its addresses there, read by range through
:mod:`mmret.warehouse.object_files`. Cost: a footer a file, once per process; of an object once per machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow.parquet as pq

from mmret.lake import Lake, history
from mmret.lake.partitions import Facts, read_facts
from mmret.paths import plain_link
from mmret.schemas import TABLES
from mmret.storage import Entry, open_storage

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

    A backslash beside signs of a pattern cannot be written at all (:func:`readable_root`).
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


def current_keys(lake: Lake, tables: Iterable[str] = tuple(TABLES)) -> dict[str, dict[str, str]]:
    """The key of every partition's file: its name in ``history/``, which nothing replaces, where the file system has hard links."""
    if not lake.storage.is_local:
        from mmret.warehouse.object_files import current_versions

        return current_versions(lake, tables)
    return {t: {p: history.current_version(lake, t, p) or lake.key(t, p) for p in lake.partitions(t)} for t in tables}


def current_files(lake: Lake, tables: Iterable[str] = tuple(TABLES)) -> Files:
    """The file of every partition as it is now."""
    return files_at(lake, current_keys(lake, tables))


def files_at(lake: Lake, keys: Keys) -> Files:
    """The files at ``keys``. Raises UserError for one that is damaged, FileNotFoundError for one that is gone."""
    if not lake.storage.is_local:
        from mmret.warehouse.object_files import version_files

        return version_files(lake.storage, keys)
    root = readable_root(lake)
    return {t: {p: _local_file(lake, root, key) for p, key in parts.items()} for t, parts in keys.items()}


def readable_root(lake: Lake) -> Path | str:
    """The lake's place as DuckDB can name it: its address, its folder, or a link where that has a backslash, which DuckDB takes for
    ``/``."""
    if not lake.storage.is_local:
        return lake.address
    return _link_to(lake.address) if "\\" in lake.address else lake.root


@lru_cache(maxsize=100)
def _link_to(folder: str) -> Path:
    return plain_link(Path(folder))


def _local_file(lake: Lake, root: Path, key: str) -> PartitionFile:
    path = lake.storage.local(key)
    stat = path.stat()
    footer = _footer(path, stat.st_ino, stat.st_mtime_ns, stat.st_size)
    return PartitionFile(str(root / key), *footer, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _footer(path: Path, inode: int, mtime_ns: int, size: int) -> tuple[Facts, tuple[str, ...]]:
    """Read once per process, since a version never changes."""
    return read_facts(open_storage(path.parent), path.name), tuple(pq.read_schema(path).names)
