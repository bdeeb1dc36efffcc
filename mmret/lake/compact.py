"""Keep small lakes small and large ones fast: merge small Lance files, and drop versions that nothing refers to.

Safe beside readers: what was replaced is dropped only after the time that a reader may still need it (``history.days`` and
``history.bulky_days``), and what a checkpoint was trained on never while the checkpoint is there. Merging rewrites the Lance files
below a gigabyte that lie beside others, so it costs reading and writing those once; the rest is listing folders.
Answers are merged as they are written and never dropped: they were paid for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from mmret.lake import history
from mmret.lake.data_sets import data_set, suppress_conflicts
from mmret.lake.partitions import read_facts
from mmret.lake.store import Lake
from mmret.settings import HistorySettings

FRAGMENT_BYTES = 2**30
"""Lance files are merged up to about this size: few enough to open, small enough to rewrite."""
MANY_FRAGMENTS = 64
"""A run merges a table's files by itself beyond so many; `mmret compact` and the job always do."""
_DAY_NS = 86_400 * 10**9


@dataclass
class Report:
    """What a compaction did; bytes are of files that were on disk under no other name."""

    versions_dropped: int = 0
    states_dropped: int = 0
    temporary_files: int = 0
    lance_files_merged: int = 0
    lance_files_made: int = 0
    lance_versions_dropped: int = 0
    lance_files_dropped: int = 0
    bytes_freed: int = 0

    def counts(self) -> dict[str, int]:
        return asdict(self)


def compact(
    lake: Lake, settings: HistorySettings, now: int, refresh_catalogue: Callable[[Lake], object], lance: bool = True
) -> Report:
    """Compact ``lake`` at the time ``now`` (ns since 1970). Without ``lance`` its tables are left alone: a writer is at work.

    ``refresh_catalogue`` (:func:`mmret.warehouse.refresh_catalogue`) is called before anything is dropped, so that no catalogue on
    disk names a file that is gone.
    """
    report = Report(temporary_files=lake.sweep())
    if lake.partitions("corpus_manifest"):
        refresh_catalogue(lake)
    _drop_versions(lake, settings, now, report)
    if lance:
        for name in lake.lance_names():
            if lake.has_lance(name):
                _compact_table(lake, name, settings, report)
    return report


# -- versions of partitions -------------------------------------------------------------------------------------------


def _states_in_use(lake: Lake) -> set[str]:
    """Ids of the states that a checkpoint, a version of one that is still there, or a training at work refers to."""
    found = history.protected_states(lake)
    for recipe in lake.partitions("checkpoints"):
        keys = [lake.key("checkpoints", recipe), *(v.key for v in history.versions(lake, "checkpoints", recipe))]
        found |= {facts.notes["state"] for k in keys if (facts := read_facts(lake.storage, k)) and "state" in facts.notes}
    for entry in lake.storage.list("checkpoints"):
        if entry.key.endswith(f"/{history.STATE_FILE}"):
            found.add(json.loads(lake.storage.read(entry.key))["state"])
    return found


def _needed_digests(lake: Lake, states: set[str]) -> dict[tuple[str, str], set[str]]:
    """Digests that ``states`` need, by table and partition."""
    found: dict[tuple[str, str], set[str]] = {}
    for state in states:
        if not lake.storage.exists(history.state_key(state)):
            continue
        for table, parts in history.read_state(lake, state).items():
            for partition, digest in parts.items():
                found.setdefault((table, partition), set()).add(digest)
    return found


def _partitions_with_versions(lake: Lake) -> Iterator[tuple[str, str]]:
    """(table, partition) of all that may have something to drop in ``history/``."""
    for table in lake.storage.folders(history.HISTORY):
        if f"{history.HISTORY}/{table}" == history.STATES:
            continue
        if lake.storage.is_local:
            partitions = lake.storage.folders(f"{history.HISTORY}/{table}")
        else:  # in an object store a version that is alone is that of the current file, and looking at each costs requests
            there = set(lake.partitions(table))
            found = history.versions_of(lake, table)
            partitions = [name for name, versions in found.items() if len(versions) > 1 or name not in there]
        for partition in partitions:
            yield table, partition


