"""Earlier states of a lake: each partition file keeps a second name in ``history/``, so what is replaced can still be read.

``<lake>/history/<table>/<partition>/<written>-<digest>.parquet`` is a hard link of the partition's file: no copy, and no space
until the file is replaced. So the lake as it was at a time is a list of files, and so is what a checkpoint was trained on: its
*state*, kept under ``history/states/`` by its own digest. :mod:`mmret.lake.compact` drops versions that nothing refers to.
Cost: two system calls a write; a state of 10,000 partitions is listed in about 0.2 s.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmret.atomic import is_locked, lock_file, temporary, write_text
from mmret.errors import UserError
from mmret.lake.partitions import Facts, PartitionFiles, read_facts, read_files
from mmret.schemas import TABLES

if TYPE_CHECKING:
    import pyarrow as pa

BULKY_TABLES = ("candidates", "neighbours")
"""Large tables that say nothing that ``pairs`` does not: their versions are not protected by checkpoints."""
APPEND_ONLY_TABLES = ("decisions",)
"""Tables whose rows have a time and are only ever added: a version is made where a checkpoint needs it, not at each write."""
LINEAGE_TABLES = tuple(t for t in TABLES if t not in (*BULKY_TABLES, "checkpoints", "evaluations", "teacher_scores"))
"""Tables whose versions stay as long as a checkpoint that was trained on them: the lineage of its triplets."""
STATES = "states"


@dataclass(frozen=True)
class Version:
    """One file that was a partition: since ``written`` (ns since 1970), with the digest of its content."""

    written: int
    digest: str
    path: Path


@dataclass(frozen=True)
class State:
    """The files of a lake's tables at some time; ``name`` is how a person named that state."""

    name: str
    files: Mapping[str, Mapping[str, Path]]
    when: int | None = None
    """Time (ns since 1970), where the state is that of a time."""

    def read(self, table: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
        """Rows of ``table`` in this state, in partition order."""
        return read_files(table, self.files.get(table, {}).values(), columns, filters)


def folder(lake: PartitionFiles) -> Path:
    """Where versions and states lie."""
    return lake.root / "history"


def _name(lake: PartitionFiles, table: str, partition: str, facts: Facts, path: Path) -> Path:
    written = facts.written or path.stat().st_mtime_ns  # files of before versions were kept have no time of their own
    return folder(lake) / table / partition / f"{written:020d}-{facts.digest or '0' * 16}.parquet"


@contextmanager
def new_version(lake: PartitionFiles, table: str, partition: str, facts: Facts) -> Iterator[Callable[[Path], None]]:
    """A context manager around the replacement of a partition's file, so that both the old and the new file become versions.

    It gives a function to call with the new file before that is moved into place. The function links the file into ``history/``; it
    gets its final name there once the block ends without an error. Where the file system has no hard links no version is made, and
    :func:`current_state` copies what a checkpoint needs.
    """
    if table in APPEND_ONLY_TABLES:
        yield lambda aside: None
        return
    with suppress(UserError):  # a damaged file is replaced, not kept
        current_version(lake, table, partition)
    name = folder(lake) / table / partition / f"{facts.written:020d}-{facts.digest}.parquet"
    waiting = temporary(name)

    def link(aside: Path) -> None:
        waiting.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            os.link(aside, waiting)

    try:
        yield link
        with suppress(FileNotFoundError):
            os.replace(waiting, name)
    finally:
        waiting.unlink(missing_ok=True)


def versions(lake: PartitionFiles, table: str, partition: str) -> list[Version]:
    """The versions of a partition that are still there, oldest first; the last is the current one wherever hard links work."""
    found = []
    try:
        names = os.listdir(folder(lake) / table / partition)
    except FileNotFoundError:
        return []
    for name in sorted(n for n in names if n.endswith(".parquet") and not n.startswith(".")):
        written, _, digest = name.removesuffix(".parquet").partition("-")
        found.append(Version(int(written), digest, folder(lake) / table / partition / name))
    return found


def current_version(lake: PartitionFiles, table: str, partition: str, copy: bool = False) -> Path | None:
    """Path in ``history/`` of the partition's current file, linked there where it is not yet; None where that is not possible.

    ``copy``: copy it instead, on a file system without hard links.
    """
    current = lake.path(table, partition)
    try:
        inode = current.stat().st_ino
    except FileNotFoundError:
        return None
    for version in reversed(versions(lake, table, partition)):
        try:
            if version.path.stat().st_ino == inode:
                return version.path
        except FileNotFoundError:
            continue
    aside = temporary(folder(lake) / table / partition / "version")
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        os.link(current, aside)
    except OSError:
        if not copy:
            return None
        shutil.copy2(current, aside)  # the file is replaced as a whole, never changed, so the copy is of one version
    name = _name(lake, table, partition, read_facts(aside), aside)
    os.replace(aside, name)
    aside.unlink(missing_ok=True)  # renaming one link of a file to another does nothing
    return name


def current_state(lake: PartitionFiles, tables: tuple[str, ...] = LINEAGE_TABLES, name: str = "now") -> State:
    """The lake's state now: the files of ``tables`` under names that do not change, whatever is written meanwhile."""
    files = {t: {p: path for p in lake.partitions(t) if (path := current_version(lake, t, p, copy=True))} for t in tables}
    return State(name, files)


def record_state(lake: PartitionFiles, state: State) -> str:
    """Write what ``state`` consists of to ``history/states/``; returns its id, the digest of what it lists."""
    listed = {t: {p: path.stem.partition("-")[2] for p, path in parts.items()} for t, parts in state.files.items()}
    text = json.dumps(listed, sort_keys=True, indent=0)
    state_id = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = state_path(lake, state_id)
    if not path.is_file():
        write_text(path, text)
    return state_id


def read_state(lake: PartitionFiles, state_id: str) -> dict[str, dict[str, str]]:
    """Digests by table and partition of a recorded state. Raises UserError where it is not there."""
    path = state_path(lake, state_id)
    if not path.is_file():
        raise UserError(f"{lake.root} has no recorded state {state_id}: the checkpoint is of another lake, or history/ was deleted")
    return json.loads(path.read_text())


def state_by_id(lake: PartitionFiles, state_id: str, name: str) -> State:
    """The files of a recorded state. Raises UserError naming the first that is gone."""
    files: dict[str, dict[str, Path]] = {t: {} for t in LINEAGE_TABLES}
    for table, parts in read_state(lake, state_id).items():
        for partition, digest in parts.items():
            have = [v.path for v in versions(lake, table, partition) if v.digest == digest]
            if not have and state_id in forgotten_states(lake):
                raise UserError(
                    f"{name}: its rows can no longer be listed: {forgotten_states(lake)[state_id]:,} pictures in them have opted "
                    "out, and what held them was dropped with `mmret compact --forget-opted-out`"
                )
            if not have:
                raise UserError(f"{name}: {table} of {partition} with digest {digest} is not in {folder(lake)} any more")
            files.setdefault(table, {})[partition] = have[-1]
    return State(name, files)


def state_path(lake: PartitionFiles, state_id: str) -> Path:
    """The file that lists a recorded state."""
    return folder(lake) / STATES / f"{state_id}.json"


@contextmanager
def protect_state(lake: PartitionFiles, state_id: str) -> Iterator[None]:
    """Inside the block the state is not dropped: for work on it while no checkpoint refers to it yet."""
    with lock_file(folder(lake) / STATES / f"{state_id}.{uuid.uuid4().hex[:12]}.held"):
        yield


def protected_states(lake: PartitionFiles) -> set[str]:
    """Ids of the states that somebody protects (:func:`protect_state`); marks that a killed process left are removed."""
    found = set()
    for mark in (folder(lake) / STATES).glob("*.held"):
        if is_locked(mark):
            found.add(mark.name.partition(".")[0])
    return found


def dropped_until(lake: PartitionFiles) -> dict[str, int]:
    """Time (ns) before which replaced versions have been dropped: ``bulky`` of bulky tables, ``kept`` of the others; 0: none."""
    path = folder(lake) / "cleaned"
    return {"kept": 0, "bulky": 0} | (json.loads(path.read_text()) if path.is_file() else {})


def note_dropped(lake: PartitionFiles, table: str, replaced: int) -> None:
    """Note that a version of ``table`` that was replaced at ``replaced`` (ns) is about to be dropped: first, so that a crash leaves
    no gap unsaid."""
    if table in APPEND_ONLY_TABLES:  # of which a state at a time does not speak
        return
    kind, watermark = "bulky" if table in BULKY_TABLES else "kept", dropped_until(lake)
    if replaced > watermark[kind]:
        write_text(folder(lake) / "cleaned", json.dumps(watermark | {kind: replaced}))


def note_forgotten(lake: PartitionFiles, states: Mapping[str, int]) -> None:
    """Note that rows of ``states`` are about to be dropped because pictures in them have opted out, and how many pictures."""
    known = forgotten_states(lake)
    if new := {state: n for state, n in states.items() if n > known.get(state, -1)}:
        write_text(folder(lake) / "forgotten.json", json.dumps(known | new, indent=2) + "\n")


def forgotten_states(lake: PartitionFiles) -> dict[str, int]:
    """By the id of a state whose rows were dropped because pictures in them have opted out: how many pictures."""
    path = folder(lake) / "forgotten.json"
    return json.loads(path.read_text()) if path.is_file() else {}


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
    files: dict[str, dict[str, Path]] = {t: {} for t in tables}
    for table in tables:
        for partition in lake.partitions(table):
            current_version(lake, table, partition, copy=table in LINEAGE_TABLES)
            if then := [v for v in versions(lake, table, partition) if v.written <= when]:
                files[table][partition] = then[-1].path
    if not any(files.values()):
        raise UserError(f"--as-of {name}: {lake.root} had no tables at {iso_time(when)}")
    return State(name, files, when)


def log_run(lake: PartitionFiles, name: str, started: int, computed: Mapping[str, int]) -> None:
    """Add a finished run to ``history/runs.jsonl``, so that the state it left can be asked for by its name."""
    line = json.dumps({"run": name, "started": started, "ended": time.time_ns(), "computed": dict(computed)})
    folder(lake).mkdir(parents=True, exist_ok=True)
    with open(folder(lake) / "runs.jsonl", "a", encoding="utf-8") as log:
        log.write(line + "\n")


def runs(lake: PartitionFiles) -> list[dict[str, Any]]:
    """Finished runs, oldest first: run, started and ended (ns), rows computed per table. A line cut by a crash is passed over."""
    path, found = folder(lake) / "runs.jsonl", []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


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
    if text.isalnum() and len(text) < 200 and state_path(lake, text).is_file():
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
