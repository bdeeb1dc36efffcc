"""The files behind the views: where DuckDB finds each, and what its footer says.

Of a local lake they are its own files. Of a lake in an object store they are its addresses there, read by range through
:mod:`mmret.warehouse.object_files`. Cost: a footer a file, once per process; of an object once per machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import pyarrow.parquet as pq

from mmret.lake import Lake, history
from mmret.lake.partitions import Facts, read_facts
from mmret.paths import plain_link
from mmret.schemas import TABLES
from mmret.storage import open_storage
from mmret.warehouse.files import Files, Keys, PartitionFile


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
