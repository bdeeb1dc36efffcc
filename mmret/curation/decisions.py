"""The decisions of people who review triplets: rows ``accepted`` or ``rejected``, which are added and never changed.

Each reviewing session has files of its own, so two people never overwrite each other; a file is replaced in one step, so a crash
loses at most the last decision. The latest decision on a pair counts; ``withdrawn`` takes one back. A setting says how exports
and training use them (:data:`DecisionRule`). Cost: a few milliseconds per decision, since a session starts a new file after
``ROWS_PER_FILE`` rows; reading is one pass over all rows.
"""

from __future__ import annotations

import getpass
import threading
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from mmret.errors import UserError
from mmret.hashing import fingerprint
from mmret.lake import Lake
from mmret.schemas import DECISIONS

Decision = Literal["accepted", "rejected", "withdrawn"]
DecisionRule = Literal["ignore", "without_rejected", "only_accepted"]
"""Which triplets are used: all of them, all but those that were rejected, or only those that were accepted."""

ROWS_PER_FILE = 2000
_INSTANT = "%Y-%m-%dT%H:%M:%S.%fZ"


class DecisionLog:
    """One session's decisions. Safe for the threads of one process; other processes have logs of their own."""

    def __init__(self, lake: Lake, reviewer: str | None = None):
        self.lake = lake
        self.reviewer = reviewer or getpass.getuser()
        self._lock = threading.Lock()
        self._last = datetime.min.replace(tzinfo=UTC)
        self._start()

    def _start(self) -> None:
        self._partition = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}"
        self._rows = DECISIONS.empty_table()

    def add(self, pair_ids: Sequence[str], decision: Decision, note: str | None = None) -> None:
        """Record ``decision`` on every pair; on return the rows are on disk, all of them, or the call raised."""
        if decision not in get_args(Decision):
            raise UserError(f"a decision is {', '.join(get_args(Decision))}, not '{decision}'")
        if not pair_ids:
            return
        with self._lock:
            # the clock of a machine can be set back; the order of a session must not be
            self._last = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
            row = {"decision": decision, "note": note or None, "reviewer": self.reviewer, "decided_at": f"{self._last:{_INSTANT}}"}
            added = pa.Table.from_pylist([{"pair_id": i, **row} for i in pair_ids], DECISIONS)
            rows = pa.concat_tables([self._rows, added]).combine_chunks()
            self.lake.write("decisions", self._partition, rows, inputs="")
            self._rows = rows
            if rows.num_rows >= ROWS_PER_FILE:
                self._start()


def latest_decisions(lake: Lake, pair_ids: Sequence[str] | None = None) -> pa.Table:
    """The decision that counts for every pair that has one (of ``pair_ids``), columns of DECISIONS, sorted by pair_id."""
    chosen = None if pair_ids is None else pc.field("pair_id").isin(list(pair_ids))
    if not lake.partitions("decisions"):
        return DECISIONS.empty_table()
    import polars as pl  # a tenth of a second: not for a survey of a lake without any

    rows = pl.from_arrow(lake.read("decisions", filters=chosen))
    last = rows.sort("decided_at", maintain_order=True).unique("pair_id", keep="last")
    return last.filter(pl.col("decision") != "withdrawn").sort("pair_id").to_arrow().cast(DECISIONS)


def apply_decisions(lake: Lake, triplets: pa.Table, rule: DecisionRule) -> pa.Table:
    """Rows of ``triplets`` (any table with ``pair_id``) that ``rule`` leaves, in their order.

    >>> apply_decisions(lake, lake.read("triplets"), "without_rejected")
    """
    if rule == "ignore":
        return triplets
    last = latest_decisions(lake)
    kind = "rejected" if rule == "without_rejected" else "accepted"
    named = pc.is_in(triplets["pair_id"], last.filter(pc.equal(last["decision"], kind))["pair_id"].combine_chunks())
    return triplets.filter(pc.invert(named) if rule == "without_rejected" else named)


def decisions_fingerprint(lake: Lake, rule: DecisionRule) -> str | None:
    """Changes when, and only when, ``rule`` leaves out other pairs; None under ``ignore`` and where nobody rejected anything."""
    if rule == "ignore":
        return None
    last = latest_decisions(lake)
    kind = "rejected" if rule == "without_rejected" else "accepted"
    ids = last.filter(pc.equal(last["decision"], kind))["pair_id"].to_pylist()
    return fingerprint(ids) if ids or rule == "only_accepted" else None
