"""Keeps the files of answers few: small ones are merged into larger, and every answer stays.

In a local folder eight files of a like size are merged whenever there are as many, under the kernel's lock. Where a lock says
nothing about other machines (an object store, a network file system) only :func:`merge_answers` merges, which is run by whoever
maintains the lake: it writes the merged file, notes which ones it stands for, and deletes those when an hour has passed, so that
whoever has listed them can still read them. Two that do so at once store some answers twice, which does no harm. Costs reading and
writing the small files once; memory of ``MAX_MERGE_ROWS`` answers.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmret.annotate.segments import Gone, Segment, Segments, keys_of, segments_of, sorted_by_key
from mmret.storage import Storage

FILES_PER_MERGE = 8  # of a like size, into one
MAX_MERGE_ROWS = 2**16
"""Answers in a merged file, at most; bounds the memory of a merge, and makes files of some tens of megabytes."""
READABLE_S = 3600
"""How long files that were merged stay beside the merged one: longer than anybody takes from listing to reading."""
_NOTES = "merged"


def merge_like_sizes(segments: Segments, kind: str) -> None:
    """Merge eight files of a like size of a local folder into one, where there are as many, nobody else is merging, and a lock
    would tell."""
    tiers: dict[int, list[Segment]] = {}
    for segment in segments.of(kind):
        if segment.rows * FILES_PER_MERGE <= MAX_MERGE_ROWS:
            tiers.setdefault(int(np.log(segment.rows) / np.log(FILES_PER_MERGE)), []).append(segment)
    ripe = next((found for found in tiers.values() if len(found) >= FILES_PER_MERGE), None)
    if ripe is None:
        return
    with _alone(segments.storage, f"{segments.folder}/{kind}") as free:
        if free and _merge(segments, kind, ripe) is not None:
            segments.delete(ripe)


def merge_answers(storage: Storage, now: int, folder: str = "answers") -> dict[str, int]:
    """Merge small files of answers, and delete those that were merged an hour before ``now`` (ns since 1970); counts of both.

    Safe beside readers and writers. Does nothing in a local folder with locks, where files are merged as they are written.

    >>> merge_answers(lake.storage, time.time_ns())
    {'answer_files_merged': 12, 'answer_files_made': 1, 'answer_files_dropped': 0}
    """
    done = {"answer_files_merged": 0, "answer_files_made": 0, "answer_files_dropped": 0}
    segments = segments_of(storage, folder)
    for kind in segments.kinds():
        if storage.is_local and _has_locks(storage, f"{folder}/{kind}"):
            continue
        waiting = _drop_merged(segments, kind, now, done)
        for group in _groups([s for s in segments.of(kind) if s.key not in waiting]):
            merged = _merge(segments, kind, group)
            if merged is None:
                continue
            note = {"into": merged.key, "from": [s.key for s in group]}
            storage.write(_note_key(segments, kind, merged), json.dumps(note).encode())
            done["answer_files_merged"] += len(group)
            done["answer_files_made"] += 1
    return done


def _drop_merged(segments: Segments, kind: str, now: int, done: dict[str, int]) -> set[str]:
    """Delete the files that were merged long enough ago; returns the keys of those that wait for it."""
    storage, waiting = segments.storage, set()
    there = {s.key: s for s in segments.of(kind)}
    notes = sorted(storage.list(f"{segments.folder}/{kind}/{_NOTES}", below=False), key=lambda e: e.modified_ns)
    for entry in notes:
        try:
            note = json.loads(storage.read(entry.key))
        except FileNotFoundError:  # another one is at it
            continue
        if now - entry.modified_ns < READABLE_S * 10**9:
            waiting |= set(note["from"])
            continue
        if note["into"] in there:  # else the answers of its files are nowhere else: they are merged anew
            old = [there[key] for key in note["from"] if key in there]
            segments.delete(old)
            done["answer_files_dropped"] += len(old)
        storage.delete([entry.key])
    return waiting


def _groups(segments: list[Segment]) -> Iterator[list[Segment]]:
    """Small files to merge into one: eight or more, or enough to make a large one."""
    group: list[Segment] = []
    rows = 0
    for segment in sorted(segments, key=lambda s: s.rows):
        if segment.rows > MAX_MERGE_ROWS // 2:
            break
        if rows + segment.rows > MAX_MERGE_ROWS:
            yield group
            group, rows = [], 0
        group.append(segment)
        rows += segment.rows
    if len(group) >= FILES_PER_MERGE:
        yield group


def _merge(segments: Segments, kind: str, group: list[Segment]) -> Segment | None:
    """A file with the latest answer to every key of ``group``; None where another process has merged some of it."""
    segments.prepare(group)
    try:
        tables = [segments.table(s) for s in group]
    except Gone:
        return None
    merged = sorted_by_key(pa.concat_tables(tables))
    keys = keys_of(merged)
    first = np.concatenate([[True], keys[1:] != keys[:-1]])
    return segments.write(kind, merged if first.all() else merged.filter(pa.array(first)))


def _note_key(segments: Segments, kind: str, merged: Segment) -> str:
    return f"{segments.folder}/{kind}/{_NOTES}/{Path(merged.key).stem}.json"


@contextmanager
def _alone(storage: Storage, folder: str) -> Iterator[bool]:
    """Lock a folder of a local storage for the block; False where another process has it, or there are no locks. Never waits.

    Without locks (a network file system) other machines may be reading what would be deleted, and a file that is mapped
    there and goes ends its reader.
    """
    handle = os.open(Path(storage.shown(folder)), os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError:
            free = False
        yield free
    finally:
        os.close(handle)


def _has_locks(storage: Storage, folder: str) -> bool:
    handle = os.open(Path(storage.shown(folder)), os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
