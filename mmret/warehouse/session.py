"""A lake open for one query after another: each sees the state of its moment, and what a run writes meanwhile the next one sees.

Looking whether the lake has changed costs a ``stat`` a partition, in an object store a listing a table; opening it again, building
its catalogue.
"""

from __future__ import annotations

from typing import Any

from mmret.errors import UserError
from mmret.lake import Lake, history
from mmret.warehouse.catalogue import connect, open_catalogue, signature
from mmret.warehouse.contents import Mark


class Session:
    """The tables of ``lake`` as they are, or with ``as_of`` as they were (:func:`mmret.lake.history.as_of`).

    >>> Session(Lake("lakes/demo")).connection().execute("SELECT count(*) FROM triplets").fetchone()

    Raises UserError where there is no lake, or nothing of that name or time.
    """

    def __init__(self, lake: Lake, as_of: str | None = None):
        if not lake.partitions("corpus_manifest"):
            raise UserError(f"{lake.address} holds no lake yet: make one with `mmret run --lake {lake.address}`")
        self.lake, self.as_of = lake, as_of
        self.opened = 0
        """How often the lake has been opened: changes when the tables may have."""
        self._connection: Any = None
        self._seen: Mark | None = None

    def connection(self, look: bool = True) -> Any:
        """A DuckDB connection; the same one as before while the lake is unchanged. ``look``: see whether it is."""
        if self.as_of is not None:
            if self._connection is None:
                self._take(_of_state(self.lake, self.as_of))
        elif self._connection is None or look:
            seen = signature(self.lake)
            if seen != self._seen or self._connection is None:
                self._take(open_catalogue(self.lake, seen))
                self._seen = seen
        return self._connection

    def _take(self, connection: Any) -> None:
        self.close()
        # a name that is no table must not be looked for among this program's own variables
        connection.execute("SET python_enable_replacements = false")
        self._connection = connection
        self.opened += 1

    def close(self) -> None:
        """Let the files go."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _of_state(lake: Lake, as_of: str) -> Any:
    """A connection over the lake as it was; of a checkpoint, ``trained_on`` are the triplets that it was trained on,
    ``trained_on_tasks`` the rows of other tasks."""
    connection = connect(lake, history.as_of(lake, as_of))
    if lake.facts("checkpoints", as_of) is not None:
        from mmret.retriever.train.data_state import checkpoint_rows, checkpoint_task_rows

        connection.register("trained_on", checkpoint_rows(lake, as_of))
        connection.register("trained_on_tasks", checkpoint_task_rows(lake, as_of))
    return connection
