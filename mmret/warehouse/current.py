"""The files behind the views: where DuckDB finds each, and what its footer says.

Of a local lake they are its own files. Of a lake in an object store they are its addresses there, read by range through
:mod:`mmret.warehouse.object_files`. Cost: a footer a file, some 0.1 ms, once per process, and none of what the catalogue of before
knew (:mod:`mmret.warehouse.footers`); of an object once per machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from mmret.lake import Lake, history
from mmret.lake.partitions import facts_of, read_footer
from mmret.paths import plain_link
from mmret.schemas import TABLES
from mmret.storage import Entry, Storage
from mmret.storage.local import file_token
from mmret.warehouse.files import Files, Keys, PartitionFile, entries
from mmret.warehouse.footers import Footer, Footers


def current_keys(lake: Lake, tables: Iterable[str] = tuple(TABLES)) -> dict[str, dict[str, str]]:
    """The key of every partition's file: its name in ``history/``, which nothing replaces, where the file system has hard links."""
    if not lake.storage.is_local:
        from mmret.warehouse.object_files import current_versions

        return current_versions(lake, tables)
    return {t: {p: history.current_version(lake, t, p) or lake.key(t, p) for p in lake.partitions(t)} for t in tables}


def current_files(lake: Lake, tables: Iterable[str] = tuple(TABLES), known: Footers | None = None) -> Files:
    """The file of every partition as it is now; ``known``: footers of a local lake that need not be read again."""
    if not lake.storage.is_local:
        return files_at(lake, current_keys(lake, tables))
    root, found = str(readable_root(lake)), {}
    for table, parts in entries(lake, tables).items():
        now = {p: _current_file(lake, root, table, p, e, (known or {}).get((table, p))) for p, e in sorted(parts.items())}
        found[table] = {partition: file for partition, file in now.items() if file is not None}
    return found


def _current_file(lake: Lake, root: str, table: str, partition: str, entry: Entry, known: Footer | None) -> PartitionFile | None:
    """The version that is a partition's file now; None where it was removed since it was listed."""
    footer = known if known is not None and known.token == entry.token else _footer(lake.storage, entry.key, entry.token)
    if footer is None:
        return None
    key = history.version_key(table, partition, footer.facts.written, footer.facts.digest)
    try:
        stat = os.stat(f"{lake.address}/{key}")
    except FileNotFoundError:  # it has none yet, or there can be none
        return _local_file(lake, root, history.current_version(lake, table, partition) or entry.key)
    return _file(f"{root}/{key}", footer, stat)


def files_at(lake: Lake, keys: Keys) -> Files:
    """The files at ``keys``. Raises UserError for one that is damaged, FileNotFoundError for one that is gone."""
    if not lake.storage.is_local:
        from mmret.warehouse.object_files import version_files

        return version_files(lake.storage, keys)
    root = str(readable_root(lake))
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


def _local_file(lake: Lake, root: str, key: str) -> PartitionFile:
    stat = os.stat(f"{lake.address}/{key}")
    footer = _footer(lake.storage, key, file_token(stat))
    if footer is None:
        raise FileNotFoundError(2, os.strerror(2), lake.storage.shown(key))
    return _file(f"{root}/{key}", footer, stat)


def _file(place: str, footer: Footer, stat: os.stat_result) -> PartitionFile:
    return PartitionFile(place, footer.facts, footer.columns, stat.st_size, stat.st_mtime_ns, file_token(stat))


@lru_cache(maxsize=100_000)
def _footer(storage: Storage, key: str, seen: str) -> Footer | None:
    """Read once per process, since the content of a file with the token ``seen`` never changes; None where there is no file."""
    meta = read_footer(storage, key)
    return meta and Footer(seen, facts_of(storage, key, meta), tuple(meta.schema.to_arrow_schema().names))
