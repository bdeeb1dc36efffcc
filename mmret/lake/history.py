"""Earlier states of a lake: each partition file keeps a second name in ``history/``, so what is replaced can still be read.

``<lake>/history/<table>/<partition>/<written>-<digest>.parquet`` is a hard link of the partition's file: no copy, and no space
until the file is replaced; in an object store it is a copy, made there.
So the lake as it was at a time is a list of files, and so is what a checkpoint was trained on: its
*state*, kept under ``history/states/`` by its own digest. :mod:`mmret.lake.compact` drops versions that nothing refers to.
Cost: two system calls a write; a state of 10,000 partitions is listed in about 0.2 s.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmret.errors import UserError
from mmret.lake.partitions import Facts, PartitionFiles, facts_of, read_facts, read_files
from mmret.schemas import TABLES
from mmret.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

BULKY_TABLES = ("candidates", "neighbours")
"""Large tables that say nothing that ``pairs`` does not: their versions are not protected by checkpoints."""
APPEND_ONLY_TABLES = ("decisions",)
"""Tables whose rows have a time and are only ever added: a version is made where a checkpoint needs it, not at each write."""
LINEAGE_TABLES = tuple(t for t in TABLES if t not in (*BULKY_TABLES, "checkpoints", "evaluations", "teacher_scores", "verdicts"))
"""Tables whose versions stay as long as a checkpoint that was trained on them: the lineage of its triplets."""
HISTORY = "history"
"""The folder of versions and states."""
STATES = f"{HISTORY}/states"
_CLEANED, _FORGOTTEN, _RUNS = f"{HISTORY}/cleaned", f"{HISTORY}/forgotten.json", f"{HISTORY}/runs.jsonl"


@dataclass(frozen=True)
class Version:
    """One file that was a partition: since ``written`` (ns since 1970), with the digest of its content."""

    written: int
    digest: str
    key: str


@dataclass(frozen=True)
class State:
    """The files of a lake's tables at some time; ``name`` is how a person named that state."""

    name: str
    storage: Storage
    files: Mapping[str, Mapping[str, str]]
    """Keys by table and partition."""
    when: int | None = None
    """Time (ns since 1970), where the state is that of a time."""

    def read(self, table: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
        """Rows of ``table`` in this state, in partition order."""
        return read_files(self.storage, table, self.files.get(table, {}).values(), columns, filters)


def version_key(table: str, partition: str, written: int, digest: str) -> str:
    """The key of the version of a partition that was written at ``written`` (ns) with that digest of its content."""
    return f"{HISTORY}/{table}/{partition}/{written:020d}-{digest or '0' * 16}.parquet"


def version_for(lake: PartitionFiles, table: str, partition: str, facts: Facts) -> str | None:
    """The key of the version that a partition's new file with ``facts`` is to be; None for tables without.

    Call it before the file is written: what is there now becomes a version too. Where the file system has no hard links no version
    is made, and :func:`current_state` copies what a checkpoint needs.
    """
    if table in APPEND_ONLY_TABLES:
        return None
    if lake.storage.is_local:  # in an object store every file was given its version when it was written
        with suppress(UserError):  # a damaged file is replaced, not kept
            current_version(lake, table, partition)
    return version_key(table, partition, facts.written, facts.digest)


def versions(lake: PartitionFiles, table: str, partition: str) -> list[Version]:
    """The versions of a partition that are still there, oldest first; the last is the current one wherever hard links work."""
    folder = f"{HISTORY}/{table}/{partition}"
    return [_version(f"{folder}/{name}") for name in lake.storage.names(folder) if name.endswith(".parquet")]


def versions_of(lake: PartitionFiles, table: str) -> dict[str, list[Version]]:
    """The same of every partition of ``table`` that has any, by one listing."""
    found: dict[str, list[Version]] = {}
    for entry in lake.storage.list(f"{HISTORY}/{table}"):
        if entry.key.endswith(".parquet"):
            found.setdefault(entry.key.split("/")[-2], []).append(_version(entry.key))
    return found


def _version(key: str) -> Version:
    written, _, digest = key.rpartition("/")[2].removesuffix(".parquet").partition("-")
    return Version(int(written), digest, key)


def current_version(lake: PartitionFiles, table: str, partition: str, copy: bool = False) -> str | None:
    """Key in ``history/`` of the partition's current file, which is given it where it has none; None where that is not possible.

    ``copy``: copy it if need be, on a file system without hard links.
    """
    current = lake.key(table, partition)
    if lake.storage.is_local:
        return _linked_version(lake, table, partition, current, copy)
    facts = lake.facts(table, partition)
    if facts is None:
        return None
    name = version_key(table, partition, facts.written, facts.digest)
    if not lake.storage.exists(name):
        lake.storage.copy(current, name)
    return name


def _linked_version(lake: PartitionFiles, table: str, partition: str, current: str, copy: bool) -> str | None:
    """The same in a local folder, where a version is told by the file itself."""
    if not lake.storage.exists(current):
        return None
    for version in reversed(versions(lake, table, partition)):
        if lake.storage.is_same(version.key, current):
            return version.key
    aside = f"{HISTORY}/{table}/{partition}/.version.{uuid.uuid4().hex[:12]}.tmp"
    try:
        lake.storage.copy(current, aside) if copy else lake.storage.link(current, aside)
        facts = read_facts(lake.storage, aside)
        # files of before versions were kept have no time of their own
        name = version_key(table, partition, facts.written or lake.storage.path(aside).stat().st_mtime_ns, facts.digest)
        lake.storage.copy(aside, name)
    except OSError:
        if copy:
            raise
        return None
    finally:
        lake.storage.delete([aside])
    return name


def current_state(lake: PartitionFiles, tables: tuple[str, ...] = LINEAGE_TABLES, name: str = "now") -> State:
    """The lake's state now: the files of ``tables`` under names that do not change, whatever is written meanwhile."""
    return State(name, lake.storage, {table: _current_versions(lake, table) for table in tables})


def _current_versions(lake: PartitionFiles, table: str) -> dict[str, str]:
    """By partition, the version of its current file, which is made where there is none."""
    if lake.storage.is_local:
        return {p: key for p in lake.partitions(table) if (key := current_version(lake, table, p, copy=True))}
    there = {version.key for each in versions_of(lake, table).values() for version in each}
    found = {}
    for partition, footer in lake.footers(table).items():
        facts = facts_of(lake.storage, lake.key(table, partition), footer)
        key = version_key(table, partition, facts.written, facts.digest)
        # replaced or removed since, or without a version: asked for by itself
        if key in there or (key := current_version(lake, table, partition, copy=True)):
            found[partition] = key
    return found


def record_state(lake: PartitionFiles, state: State) -> str:
    """Write what ``state`` consists of to ``history/states/``; returns its id, the digest of what it lists."""
    listed = {t: {p: _digest(key) for p, key in parts.items()} for t, parts in state.files.items()}
    text = json.dumps(listed, sort_keys=True, indent=0)
    state_id = hashlib.sha256(text.encode()).hexdigest()[:16]
    if not lake.storage.exists(state_key(state_id)):
        lake.storage.write(state_key(state_id), text.encode())
    return state_id


def _digest(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".parquet").partition("-")[2]


def read_state(lake: PartitionFiles, state_id: str) -> dict[str, dict[str, str]]:
    """Digests by table and partition of a recorded state. Raises UserError where it is not there."""
    data, _ = lake.storage.read_with_token(state_key(state_id))
    if data is None:
        raise UserError(
            f"{lake.address} has no recorded state {state_id}: the checkpoint is of another lake, or history/ was deleted"
        )
    return json.loads(data)


def state_by_id(lake: PartitionFiles, state_id: str, name: str) -> State:
    """The files of a recorded state. Raises UserError naming the first that is gone."""
    files: dict[str, dict[str, str]] = {t: {} for t in LINEAGE_TABLES}
    for table, parts in read_state(lake, state_id).items():
        for partition, digest in parts.items():
            have = [v.key for v in versions(lake, table, partition) if v.digest == digest]
            if not have and state_id in forgotten_states(lake):
                raise UserError(
                    f"{name}: its rows can no longer be listed: {forgotten_states(lake)[state_id]:,} pictures in them have opted "
                    "out, and what held them was dropped with `mmret compact --forget-opted-out`"
                )
            if not have:
                raise UserError(
                    f"{name}: {table} of {partition} with digest {digest} is not in {lake.storage.shown(HISTORY)} any more"
                )
            files.setdefault(table, {})[partition] = have[-1]
    return State(name, lake.storage, files)


def state_key(state_id: str) -> str:
    """The key of the object that lists a recorded state."""
    return f"{STATES}/{state_id}.json"


@contextmanager
def protect_state(lake: PartitionFiles, state_id: str) -> Iterator[None]:
    """Inside the block the state is not dropped: for work on it while no checkpoint refers to it yet."""
    with lake.storage.mark(f"{STATES}/{state_id}.{uuid.uuid4().hex[:12]}.held"):
        yield


def protected_states(lake: PartitionFiles) -> set[str]:
    """Ids of the states that somebody protects (:func:`protect_state`); marks that a killed process left are removed."""
    marks = (entry.key for entry in lake.storage.list(STATES, below=False) if entry.key.endswith(".held"))
    return {mark.rpartition("/")[2].partition(".")[0] for mark in marks if lake.storage.is_marked(mark)}


def _read_json(lake: PartitionFiles, key: str) -> dict[str, Any]:
    data, _ = lake.storage.read_with_token(key)
    return json.loads(data) if data else {}


def dropped_until(lake: PartitionFiles) -> dict[str, int]:
    """Time (ns) before which replaced versions have been dropped: ``bulky`` of bulky tables, ``kept`` of the others; 0: none."""
    return {"kept": 0, "bulky": 0} | _read_json(lake, _CLEANED)


def note_dropped(lake: PartitionFiles, table: str, replaced: int) -> None:
    """Note that a version of ``table`` that was replaced at ``replaced`` (ns) is about to be dropped: first, so that a crash leaves
    no gap unsaid."""
    if table in APPEND_ONLY_TABLES:  # of which a state at a time does not speak
        return
    kind = "bulky" if table in BULKY_TABLES else "kept"
    if replaced > dropped_until(lake)[kind]:
        lake.storage.update(_CLEANED, lambda data: _later(data, kind, replaced))


def _later(data: bytes | None, kind: str, replaced: int) -> bytes:
    watermark = {"kept": 0, "bulky": 0} | (json.loads(data) if data else {})
    return json.dumps(watermark | {kind: max(replaced, watermark[kind])}).encode()


def note_forgotten(lake: PartitionFiles, states: Mapping[str, int]) -> None:
    """Note that rows of ``states`` are about to be dropped because pictures in them have opted out, and how many pictures."""
    known = forgotten_states(lake)
    if new := {state: n for state, n in states.items() if n > known.get(state, -1)}:
        lake.storage.write(_FORGOTTEN, (json.dumps(known | new, indent=2) + "\n").encode())


def forgotten_states(lake: PartitionFiles) -> dict[str, int]:
    """By the id of a state whose rows were dropped because pictures in them have opted out: how many pictures."""
    return _read_json(lake, _FORGOTTEN)


def state_at(lake: PartitionFiles, when: int, name: str) -> State:
    """The lake as it was at ``when`` (ns since 1970); without bulky tables where their versions have been dropped.

    Raises UserError where versions of other tables have been.
    """
    gone = dropped_until(lake)
    if when < gone["kept"]:
        raise UserError(
            f"--as-of {name}: versions replaced before {iso_time(gone['kept'])} have been dropped; what a checkpoint was "
            'trained on is kept, `mmret sql "SELECT * FROM checkpoints"` lists them'
        )
    tables = [t for t in TABLES if t not in APPEND_ONLY_TABLES and (t not in BULKY_TABLES or when >= gone["bulky"])]
    files: dict[str, dict[str, str]] = {t: {} for t in tables}
    for table in tables:
        if lake.storage.is_local:  # in an object store every file was given its version when it was written
            for partition in lake.partitions(table):
                current_version(lake, table, partition, copy=table in LINEAGE_TABLES)
        known = versions_of(lake, table)
        for partition in lake.partitions(table):
            if then := [v for v in known.get(partition, ()) if v.written <= when]:
                files[table][partition] = then[-1].key
    if not any(files.values()):
        raise UserError(f"--as-of {name}: {lake.address} had no tables at {iso_time(when)}")
    return State(name, lake.storage, files, when)


def log_run(lake: PartitionFiles, name: str, started: int, computed: Mapping[str, int]) -> None:
    """Add a finished run to ``history/runs.jsonl``, so that the state it left can be asked for by its name."""
    line = json.dumps({"run": name, "started": started, "ended": time.time_ns(), "computed": dict(computed)})
    lake.storage.update(_RUNS, lambda log: (log or b"") + line.encode() + b"\n")


def runs(lake: PartitionFiles) -> list[dict[str, Any]]:
    """Finished runs, oldest first: run, started and ended (ns), rows computed per table. A line cut by a crash is passed over."""
    log, _ = lake.storage.read_with_token(_RUNS)
    found = []
    for line in (log or b"").decode().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def runs_token(lake: PartitionFiles) -> str | None:
    """Another text whenever a run has been logged; None before the first."""
    return lake.storage.token(_RUNS)


def iso_time(when: int) -> str:
    """A time in ns since 1970 as ISO 8601, UTC."""
    return datetime.fromtimestamp(when / 1e9, UTC).isoformat(timespec="milliseconds")


def as_of(lake: PartitionFiles, text: str) -> State:
    """The state that ``--as-of TEXT`` means: a recipe's checkpoint, a checkpoint's folder, a run, a recorded state's id, or a time.

    Times are ISO 8601, local where no zone is given. Raises UserError saying what there is.
    """
    if "/" not in text and len(text) < 200 and text.isprintable() and (facts := lake.facts("checkpoints", text)) is not None:
        if "state" not in facts.notes:
            raise UserError(f"--as-of {text}: this checkpoint is older than recorded states or was trained on nothing; train again")
        return state_by_id(lake, facts.notes["state"], text)
    found = Path(os.path.expanduser(text)) / STATE_FILE
    if text.isprintable() and os.path.isfile(found):
        return state_by_id(lake, _state_of_folder(found), text)
    if run := [r for r in runs(lake) if r["run"] == text]:
        return state_at(lake, run[-1]["ended"], text)
    if text.isalnum() and len(text) < 200 and lake.storage.exists(state_key(text)):
        return state_by_id(lake, text, text)
    try:
        when = int(datetime.fromisoformat(text).timestamp() * 1e9)
        iso_time(when)
    except (ValueError, OverflowError):  # no time, or one outside of the years that have a name
        known = ", ".join([*lake.partitions("checkpoints"), *(r["run"] for r in runs(lake)[-3:])]) or "none yet"
        raise UserError(
            f"--as-of {text!r}: neither a checkpoint nor a run of this lake (there are {known}), nor a time such as "
            f"{datetime.now().isoformat(timespec='seconds')}"
        ) from None
    return state_at(lake, when, text)


def _state_of_folder(file: Path) -> str:
    try:
        return str(json.loads(file.read_text())["state"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file} is damaged: it does not name a state") from None


STATE_FILE = "data.state"
"""In a checkpoint's folder: the id of the state it was trained on and its triplet partitions, as JSON."""