def _drop_versions(lake: Lake, settings: HistorySettings, now: int, report: Report) -> None:
    # checkpoints first: a version of theirs that goes no longer holds on to a state
    order = sorted(_partitions_with_versions(lake), key=lambda where: where[0] != "checkpoints")
    protected: dict[tuple[str, str], set[str]] | None = None
    for table, partition in order:
        if protected is None and table != "checkpoints":
            protected = _needed_digests(lake, _states_in_use(lake))
        bulky = table in history.BULKY_TABLES
        before = now - int((settings.bulky_days if bulky else settings.days) * _DAY_NS)
        for version, replaced in _droppable(lake, table, partition, before, (protected or {}).get((table, partition), set())):
            report.bytes_freed += lake.storage.freed_by(version.key)
            history.note_dropped(lake, table, replaced)
            lake.storage.delete([version.key])
            report.versions_dropped += 1
    in_use = _states_in_use(lake)
    for entry in lake.storage.list(history.STATES, below=False):
        state, _, kind = entry.key.rpartition("/")[2].partition(".")
        if kind == "json" and state not in in_use and entry.modified_ns < now - int(settings.days * _DAY_NS):
            lake.storage.delete([entry.key])
            report.states_dropped += 1


def _droppable(lake: Lake, table: str, partition: str, before: int, protected: set[str]) -> list[tuple[history.Version, int]]:
    """Versions to drop, each with the time (ns) of its replacement: replaced earlier than ``before``, and of no digest in
    ``protected``; where several versions have a protected digest, the newest stays and the others may go.
    """
    current = history.current_version(lake, table, partition)
    versions, needed, found = history.versions(lake, table, partition), set(protected), []
    for at in range(len(versions) - 1, -1, -1):
        version = versions[at]
        replaced = versions[at + 1].written if at + 1 < len(versions) else version.written
        if version.digest in needed:
            needed.discard(version.digest)
        elif version.key != current and replaced < before:
            found.append((version, replaced))
    return found


# -- Lance tables -----------------------------------------------------------------------------------------------------


def _compact_table(lake: Lake, name: str, settings: HistorySettings, report: Report) -> None:
    table = lake.lance(name)
    dataset = data_set(table)
    fragments = dataset.get_fragments()
    rows = sum(f.physical_rows for f in fragments)
    size = sum(entry.size for entry in lake.storage.list(f"lance/{name}.lance/data"))
    if rows and len(fragments) > 1:
        target = max(1024, int(FRAGMENT_BYTES * rows / max(1, size)))
        with suppress_conflicts():
            made = dataset.optimize.compact_files(target_rows_per_fragment=min(target, 2**20))
            report.lance_files_merged += made.files_removed
            report.lance_files_made += made.files_added
    # versions that someone tagged are theirs; unverified files may be another process's append
    cleaned = data_set(table).cleanup_old_versions(
        older_than=timedelta(days=settings.bulky_days), error_if_tagged_old_versions=False
    )
    report.lance_versions_dropped += cleaned.old_versions
    report.lance_files_dropped += cleaned.data_files_removed + cleaned.index_files_removed + cleaned.deletion_files_removed
    report.bytes_freed += cleaned.bytes_removed


def needs_merging(lake: Lake) -> bool:
    """Whether some Lance table has so many files that merging them is worth its time."""
    tables = (name for name in lake.lance_names() if lake.has_lance(name))
    return any(len(data_set(lake.lance(name)).get_fragments()) > MANY_FRAGMENTS for name in tables)


def summary(report: Report) -> dict[str, Any]:
    """The counts of ``report`` that are not zero."""
    return {name: n for name, n in report.counts().items() if n}
