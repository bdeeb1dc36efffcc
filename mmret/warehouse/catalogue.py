"""``<lake>/catalogue.duckdb``: the views as a file that any DuckDB client opens read-only, while runs write.

A database that one process writes cannot be opened by another, so a catalogue is built aside and renamed into place after each run;
a reader that has the old one open keeps seeing the whole state that it opened. Paths in it are absolute: it can be opened from
anywhere, and is built again where the lake was moved. It is a few hundred KB, in the format of DuckDB 1.2, which later ones read.
Cost: about 0.8 ms per partition the first time a process looks at it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmret.atomic import scratch_folder
from mmret.hashing import fingerprint
from mmret.lake import Lake, history
from mmret.paths import plain_link
from mmret.schemas import TABLES
from mmret.warehouse.views import Files, all_views, read_footer, sql_literal

FORMAT = "v1.2.0"
"""Oldest DuckDB that can open the file."""
_MADE_BY = "4"  # raised when the views change, so that catalogues of before are built again

PARTITIONS = pa.schema(
    [
        ("table_name", pa.string()),
        ("partition", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("digest", pa.string()),  # of the content
        ("inputs", pa.string()),  # fingerprint of what it was computed from
        ("written", pa.timestamp("us", "UTC")),
        ("notes", pa.string()),  # JSON
    ]
)
RUNS = pa.schema(
    [
        ("run", pa.string()),
        ("started", pa.timestamp("us", "UTC")),
        ("ended", pa.timestamp("us", "UTC")),
        ("computed", pa.string()),  # rows by table, JSON
    ]
)


def catalogue_path(lake: Lake) -> Path:
    return lake.root / "catalogue.duckdb"


def current_keys(lake: Lake) -> dict[str, dict[str, str]]:
    """The key of every partition's file: its name in ``history/``, which nothing replaces, where the file system has hard links."""
    return {t: {p: history.current_version(lake, t, p) or lake.key(t, p) for p in lake.partitions(t)} for t in TABLES}


def current_files(lake: Lake) -> Files:
    """The file of every partition as it is now."""
    return local_files(lake, current_keys(lake))


def local_files(lake: Lake, keys: Mapping[str, Mapping[str, str]]) -> Files:
    """The files of this machine that hold what is at ``keys``, by table and partition."""
    return {t: {p: lake.storage.local(key) for p, key in parts.items()} for t, parts in keys.items()}


def readable_root(lake: Lake) -> Path:
    """The lake's folder as DuckDB can name it: itself, or a link where it has a backslash, which DuckDB takes for ``/``."""
    return plain_link(lake.root) if "\\" in str(lake.root) else lake.root


def readable(lake: Lake, files: Files) -> Files:
    """``files`` below :func:`readable_root`."""
    root = readable_root(lake)
    return {t: {p: root / path.relative_to(lake.root) for p, path in parts.items()} for t, parts in files.items()}


def _partitions(files: Files) -> pa.Table:
    rows = []
    for table, parts in files.items():
        for partition, path in parts.items():
            found = read_footer(path)
            facts = found.facts
            rows.append(
                {
                    "table_name": table,
                    "partition": partition,
                    "rows": facts.rows,
                    "bytes": found.size,
                    "digest": facts.digest,
                    "inputs": facts.inputs,
                    "notes": json.dumps(facts.notes),
                    "written": (facts.written or found.mtime_ns) // 1000,
                }
            )
    return pa.Table.from_pylist(rows, PARTITIONS)


def _runs(lake: Lake) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"run": r["run"], "started": r["started"] // 1000, "ended": r["ended"] // 1000, "computed": json.dumps(r["computed"])}
            for r in history.runs(lake)
        ],
        RUNS,
    )


def _fill(connection: Any, lake: Lake, files: Files) -> None:
    """Tables ``partitions`` and ``runs``, and all views, in the current database of ``connection``."""
    for name, rows in (("partitions", _partitions(files)), ("runs", _runs(lake))):
        connection.register("arriving", rows)
        connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM arriving")
        connection.unregister("arriving")
    connection.execute("BEGIN")  # a commit for each would take longer than all the rest
    for statement in all_views(files):
        connection.execute(statement)
    connection.execute("COMMIT")


def connect(lake: Lake, state: history.State | None = None) -> Any:
    """A DuckDB connection in memory over the lake as it is now, or over ``state``; nothing is written to disk.

    Its views name the files of this moment, so it sees one whole state for as long as it is open.

    >>> connect(Lake("lakes/demo")).execute("SELECT count(*) FROM triplets").fetchone()
    """
    import duckdb

    connection = duckdb.connect()
    _fill(connection, lake, readable(lake, current_files(lake) if state is None else local_files(lake, state.files)))
    return connection


def signature(lake: Lake) -> str:
    """Changes with every write to the lake, with its place and with the code that makes the views; one ``stat`` a partition."""
    seen = []
    for table in TABLES:
        for partition in lake.partitions(table):
            try:
                stat = lake.path(table, partition).stat()
            except FileNotFoundError:
                continue
            seen.append((table, partition, stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return fingerprint(_MADE_BY, str(lake.root), seen, len(history.runs(lake)))


def build_catalogue(lake: Lake) -> Path:
    """Write the catalogue of the lake's current state and put it in place of the one before."""
    import duckdb

    place, mark = catalogue_path(lake), signature(lake)
    with scratch_folder(place) as folder, duckdb.connect() as connection:
        aside = folder / place.name
        connection.execute(f"ATTACH {sql_literal(aside)} AS catalogue (STORAGE_VERSION '{FORMAT}')")
        connection.execute("USE catalogue")
        _fill(connection, lake, current_files(lake))
        connection.execute("CREATE TABLE made AS SELECT ? AS signature, ? AS lake", [mark, str(lake.root)])
        connection.execute("USE memory")
        connection.execute("DETACH catalogue")
        os.replace(aside, place)
    return place


def can_hold(lake: Lake) -> bool:
    """Whether a catalogue can lie in the lake: DuckDB cannot write or open a database below a folder with ``?`` or a backslash in
    its name. Views over such a lake are made in memory, as :func:`connect` does."""
    return not any(sign in str(lake.root) for sign in "?\\")


def refresh_catalogue(lake: Lake) -> bool:
    """Build the catalogue where it is missing or out of date; returns whether it was built. Costs a ``stat`` a partition."""
    if not can_hold(lake):
        return False
    if _signature_on_disk(catalogue_path(lake)) == signature(lake):
        return False
    build_catalogue(lake)
    return True


def _signature_on_disk(place: Path) -> str | None:
    """:func:`signature` of the lake at the time its catalogue ``place`` was built, None where there is none that can be read."""
    import duckdb

    if not place.is_file():
        return None
    try:
        with attach(place) as connection:
            return connection.execute("SELECT signature FROM made").fetchone()[0]
    except duckdb.Error:  # of another version, or damaged
        return None


def open_catalogue(lake: Lake) -> Any:
    """A read-only connection to the lake's catalogue, built first where the lake has changed or was moved.

    Where the lake cannot be written to, or its path is one that DuckDB cannot name, the same views in memory.
    """
    import duckdb

    if not can_hold(lake):
        return connect(lake)
    try:
        refresh_catalogue(lake)
        return attach(catalogue_path(lake))
    except (OSError, duckdb.IOException):
        return connect(lake)


def attach(place: Path) -> Any:
    """A connection to a catalogue that shares nothing. ``duckdb.connect(path)`` would return what this process has open under that
    name, which may be the catalogue before this one."""
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"ATTACH {sql_literal(place)} AS lake (READ_ONLY)")
    connection.execute("USE lake")
    return connection
