"""A lake as it was: the same object with the tables of an earlier state, for everything that only reads.

Tables are read from the versions in ``history/`` (:mod:`mmret.lake.history`), pictures by their content id from where they lie now.
Costs what reading the lake costs.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from mmret.errors import UserError
from mmret.lake import history
from mmret.lake.partitions import Facts
from mmret.lake.store import Lake


class LakeAsOf(Lake):
    """Reads like a lake and is never written to. ``state`` names the file of each partition."""

    def __init__(self, lake: Lake, state: history.State):
        super().__init__(lake.storage)
        self.state = state

    def _files(self, table: str) -> dict[str, str]:
        if table not in self.state.files:
            raise UserError(f"--as-of {self.state.name}: {table} is not kept with this state; {', '.join(self.state.files)} are")
        return dict(self.state.files[table])

    def key(self, table: str, partition: str) -> str:
        """The version of a partition in this state; one that does not exist where it had none."""
        return self._files(table).get(partition, f"{history.HISTORY}/{table}/{partition}/none.parquet")

    def partitions(self, table: str) -> list[str]:
        return sorted(self._files(table))

    def write(self, table: str, partition: str, rows: pa.Table, inputs: str, **notes: Any) -> Facts:
        raise UserError(f"{self.address} as of {self.state.name} is read only")


def open_as_of(lake: Lake, as_of: str | None) -> Lake:
    """``lake`` as it was (:func:`mmret.lake.history.as_of` says how a state is named), or itself for None.

    >>> open_as_of(lake, "demo").read("triplets")  # those that recipe `demo` was trained on
    """
    return lake if as_of is None else LakeAsOf(lake, history.as_of(lake, as_of))
