"""What a catalogue holds: tables ``partitions`` and ``runs``, all views, and table ``made``, the note of what they were made from.

Each table of the lake has a view, rows of ``partitions`` and a row of the note to itself, so of a catalogue of before only those of
tables that changed are written; joins name views and stay. Values go to DuckDB as lists: an Arrow array imports pandas.
Cost: some 10 us a partition of a changed table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmret.lake import Lake, history
from mmret.schemas import TABLES
from mmret.warehouse.files import Files
from mmret.warehouse.footers import Footers, from_json, to_json
from mmret.warehouse.query import said_by_storage
from mmret.warehouse.views import joined_views, table_views

MADE_BY = "6"
"""Raised when the views or these tables change, so that catalogues of before are built again."""

_PARTITIONS = """SELECT unnest(?::VARCHAR[]) AS table_name, unnest(?::VARCHAR[]) AS partition, unnest(?::BIGINT[]) AS rows,
unnest(?::BIGINT[]) AS bytes, unnest(?::VARCHAR[]) AS digest, unnest(?::VARCHAR[]) AS inputs,
make_timestamptz(unnest(?::BIGINT[])) AS written, unnest(?::VARCHAR[]) AS notes"""
"""``digest`` is of the content, ``inputs`` the fingerprint of what it was computed from, ``notes`` JSON."""
_RUNS = """CREATE OR REPLACE TABLE runs AS SELECT unnest(?::VARCHAR[]) AS run, make_timestamptz(unnest(?::BIGINT[])) AS started,
make_timestamptz(unnest(?::BIGINT[])) AS ended, unnest(?::VARCHAR[]) AS computed"""
"""``computed``: rows by table, JSON."""
_MADE = "SELECT unnest(?::VARCHAR[]) AS table_name, unnest(?::VARCHAR[]) AS signature, unnest(?::VARCHAR[]) AS footers"


@dataclass(frozen=True)
class Mark:
    """What tells one state of a lake from another: ``whole`` the lake, ``tables`` each table."""

    whole: str
    tables: Mapping[str, str]


def fill(connection: Any, lake: Lake, files: Files, mark: Mark | None = None, others: bool = False) -> None:
    """Write ``partitions``, ``runs`` and the views into the current database of ``connection``, and with ``mark``, which was asked
    for before ``files`` were, the note of what they were made from.

    ``others``: it has those of the tables that ``files`` lacks, which stay, and the joins. Raises UserError where the store
    refuses.
    """
    import duckdb

    connection.execute("BEGIN")  # a commit for each would take longer than all the rest
    try:
        _replace(connection, "partitions", files, _PARTITIONS, _partitions(files), others)
        _write_runs(connection, lake)
        for statement in (*table_views(files), *(() if others else joined_views())):
            connection.execute(statement)
        if mark is not None:
            _note(connection, lake, files, mark, others)
    except duckdb.Error as error:
        raise said_by_storage(error) or error from None
    connection.execute("COMMIT")


def _note(connection: Any, lake: Lake, files: Files, mark: Mark, others: bool) -> None:
    local = lake.storage.is_local  # what was read of an object store this machine keeps elsewhere
    rows = [(table, mark.tables[table], to_json({table: files[table]}) if local else "{}") for table in files]
    changed = {"": {}, **files}
    _replace(connection, "made", changed, _MADE, [*zip(("", mark.whole, f"{MADE_BY} {lake.address}"), *rows, strict=True)], others)


def marked(connection: Any) -> str | None:
    """:attr:`Mark.whole` of the lake as the current database was filled from it."""
    found = connection.execute("SELECT signature FROM made WHERE table_name = ''").fetchone()
    return found and found[0]


def marks(connection: Any, lake: Lake) -> dict[str, str]:
    """:attr:`Mark.tables` likewise; empty for a catalogue of another version, or of a lake in another place."""
    rows = connection.execute("SELECT table_name, signature, if(table_name = '', footers, '') FROM made").fetchall()
    found = {table: (signature, by) for table, signature, by in rows}
    if found.pop("", ("", ""))[1] != f"{MADE_BY} {lake.address}":
        return {}
    return {table: signature for table, (signature, _) in found.items()}


def known_footers(connection: Any, tables: list[str]) -> Footers:
    """The footers of ``tables`` that the current database was filled from."""
    rows = connection.execute("SELECT footers FROM made WHERE list_contains(?, table_name)", [tables]).fetchall()
    return {key: footer for (text,) in rows for key, footer in from_json(text).items()}


def _replace(connection: Any, name: str, files: Mapping[str, Any], select: str, columns: list[Any], others: bool) -> None:
    """Put the rows of the tables in ``files`` in place of theirs in table ``name``, all others stay; a table written whole has no
    rows that are gone in its file."""
    rows, given = select, [list(column) for column in columns]
    if others:
        rows = f"SELECT * FROM {name} WHERE NOT list_contains(?, table_name) UNION ALL ({select})"
        given.insert(0, list(files))
    order = "list_position(?, table_name)" + (", partition" if name == "partitions" else "")
    connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM ({rows}) ORDER BY {order}", [*given, ["", *TABLES]])


def _partitions(files: Files) -> list[Any]:
    each = [(table, partition, found) for table, parts in files.items() for partition, found in parts.items()]
    return [
        [table for table, _, _ in each],
        [partition for _, partition, _ in each],
        [found.facts.rows for _, _, found in each],
        [found.size for _, _, found in each],
        [found.facts.digest for _, _, found in each],
        [found.facts.inputs for _, _, found in each],
        [(found.facts.written or found.modified_ns) // 1000 for _, _, found in each],
        [json.dumps(found.facts.notes) for _, _, found in each],
    ]


def _write_runs(connection: Any, lake: Lake) -> None:
    runs = history.runs(lake)
    times = ([run[name] // 1000 for run in runs] for name in ("started", "ended"))
    connection.execute(_RUNS, [[run["run"] for run in runs], *times, [json.dumps(run["computed"]) for run in runs]])
