"""DuckDB for the page: the lake's views on a connection that can read the lake and nothing else.

Free SQL comes from a person at a browser, so the connection is locked: it reads no file outside the lake, loads no extension,
changes no setting, and runs one SELECT at a time, which is stopped after ``SECONDS``. The connection sees one state of the lake
and is opened again once the lake has changed. Cost: opening reads one footer per partition; a check for changes is one ``stat``
per partition, every two seconds at most, or what :mod:`mmret.lake.changes` asks of an object store.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mmret.curation.decisions import latest_decisions
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.changes import Changes
from mmret.schemas import TABLES, WRITTEN_BY_PEOPLE
from mmret.warehouse import connect
from mmret.warehouse.current import current_files, readable_root
from mmret.warehouse.files import file_pattern, sql_literal, tokens
from mmret.warehouse.query import said_by_storage
from mmret.warehouse.views import table_view

SECONDS = 20.0
"""Longest a free query may run."""
MEMORY = "2GB"
BY_SHARD = ("triplets", "pairs", "descriptions", "instructions")
"""Tables with a second view ``<table>_by_shard`` that has a column ``shard``, so that a query can read one shard's file alone."""
_CHECK_SECONDS = 2.0


class Tables:
    """Read access to a lake's tables, for any number of threads."""

    def __init__(self, lake: Lake):
        self.lake = lake
        self._lock = threading.RLock()
        self._changes = Changes(lake)
        self._connection: Any = None
        self._seen: list[tuple[str, str, str]] = []
        self._looked = 0.0
        self._decisions: pa.Table | None = None
        self._decisions_seen: list[tuple[str, str, str]] = []

    def rows(self, sql: str, values: Mapping[str, Any] | Sequence[Any] = (), **relations: pa.Table) -> list[dict[str, Any]]:
        """Rows of a query that the page itself makes; ``relations``: tables that it can name in addition to the lake's views."""
        cursor = self.cursor()
        for name, rows in relations.items():
            cursor.register(name, rows)
        found = cursor.execute(sql, values)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def cursor(self) -> Any:
        """A cursor over the lake's current state, for one thread."""
        with self._lock:
            if time.monotonic() - self._looked > _CHECK_SECONDS or self._connection is None:
                if self._changes.maybe() or self._connection is None:
                    seen = tokens(self.lake, [t for t in TABLES if t not in WRITTEN_BY_PEOPLE])
                    if seen != self._seen or self._connection is None:
                        self._connection, self._seen = self._open(), seen
                self._looked = time.monotonic()
            return self._connection.cursor()

    def decisions(self) -> pa.Table:
        """The latest decision on every pair, as of now."""
        with self._lock:
            seen = tokens(self.lake, WRITTEN_BY_PEOPLE)
            if self._decisions is None or seen != self._decisions_seen:
                self._decisions, self._decisions_seen = latest_decisions(self.lake).select(["pair_id", "decision", "note"]), seen
            return self._decisions

    def _open(self) -> Any:
        if not self.lake.shards():
            raise UserError(f"{self.lake.address} holds no lake yet: make one with `mmret run --lake {self.lake.address}`")
        connection = connect(self.lake)
        files = current_files(self.lake, BY_SHARD)
        for table in BY_SHARD:
            parts = []
            for shard, file in files[table].items():
                connection.execute(table_view(table, [file]).replace(f'VIEW "{table}"', f'VIEW "{table} of {shard}"', 1))
                parts.append(f'SELECT {sql_literal(shard)} AS shard, * FROM "{table} of {shard}"')
            whole = " UNION ALL ".join(parts) or f"SELECT NULL::VARCHAR AS shard, * FROM {table} WHERE false"
            connection.execute(f"CREATE VIEW {table}_by_shard AS {whole}")
        confine(connection, self.lake)
        return connection


def confine(connection: Any, lake: Lake) -> None:
    """Confine a connection in memory to reading the lake; cannot be undone on it."""
    root = readable_root(lake)
    for setting in (
        f"allowed_directories = [{sql_literal(root)}, {sql_literal(file_pattern(root))}]",
        f"memory_limit = '{MEMORY}'",
        "temp_directory = ''",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "python_enable_replacements = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")


@dataclass(frozen=True)
class Answer:
    """Rows of a free query, in order, and their column ``names``; ``more``: whether there were more rows than the limit."""

    names: list[str]
    rows: list[tuple[Any, ...]]
    more: bool

    def pair_ids(self) -> tuple[str, ...] | None:
        """Distinct values of column ``pair_id`` in their order, None where there is no such column."""
        if "pair_id" not in self.names:
            return None
        place = self.names.index("pair_id")
        return tuple(dict.fromkeys(str(row[place]) for row in self.rows if row[place] is not None))


def run_query(tables: Tables, sql: str, limit: int) -> Answer:
    """Run a person's SELECT for at most ``limit`` rows.

    Raises UserError for anything but one SELECT, for an error in it, and where it takes longer than ``SECONDS``.
    """
    import duckdb

    cursor = tables.cursor()
    try:
        statements = cursor.extract_statements(sql)
    except duckdb.Error as error:
        raise UserError(f"SQL: {error}") from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise UserError("SQL: give one SELECT; the page changes nothing but decisions")
    stop = threading.Timer(SECONDS, cursor.interrupt)
    stop.start()
    try:
        found = cursor.execute(statements[0])
        rows = found.fetchmany(limit + 1)
    except duckdb.InterruptException:
        raise UserError(f"SQL: stopped after {SECONDS:g} s; ask for less, or use `mmret sql`") from None
    except duckdb.Error as error:
        raise said_by_storage(error) or UserError(f"SQL: {error}") from None
    finally:
        stop.cancel()
    return Answer([column[0] for column in found.description], rows[:limit], len(rows) > limit)
