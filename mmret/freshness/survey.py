"""What has to be computed again, and why: every partition of every stage compared with what it would be computed from now.

A partition's file records the fingerprint of its inputs (:mod:`mmret.freshness.fingerprints`). The parts behind that fingerprint
are kept beside the tables, in ``inputs/<fingerprint>.json``, so that a difference has a name: a setting, a code version, an
upstream partition. The same survey plans `mmret run`, `mmret backfill`, the schedule and the automation conditions, so they agree.
Cost: one Parquet footer per partition, once (0.2 ms), and hashing; the mining of n shards is compared with n (n + 1) / 2 of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from mmret.freshness.fingerprints import inputs_of, upstream_of
from mmret.lake import Facts, Lake
from mmret.lake.inputs import Inputs, read_inputs
from mmret.settings import Profile
from mmret.stages import RUNS, STAGES, UNPARTITIONED

State = Literal["current", "follows", "stale", "missing"]

_SHOWN = 60  # characters of a setting's value

RETRY_SECONDS = 3600
"""How long schedules and sensors leave requests alone that got no answer; a person's `mmret run` sends them at once."""


@dataclass(frozen=True)
class Status:
    """One partition. ``follows``: current by what is there, to be looked at again once something before it is redone.

    ``waits_for``: stages it reads that are still to be computed, apart from those of its own run in the same partition.
    """

    table: str
    partition: str
    state: State
    reasons: tuple[str, ...] = ()
    waits_for: tuple[str, ...] = ()
    rests: bool = False
    """Only requests without an answer are to be sent again, and the last try was not long ago: nothing by itself tries so soon."""


@dataclass(frozen=True)
class Work:
    """Stages of one partition that can be computed now, in this order, and why the first of them is not current."""

    tables: tuple[str, ...]
    partition: str
    reasons: tuple[str, ...]


class Snapshot(Lake):
    """The lake as it was when looked at: each fact is read once."""

    def __init__(self, root: str | Path):
        super().__init__(root)
        self.facts = cache(super().facts)  # type: ignore[method-assign]
        self.shards = cache(super().shards)  # type: ignore[method-assign]


def partitions_of(lake: Lake, profile: Profile, table: str) -> list[str]:
    """Partitions ``table`` should have: shards, the whole, or the recipes that are trained by default or were trained."""
    partitions = STAGES[table].partitions
    if partitions == "whole":
        return [UNPARTITIONED]
    if partitions == "recipe":
        trained = lake.partitions("checkpoints")
        return [r for r in profile.recipes if r in profile.train or r in trained]
    return lake.shards()


def survey(lake: Lake, profile: Profile) -> list[Status]:
    """Every partition of every stage, in the order they are computed in."""
    lake = Snapshot(lake.root)
    unfinished: set[tuple[str, str]] = set()
    found = []
    for run in RUNS:
        for table in run:
            for partition in partitions_of(lake, profile, table):
                status = _status(lake, profile, table, partition, run, unfinished)
                if status.state != "current" and not status.rests:
                    unfinished.add((table, partition))
                found.append(status)
    return found


def _status(
    lake: Lake, profile: Profile, table: str, partition: str, run: tuple[str, ...], unfinished: set[tuple[str, str]]
) -> Status:
    facts, inputs = lake.facts(table, partition), inputs_of(lake, profile, table, partition)
    upstream = upstream_of(lake, profile, table, partition, pinned=facts is None)
    pending = [r for r in upstream if r in unfinished]
    waits_for = tuple(dict.fromkeys(t for t, p in pending if not (t in run and p == partition)))
    first = tuple(f"{t} is to be computed first" for t in dict.fromkeys(t for t, _ in pending))
    if facts is None:
        return Status(table, partition, "missing", first or ("not computed yet",), waits_for)
    if inputs is None:
        return Status(table, partition, "stale", ("something it reads is missing", *first), waits_for)
    if facts.inputs != inputs.fingerprint:
        return Status(table, partition, "stale", tuple(differences(read_inputs(lake, facts.inputs), inputs)), waits_for)
    if STAGES[table].unfinished(profile, facts):
        tried = time.time() - facts.written / 1e9
        why = f"{facts.notes['unanswered']:,} requests got no answer"
        return Status(table, partition, "stale", (why, *first), waits_for, rests=not pending and tried < RETRY_SECONDS)
    if pending:
        return Status(table, partition, "follows", first, waits_for)
    return Status(table, partition, "current")


def differences(before: dict[str, Any] | None, now: Inputs) -> list[str]:
    """In words, what a partition would be computed from now that it was not computed from ``before``."""
    if before is None:
        return ["computed from other inputs (which ones was not recorded)"]
    reasons = []
    if before["version"] != now.version:
        reasons.append(f"code version {before['version']} → {now.version}")
    name = STAGES[now.table].settings
    reasons += _changed(name, before["settings"], json.loads(json.dumps(now.settings, default=str)))
    after: dict[str, dict[str, Facts]] = {}
    for table, partition, facts in now.upstream:
        after.setdefault(table, {})[partition] = facts
    for table in dict.fromkeys((*before["upstream"], *after)):
        old, new = before["upstream"].get(table, {}), after.get(table, {})
        if added := [p for p in new if p not in old]:
            reasons.append(f"{table}: new {_named(added)}")
        if changed := [p for p in new if p in old and old[p][0] != new[p].digest]:
            reasons.append(f"{table}: {_named(changed)} changed")
        if gone := [p for p in old if p not in new]:
            reasons.append(f"{table}: {_named(gone)} no longer read")
    if before.get("decisions", now.decisions) != now.decisions:
        reasons.append("the decisions of people changed")
    return reasons or ["computed from other inputs"]


def _named(partitions: list[str]) -> str:
    return partitions[0] if len(partitions) == 1 else f"{len(partitions)} partitions"


def _changed(name: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys((*old, *new))
        return [line for key in keys for line in _changed(f"{name}.{key}", old.get(key), new.get(key))]
    if old == new:
        return []
    before, after = (
        text if len(text := json.dumps(v, ensure_ascii=False)) <= _SHOWN else text[: _SHOWN - 1] + "…" for v in (old, new)
    )
    return [f"{name}: {before} → {after}"]


def due(statuses: Iterable[Status], *, together: bool = False) -> list[Work]:
    """What can be computed now, run by run and partition by partition; the rest waits for it.

    With ``together``, a stage may also count on its own run's work in *other* partitions, as a Dagster backfill does,
    which puts them in order; without, everything returned may run at once.
    """
    statuses = list(statuses)
    at = {(s.table, s.partition): s for s in statuses}
    work = []
    for run in RUNS:
        for partition in dict.fromkeys(s.partition for s in statuses if s.table == run[0]):
            tables: list[str] = []
            for table in run:
                status = at[(table, partition)]
                if status.state == "current" or status.rests:
                    continue
                if [t for t in status.waits_for if not (together and t in run)]:
                    break
                if tables or status.state != "follows":
                    tables.append(table)
            if tables:
                work.append(Work(tuple(tables), partition, at[(tables[0], partition)].reasons))
    return work


def new_pairs(lake: Lake, recipe: str) -> int:
    """Triplets there are, imported ones included, beyond those that the checkpoint of ``recipe`` was offered; all of them where
    there is no checkpoint. A partition that shrank takes nothing from what others gained.
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
