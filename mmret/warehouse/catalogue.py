"""``<lake>/catalogue.duckdb``: the views as a file that any DuckDB client opens read-only, while runs write.

A database that one process writes cannot be opened by another, so a catalogue is built aside and renamed into place after each run;
a reader that has the old one open keeps seeing the whole state that it opened. Paths in it are absolute: it can be opened from
anywhere, and is built again where the lake was moved. It is a few hundred KB, in the format of DuckDB 1.2, which later ones read.
That of a lake in an object store lies in this machine's scratch folder and names addresses.
Cost: with 1,000 partitions in each of 24 tables, opening takes 0.15 s, building after a change 1.6 s, the first time 4.6 s.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmret.atomic import scratch_folder
from mmret.hashing import content_id, fingerprint
from mmret.lake import Lake, history
from mmret.warehouse.current import current_files, files_at
from mmret.warehouse.files import Files, sql_literal, tokens
from mmret.warehouse.footers import Footers, from_json, to_json
from mmret.warehouse.query import said_by_storage
from mmret.warehouse.views import all_views

FORMAT = "v1.2.0"
"""Oldest DuckDB that can open the file."""
_MADE_BY = "5"  # raised when the views change, so that catalogues of before are built again

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
    """Where the catalogue lies: in the lake's folder; of a lake in an object store in the scratch folder of this machine."""
    return lake.scratch / "catalogue.duckdb"


