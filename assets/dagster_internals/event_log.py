"""The Dagster instance of `mmret run`: its SQLite event log keeps connections open, and steps print straight to the terminal.

Why: most of what a step costs is opening and closing connections. Dagster's own event log opens one per statement (some hundred a
step), and closing the last one of a file makes SQLite copy its write-ahead log into the file and wait for the disk. This event log
writes the same files, so a UI can read them at the same time, but keeps one connection per file and does not wait for the disk: a
killed process loses nothing; a machine that loses power may lose the last events of a history, never a table of the lake.

Dagster also copies what steps print into files for the UI. For that each run starts four processes, and output comes a second
late. `mmret run` has a terminal, so steps print there; what a step logs is in its events as always. Measured in
docs/performance.md.
"""

import io
import os
import sqlite3
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import dagster as dg
import sqlalchemy as db
from dagster._core.instance import types as instance_types
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._serdes import ConfigurableClassData
from sqlalchemy.pool import StaticPool

from assets.dagster_internals.run_storage import PersistentSqliteRunStorage

_OPEN_FILES = 4  # files: the index, and those of the last runs
_TIMEOUT = 60


class PersistentSqliteEventLogStorage(SqliteEventLogStorage):
    """An event log for one process that does one thing at a time; every statement still takes the storage's lock."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None):
        self._connections: OrderedDict[str, db.Connection] = OrderedDict()
        self._blank: bytes | None = None
        self._tables: set[str] = set()
        super().__init__(base_dir, inst_data)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: dict[str, Any]) -> SqliteEventLogStorage:
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[db.Connection]:
        with self._db_lock:
            connection = self._connection(shard)
            with connection.begin():
                yield connection

    def _connection(self, shard: str) -> db.Connection:
        if shard not in self._connections:
            engine = db.create_engine(
                self.conn_string_for_shard(shard),
                poolclass=StaticPool,
                connect_args={"timeout": _TIMEOUT, "check_same_thread": False},
            )
            if shard not in self._initialized_dbs:
                self._make(shard, engine)
                self._initialized_dbs.add(shard)
            connection = engine.connect()
            connection.exec_driver_sql("PRAGMA synchronous=NORMAL")
            connection.rollback()
            self._connections[shard] = connection
        self._connections.move_to_end(shard)
        while len(self._connections) > _OPEN_FILES:
            self._close(self._connections.popitem(last=False)[1])
        return self._connections[shard]

    def _make(self, shard: str, engine: db.Engine) -> None:
        """Make the file of a run, with its tables: the first by Dagster, later ones as copies of that file when it was empty."""
        path = self.path_for_shard(shard)
        if self._blank and not os.path.exists(path):
            with open(f"{path}.new", "wb") as file:
                file.write(self._blank)
            os.replace(f"{path}.new", path)
            return
        new = not os.path.exists(path)
        self._initdb(engine)
        if new:
            with closing(sqlite3.connect(path)) as connection:
                self._blank = connection.serialize()

    def has_table(self, table_name: str) -> bool:
        """Whether the table exists. The answer is remembered, since Dagster asks before every look at the partitions."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    @staticmethod
    def _close(connection: db.Connection) -> None:
        connection.close()
        connection.engine.dispose()

    def dispose(self) -> None:
        while self._connections:
            self._close(self._connections.popitem()[1])
        super().dispose()


class _NoWords(io.TextIOBase):
    """Where the words go that Dagster writes to standard error when it cannot write an event, before it raises the same error."""

    def write(self, text: str) -> int:
        return len(text)


def quiet_event_logger() -> None:
    """An event that cannot be written, as on a full disk, raises an error as before, and nothing is written to standard error."""
    instance_types.sys = SimpleNamespace(stderr=_NoWords(), exc_info=sys.exc_info)  # type: ignore[attr-defined]


def open_instance(home: str) -> dg.DagsterInstance:
    """The instance of ``home``: with this event log and without copies of the output, unless its dagster.yaml says otherwise."""
    quiet_event_logger()
    home = os.path.abspath(home)
    plain = InstanceRef.from_dir(home)
    if plain.compute_logs_data == InstanceRef.config_defaults(home)["compute_logs"]:
        plain = plain._replace(
            compute_logs_data=ConfigurableClassData(NoOpComputeLogManager.__module__, NoOpComputeLogManager.__name__, "{}")
        )
    data = plain.event_storage_data
    if data is None or data.class_name != "SqliteEventLogStorage":
        return dg.DagsterInstance.from_ref(plain)
    kept = ConfigurableClassData(__name__, PersistentSqliteEventLogStorage.__name__, data.config_yaml)
    plain = plain._replace(event_storage_data=kept, storage_data=None)
    runs = plain.run_storage_data
    if runs is not None and runs.class_name == "SqliteRunStorage":
        kept_runs = ConfigurableClassData(
            PersistentSqliteRunStorage.__module__, PersistentSqliteRunStorage.__name__, runs.config_yaml
        )
        plain = plain._replace(run_storage_data=kept_runs)
    return dg.DagsterInstance.from_ref(plain)
