"""The records of runs for `mmret run`: Dagster's SQLite file of them, read and written over one connection.

Why: Dagster opens a connection for each statement and asks the file for its columns before each look at a run, some ten times a run
and at each change of its state. The connection is kept here, and what columns there are is asked once. The file is the same, so a
UI reads and writes it at the same time. As for events (:mod:`assets.dagster_internals.event_log`), a killed process loses nothing.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import sqlalchemy as db
from dagster._core.storage.runs import SqliteRunStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy.pool import StaticPool

_TIMEOUT = 60


class PersistentSqliteRunStorage(SqliteRunStorage):
    """Runs for one process; threads take turns at the connection, a block at a time."""

    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None):
        super().__init__(conn_string, inst_data)
        self._lock = threading.RLock()
        self._opened: db.Connection | None = None

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: dict[str, Any]) -> SqliteRunStorage:
        return cls.from_local(inst_data=inst_data, **config_value)

    @contextmanager
    def connect(self) -> Iterator[db.Connection]:
        with self._lock:
            connection = self._connection()
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def _connection(self) -> db.Connection:
        if self._opened is None:
            engine = db.create_engine(
                self._conn_string, poolclass=StaticPool, connect_args={"timeout": _TIMEOUT, "check_same_thread": False}
            )
            self._opened = engine.connect()
            self._opened.exec_driver_sql("PRAGMA synchronous=NORMAL")
            self._opened.rollback()
        return self._opened

    @cached_property
    def _has_run_stats(self) -> bool:
        return super().has_run_stats_index_cols()

    def has_run_stats_index_cols(self) -> bool:
        return self._has_run_stats

    @cached_property
    def _has_backfill_id(self) -> bool:
        return super().has_backfill_id_column()

    def has_backfill_id_column(self) -> bool:
        return self._has_backfill_id

    def dispose(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened.engine.dispose()
                self._opened = None
        super().dispose()
