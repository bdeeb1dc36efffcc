"""What has to be computed again, and why: every partition of every stage compared with what it would be computed from now.

A partition's file records the fingerprint of its inputs (:mod:`mmret.freshness.fingerprints`). The parts behind that fingerprint
are kept beside the tables, in ``inputs/<fingerprint>.json``, so that a difference has a name: a setting, a code version, an
upstream partition. The same survey plans `mmret run`, `mmret backfill`, the schedule and the automation conditions, so they agree.
Cost: one Parquet footer per partition, once (0.2 ms), and hashing; the mining of n shards is compared with n (n + 1) / 2 of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from mmret.freshness.differences import differences
from mmret.freshness.fingerprints import inputs_of, upstream_of
from mmret.lake import Lake
from mmret.lake.inputs import read_inputs
from mmret.settings import Profile
from mmret.stages import RUNS, STAGES, UNPARTITIONED

State = Literal["current", "follows", "stale", "missing"]

RETRY_SECONDS = 3600
"""How long schedules and sensors wait before they send unanswered requests again; a person's `mmret run` sends them at once."""


@dataclass(frozen=True)
class Status:
    """The state of one partition. ``follows``: it fits what it reads as that is now, but some of that is to be computed again.

    ``waits_for``: stages it reads that are still to be computed, apart from those of its own run in the same partition.
    """

    table: str
    partition: str
    state: State
    reasons: tuple[str, ...] = ()
    waits_for: tuple[str, ...] = ()
    applies: bool = True
    """False where the stage has nothing to do with the partition, which is current without a file."""
    retry_later: bool = False
    """Stale only because requests got no answer, and the last try was not long ago: automation waits before it tries again."""


@dataclass(frozen=True)
class Work:
    """Tables of one partition that can be computed now, in this order; ``reasons``: why the first of them is not current."""

    tables: tuple[str, ...]
    partition: str
    reasons: tuple[str, ...]


class Snapshot(Lake):
    """A lake whose facts are each read once and then remembered, so that one survey sees one state."""

    def __init__(self, lake: Lake):
        super().__init__(lake.storage)
        self.facts = cache(super().facts)  # type: ignore[method-assign]
        self.shards = cache(super().shards)  # type: ignore[method-assign]


def partitions_of(lake: Lake, profile: Profile, table: str) -> list[str]:
    """Partitions that ``table`` should have: the shards, the one called ``all``, or the recipes that are or were trained,
    each behind those whose checkpoints it needs."""
    partitions = STAGES[table].partitions
    if partitions == "whole":
        return [UNPARTITIONED]
    if partitions == "recipe":
        trained = lake.partitions("checkpoints")
        return profile.in_training_order(r for r in profile.recipes if r in profile.train or r in trained)
    return lake.shards()


def survey(lake: Lake, profile: Profile) -> list[Status]:
    """The state of every partition of every stage, in the order they are computed in.

    >>> [(s.table, s.partition, s.reasons) for s in survey(lake, profile) if s.state == "stale"]
    """
    lake = Snapshot(lake)
    unfinished: set[tuple[str, str]] = set()
    found = []
    for run in RUNS:
        for table in run:
            for partition in partitions_of(lake, profile, table):
                status = _status(lake, profile, table, partition, run, unfinished)
                if status.state != "current" and not status.retry_later:
                    unfinished.add((table, partition))
                found.append(status)
    return found


def _status(
    lake: Lake, profile: Profile, table: str, partition: str, run: tuple[str, ...], unfinished: set[tuple[str, str]]
) -> Status:
    if not STAGES[table].applies(lake, profile, partition):
        return Status(table, partition, "current", applies=False)
    facts, inputs = lake.facts(table, partition), inputs_of(lake, profile, table, partition)
    # where nothing is to be computed, as in most surveys, nothing of it can be upstream
    upstream = upstream_of(lake, profile, table, partition, pinned=facts is None) if unfinished else ()
    pending = [r for r in upstream if r in unfinished]
    waits_for = tuple(dict.fromkeys(t for t, p in pending if not (t in run and p == partition)))
    first = tuple(f"{t} is to be computed first" for t in dict.fromkeys(t for t, _ in pending))
    if facts is None:
        return Status(table, partition, "missing", first or ("not computed yet",), waits_for)
    if inputs is None:
        return Status(table, partition, "stale", ("something it reads is missing", *first), waits_for)
    if facts.inputs != inputs.fingerprint:
        return Status(table, partition, "stale", tuple(differences(read_inputs(lake, facts.inputs), inputs)), waits_for)
    if STAGES[table].needs_retry(profile, facts):
        tried = time.time() - facts.written / 1e9
        why = f"{facts.notes['unanswered']:,} requests got no answer"
        return Status(table, partition, "stale", (why, *first), waits_for, retry_later=not pending and tried < RETRY_SECONDS)
    if pending:
        return Status(table, partition, "follows", first, waits_for)
    return Status(table, partition, "current")


def due(statuses: Iterable[Status], *, together: bool = False) -> list[Work]:
    """The work that can be done now, by run and partition; what is left out waits for it.

    By default everything returned may run at the same time. With ``together``, the caller runs it in order, as a Dagster
    backfill does: then a stage may also wait for work of its own run in *other* partitions.

    >>> due(survey(lake, profile))[0].tables
    """
    statuses = list(statuses)
    at = {(s.table, s.partition): s for s in statuses}
    work = []
    for run in RUNS:
        for partition in dict.fromkeys(s.partition for s in statuses if s.table == run[0]):
            tables: list[str] = []
            for table in run:
                status = at[(table, partition)]
                if status.state == "current" or status.retry_later:
                    continue
                if [t for t in status.waits_for if not (together and t in run)]:
                    break
                if tables or status.state != "follows":
                    tables.append(table)
            if tables:
                work.append(Work(tuple(tables), partition, at[(tables[0], partition)].reasons))
    return work


def new_pairs(lake: Lake, recipe: str) -> int:
    """How many triplets, imported ones included, are new since the checkpoint of ``recipe`` was trained; all if there is none.

    Counted by partition: one that has fewer rows than before counts as 0, not less.
    """
    rows = {p: facts.rows for p in lake.partitions("triplets") if (facts := lake.facts("triplets", p))}
    trained = lake.facts("checkpoints", recipe)
    if trained is None:
        return sum(rows.values())
    inputs = read_inputs(lake, trained.inputs)
    if inputs is None:
        return 0
    before = inputs["upstream"].get("triplets", {})
    return sum(max(0, n - before.get(partition, [None, 0])[1]) for partition, n in rows.items())
