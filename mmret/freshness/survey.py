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

from mmret.atomic import write_text
from mmret.freshness import fingerprints as provenance
from mmret.freshness.fingerprints import UNPARTITIONED, Inputs
from mmret.lake import Facts, Lake
from mmret.schemas import SIGNALS
from mmret.settings import Profile

GROUPS: tuple[tuple[str, ...], ...] = (
    ("images",),
    ("towers",),
    (*SIGNALS, "candidates"),
    ("leaks",),
    ("neighbours", "pairs", "descriptions", "instructions", "triplets"),
    ("checkpoints", "evaluations"),
)
"""Stages that run together, partition by partition; what a group has to do is known once the groups before it are done."""

SHARDED = tuple(t for group in GROUPS for t in group if t not in ("towers", "leaks", "checkpoints", "evaluations"))
"""Stages partitioned by shard, in order."""

State = Literal["current", "follows", "stale", "missing"]

_SETTINGS = {
    "images": "ingest",
    "leaks": "leaks",
    "towers": "towers",
    "candidates": "mine",
    "neighbours": "mine.k",
    "pairs": "mine",
    "descriptions": "annotate",
    "instructions": "annotate",
    "triplets": "evaluate.held_out",
    "evaluations": "evaluate",
    **{s: f"encoders.{s}" for s in SIGNALS},
}
_SHOWN = 60  # characters of a setting's value


RETRY_SECONDS = 3600
"""How long schedules and sensors leave requests alone that got no answer; a person's `mmret run` sends them at once."""


@dataclass(frozen=True)
class Status:
    """One partition. ``follows``: current by what is there, to be looked at again once something before it is redone.

    ``waits_for``: stages it reads that are still to be computed, apart from those of its own group in the same partition.
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


def record(lake: Lake, inputs: Inputs) -> None:
    """Keep the parts behind a fingerprint, so that a later change can be named. Written once per fingerprint."""
    path = _recorded_at(lake, inputs.fingerprint)
    if path.exists():
        return
    upstream: dict[str, dict[str, list[Any]]] = {}
    for table, partition, facts in inputs.upstream:
        upstream.setdefault(table, {})[partition] = [facts.digest, facts.rows]
    write_text(
        path,
        json.dumps(
            {"table": inputs.table, "version": inputs.version, "settings": inputs.settings, "upstream": upstream},
            default=str,
            separators=(",", ":"),
        ),
    )


def recorded(lake: Lake, fingerprint: str) -> dict[str, Any] | None:
    """What :func:`record` kept of a fingerprint: table, version, settings, upstream {table: {partition: [digest, rows]}}."""
    try:
        return json.loads(_recorded_at(lake, fingerprint).read_text())
    except (FileNotFoundError, ValueError):
        return None


def _recorded_at(lake: Lake, fingerprint: str) -> Path:
    return lake.root / "inputs" / f"{fingerprint}.json"


def partitions_of(lake: Lake, profile: Profile, table: str) -> list[str]:
    """Partitions ``table`` should have: shards, the whole, or the recipes that are trained by default or were trained."""
    if table in ("towers", "leaks"):
        return [UNPARTITIONED]
    if table in ("checkpoints", "evaluations"):
        trained = lake.partitions("checkpoints")
        return [r for r in profile.recipes if r in profile.train or r in trained]
    return lake.shards()


def survey(lake: Lake, profile: Profile) -> list[Status]:
    """Every partition of every stage, in the order they are computed in."""
    lake = Snapshot(lake.root)
    unsettled: set[tuple[str, str]] = set()
    found = []
    for group in GROUPS:
        for table in group:
            for partition in partitions_of(lake, profile, table):
                status = _status(lake, profile, table, partition, group, unsettled)
                if status.state != "current" and not status.rests:
                    unsettled.add((table, partition))
                found.append(status)
    return found


def _status(
    lake: Lake, profile: Profile, table: str, partition: str, group: tuple[str, ...], unsettled: set[tuple[str, str]]
) -> Status:
    reads = provenance.reads(lake, profile, table, partition)
    pending = [r for r in reads if r in unsettled]
    waits_for = tuple(dict.fromkeys(t for t, p in pending if not (t in group and p == partition)))
    first = tuple(f"{t} is to be computed first" for t in dict.fromkeys(t for t, _ in pending))
    facts, inputs = lake.facts(table, partition), provenance.inputs_of(lake, profile, table, partition)
    if facts is None:
        return Status(table, partition, "missing", first or ("not computed yet",), waits_for)
    if inputs is None:
        return Status(table, partition, "stale", ("something it reads is missing", *first), waits_for)
    if facts.inputs != inputs.fingerprint:
        return Status(table, partition, "stale", tuple(differences(recorded(lake, facts.inputs), inputs)), waits_for)
    if provenance.STAGES[table].unfinished(profile, facts):
        tried = time.time() - lake.path(table, partition).stat().st_mtime
        why = f"{facts.notes['unanswered']:,} requests got no answer"
        return Status(table, partition, "stale", (why, *first), waits_for, rests=not pending and tried < RETRY_SECONDS)
    if pending:
        return Status(table, partition, "follows", first, waits_for)
    return Status(table, partition, "current")


def differences(before: dict[str, Any] | None, now: Inputs) -> list[str]:
    """In words, what a partition would be computed from now that it was not computed from ``before``."""
    if before is None:
        return ["computed from other inputs (which ones was not recorded)"]
    said = []
    if before["version"] != now.version:
        said.append(f"code version {before['version']} → {now.version}")
    name = _SETTINGS.get(now.table, "recipes" if now.table == "checkpoints" else now.table)
    said += _changed(name, before["settings"], json.loads(json.dumps(now.settings, default=str)))
    after: dict[str, dict[str, Facts]] = {}
    for table, partition, facts in now.upstream:
        after.setdefault(table, {})[partition] = facts
    for table in dict.fromkeys((*before["upstream"], *after)):
        old, new = before["upstream"].get(table, {}), after.get(table, {})
        if added := [p for p in new if p not in old]:
            said.append(f"{table}: new {_named(added)}")
        if changed := [p for p in new if p in old and old[p][0] != new[p].digest]:
            said.append(f"{table}: {_named(changed)} changed")
        if gone := [p for p in old if p not in new]:
            said.append(f"{table}: {_named(gone)} no longer read")
    return said or ["computed from other inputs"]


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
    """What can be computed now, group by group and partition by partition; the rest waits for it.

    With ``together``, a stage may also count on its own group's work in *other* partitions, as a Dagster backfill does,
    which puts them in order; without, everything returned may run at once.
    """
    statuses = list(statuses)
    at = {(s.table, s.partition): s for s in statuses}
    work = []
    for group in GROUPS:
        for partition in dict.fromkeys(s.partition for s in statuses if s.table == group[0]):
            tables: list[str] = []
            for table in group:
                status = at[(table, partition)]
                if status.state == "current" or status.rests:
                    continue
                if [t for t in status.waits_for if not (together and t in group)]:
                    break
                if tables or status.state != "follows":
                    tables.append(table)
            if tables:
                work.append(Work(tuple(tables), partition, at[(tables[0], partition)].reasons))
    return work


def new_pairs(lake: Lake, recipe: str) -> int:
    """Triplets there are beyond those that the checkpoint of ``recipe`` was offered; all of them where there is none."""
    rows = sum(facts.rows for s in lake.shards() if (facts := lake.facts("triplets", s)))
    trained = lake.facts("checkpoints", recipe)
    if trained is None:
        return rows
    before = recorded(lake, trained.inputs)
    return rows - sum(n for _, n in before["upstream"].get("triplets", {}).values()) if before else 0