def _partitions(files: Files) -> pa.Table:
    each = [(table, partition, found) for table, parts in files.items() for partition, found in parts.items()]
    columns = {
        "table_name": [table for table, _, _ in each],
        "partition": [partition for _, partition, _ in each],
        "rows": [found.facts.rows for _, _, found in each],
        "bytes": [found.size for _, _, found in each],
        "digest": [found.facts.digest for _, _, found in each],
        "inputs": [found.facts.inputs for _, _, found in each],
        "written": [(found.facts.written or found.modified_ns) // 1000 for _, _, found in each],
        "notes": [json.dumps(found.facts.notes) for _, _, found in each],
    }
    return pa.table([pa.array(columns[f.name], f.type) for f in PARTITIONS], PARTITIONS)


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
    import duckdb

    for name, rows in (("partitions", _partitions(files)), ("runs", _runs(lake))):
        connection.register("arriving", rows)
        connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM arriving")
        connection.unregister("arriving")
    connection.execute("BEGIN")  # a commit for each would take longer than all the rest
    try:
        for statement in all_views(files):
            connection.execute(statement)
    except duckdb.Error as error:
        raise said_by_storage(error) or error from None
    connection.execute("COMMIT")


def connect(lake: Lake, state: history.State | None = None) -> Any:
    """A DuckDB connection in memory over the lake as it is now, or over ``state``; nothing is written to disk.

    Its views name the files of this moment, so it sees one whole state for as long as it is open.

    >>> connect(Lake("lakes/demo")).execute("SELECT count(*) FROM triplets").fetchone()
    """
    connection = reading(lake)
    _fill(connection, lake, current_files(lake, known=_known(lake)) if state is None else files_at(lake, state.files))
    return connection


def reading(lake: Lake) -> Any:
    """A connection that can read the files of the lake."""
    import duckdb

    connection = duckdb.connect()
    if not lake.storage.is_local:
        from mmret.warehouse.object_files import LakeFiles

        connection.register_filesystem(LakeFiles(lake.storage))
    return connection


def signature(lake: Lake) -> str:
    """Changes with every write to the lake, with its place and with the code that makes the views; one ``stat`` a partition, or in
    an object store a listing of each table."""
    listed = "\n".join(map("\t".join, tokens(lake)))
    return fingerprint(_MADE_BY, lake.address, content_id(listed.encode()), history.runs_token(lake))


def build_catalogue(lake: Lake, mark: str | None = None) -> Path:
    """Write the catalogue of the lake's current state and put it in place of the one before; ``mark``: its :func:`signature`, where
    that was asked for already."""
    place, mark = catalogue_path(lake), mark or signature(lake)
    with scratch_folder(place) as folder, reading(lake) as connection:
        aside = folder / place.name
        connection.execute(f"ATTACH {sql_literal(aside)} AS catalogue (STORAGE_VERSION '{FORMAT}')")
        connection.execute("USE catalogue")
        files = current_files(lake, known=_known(lake))
        _fill(connection, lake, files)
        footers = to_json(files) if lake.storage.is_local else "{}"
        made = "CREATE TABLE made AS SELECT ? AS signature, ? AS lake, ? AS footers"
        connection.execute(made, [mark, lake.address, footers])
        connection.execute("USE memory")
        connection.execute("DETACH catalogue")
        os.replace(aside, place)
    return place


def can_hold(lake: Lake) -> bool:
    """Whether a catalogue can lie in the lake: DuckDB cannot write or open a database below a folder with ``?`` or a backslash in
    its name. Views over such a lake are made in memory, as :func:`connect` does."""
    return not any(sign in str(lake.scratch) for sign in "?\\")


def refresh_catalogue(lake: Lake, mark: str | None = None) -> bool:
    """Build the catalogue where it is missing or out of date; returns whether it was built. Costs a :func:`signature`, or is given
    it as ``mark``."""
    if not can_hold(lake):
        return False
    mark = mark or signature(lake)
    if _signature_on_disk(catalogue_path(lake)) == mark:
        return False
    build_catalogue(lake, mark)
    return True


def _signature_on_disk(place: Path) -> str | None:
    """:func:`signature` of the lake at the time its catalogue ``place`` was built, None where there is none that can be read."""
    return _noted(place, "signature")


def _known(lake: Lake) -> Footers:
    """The footers that the catalogue on disk was built from; none where there is no such catalogue."""
    if not lake.storage.is_local or not can_hold(lake):
        return {}
    return from_json(_noted(catalogue_path(lake), "footers") or "{}")


def _noted(place: Path, column: str) -> str | None:
    """What the catalogue ``place`` has in ``column`` of the note of what it was built from, None where it cannot be read."""
    import duckdb

    if not place.is_file():
        return None
    try:
        with attach(place) as connection:
            return connection.execute(f"SELECT {column} FROM made").fetchone()[0]
    except duckdb.Error:  # of another version, or damaged
        return None


def open_catalogue(lake: Lake, mark: str | None = None) -> Any:
    """A read-only connection to the lake's catalogue, built first where the lake has changed or was moved. ``mark``: its
    :func:`signature`, where that was asked for already.

    Where the lake cannot be written to, or its path is one that DuckDB cannot name, the same views in memory.
    """
    import duckdb

    if not can_hold(lake):
        return connect(lake)
    try:
        mark = mark or signature(lake)
        found = _opened(lake, mark)
        if found is None:
            build_catalogue(lake, mark)
            found = attach(catalogue_path(lake), reading(lake))
        return found
    except (OSError, duckdb.IOException):
        return connect(lake)


def _opened(lake: Lake, mark: str) -> Any | None:
    """A connection to the catalogue on disk if it is of the signature ``mark``, else None."""
    import duckdb

    if not catalogue_path(lake).is_file():
        return None
    connection = reading(lake)
    try:
        attach(catalogue_path(lake), connection)
        if connection.execute("SELECT signature FROM made").fetchone()[0] == mark:
            return connection
    except duckdb.Error:  # of another version, or damaged
        pass
    connection.close()
    return None


def attach(place: Path, connection: Any = None) -> Any:
    """A connection to a catalogue that shares nothing; ``connection``: one in memory, which is given it.

    ``duckdb.connect(path)`` would return what this process has open under that name, which may be the catalogue before this one.
    """
    import duckdb

    connection = connection or duckdb.connect()
    connection.execute(f"ATTACH {sql_literal(place)} AS lake (READ_ONLY)")
    connection.execute("USE lake")
    return connection
