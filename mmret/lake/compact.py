"""Keep small lakes small and large ones fast: merge small Lance files, and drop versions that nothing refers to.

Safe beside readers: what was replaced is dropped only after the time that a reader may still need it (``history.days`` and
``history.bulky_days``), and what a checkpoint was trained on never while the checkpoint is there. Merging rewrites the Lance files
below a gigabyte that lie beside others, so it costs reading and writing those once; the rest is listing folders.
Answers are merged as they are written and never dropped: they were paid for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from mmret.lake import history
from mmret.lake.data_sets import data_folder, data_set
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
        for path in sorted((lake.root / "lance").glob("*.lance")):
            if lake.has_lance(path.stem):
                _compact_table(lake, path.stem, settings, report)
    return report


# -- versions of partitions -------------------------------------------------------------------------------------------


def _states_in_use(lake: Lake) -> set[str]:
    """Ids of the states that a checkpoint, a version of one that is still there, or a training at work refers to."""
    found = history.protected_states(lake)
    for recipe in lake.partitions("checkpoints"):
        paths = [lake.path("checkpoints", recipe), *(v.path for v in history.versions(lake, "checkpoints", recipe))]
        found |= {facts.notes["state"] for p in paths if (facts := read_facts(p)) and "state" in facts.notes}
    for path in (lake.root / "checkpoints").glob(f"*/{history.STATE_FILE}"):
        found.add(json.loads(path.read_text())["state"])
    return found


def _needed_digests(lake: Lake, states: set[str]) -> dict[tuple[str, str], set[str]]:
    """Digests that ``states`` need, by table and partition."""
    found: dict[tuple[str, str], set[str]] = {}
    for state in states:
        if not history.state_path(lake, state).is_file():
            continue
        for table, parts in history.read_state(lake, state).items():
            for partition, digest in parts.items():
                found.setdefault((table, partition), set()).add(digest)
    return found


def _partitions_with_versions(lake: Lake) -> Iterator[tuple[str, str]]:
    """(table, partition) of all that has a folder in ``history/``."""
    for table in sorted(history.folder(lake).glob("*")):
        if table.is_dir() and table.name != history.STATES:
            for partition in sorted(table.iterdir()):
                if partition.is_dir():
                    yield table.name, partition.name


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
            stat = version.path.stat()
            report.bytes_freed += stat.st_size if stat.st_nlink == 1 else 0
            history.note_dropped(lake, table, replaced)
            version.path.unlink()
            report.versions_dropped += 1
    in_use = _states_in_use(lake)
    for path in (history.folder(lake) / history.STATES).glob("*.json"):
        if path.stem not in in_use and path.stat().st_mtime_ns < now - int(settings.days * _DAY_NS):
            path.unlink()
            report.states_dropped += 1


def _droppable(lake: Lake, table: str, partition: str, before: int, protected: set[str]) -> list[tuple[history.Version, int]]:
    """Versions to drop, each with the time (ns) of its replacement: replaced earlier than ``before``, and of no digest in
    ``protected``; where several versions have a protected digest, the newest stays and the others may go.
    """
    try:
        current = lake.path(table, partition).stat().st_ino
    except FileNotFoundError:
        current = None
    versions, needed, found = history.versions(lake, table, partition), set(protected), []
    for at in range(len(versions) - 1, -1, -1):
        version = versions[at]
        replaced = versions[at + 1].written if at + 1 < len(versions) else version.written
        if version.digest in needed:
            needed.discard(version.digest)
        elif version.path.stat().st_ino != current and replaced < before:
            found.append((version, replaced))
    return found


# -- Lance tables -----------------------------------------------------------------------------------------------------


def _compact_table(lake: Lake, name: str, settings: HistorySettings, report: Report) -> None:
    table = lake.lance(name)
    dataset = data_set(table)
    fragments = dataset.get_fragments()
    rows = sum(f.physical_rows for f in fragments)
    size = sum(entry.stat().st_size for entry in os.scandir(data_folder(table)))
    if rows and len(fragments) > 1:
        target = max(1024, int(FRAGMENT_BYTES * rows / max(1, size)))
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
    tables = (p.stem for p in (lake.root / "lance").glob("*.lance"))
    return any(len(data_set(lake.lance(t)).get_fragments()) > MANY_FRAGMENTS for t in tables if lake.has_lance(t))


def summary(report: Report) -> dict[str, Any]:
    """The counts of ``report`` that are not zero."""
    return {name: n for name, n in report.counts().items() if n}
