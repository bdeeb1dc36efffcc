"""Stores every raw answer by the key of its request, before its row is written, so that no answer is ever paid for twice.

Answers lie under ``<lake>/answers/<kind>/`` in Arrow IPC files that never change, one per flushed batch, sorted by key. A look-up
maps the files and searches their keys, so it reads only the pages it needs and keeps nothing in memory between calls. Files of a
like size are merged by eight, so there are few. Every file has a random name and appears whole, so several processes may write at
once, and nothing is told from process ids. A crash loses what was not flushed. Cost: about 10 us an answer to write, 5 us to find;
disk about the text and 130 bytes.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.annotate.protocol import Answer
from mmret.atomic import replacing
from mmret.errors import UserError

ANSWERS = pa.schema(
    [
        ("key", pa.binary(16)),
        ("written", pa.int64()),  # ns since 1970; of two answers to one key the later counts
        ("text", pa.large_string()),
        ("finish_reason", pa.string()),
        ("tokens_in", pa.int32()),
        ("tokens_out", pa.int32()),
        ("query_id", pa.string()),  # the pictures that the request was about; null in files of older lakes
        ("target_id", pa.string()),
    ]
)
_ABOUT = ("query_id", "target_id")
_FILES_PER_MERGE = 8  # of a like size, into one
_MAX_MERGE_ROWS = 2**16  # at most; bounds the memory of a merge


class AnswerStore:
    """The answers of one lake. Nothing is read when it is opened."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def look_up(self, kind: str, keys: Sequence[str]) -> dict[str, Answer]:
        """The stored answers to ``keys`` (32 hex digits each) by key; those that are not stored are left out.

        >>> AnswerStore(lake.root / "answers").look_up("describe", [annotator.key(request)])
        """
        found: dict[str, tuple[int, Answer]] = {}
        if not keys:
            return {}
        wanted = np.array([bytes.fromhex(k) for k in keys], dtype="S16")
        for path in self._segments(kind):
            table = _open(path)
            if table is None:  # merged away by another process between listing and opening
                return self.look_up(kind, keys)
            have = _keys(table)
            at = np.minimum(np.searchsorted(have, wanted), len(have) - 1)
            hits = np.flatnonzero(have[at] == wanted)
            if not len(hits):
                continue
            rows = table.take(pa.array(at[hits])).select(["written", *Answer._fields[:4]]).to_pylist()
            for i, row in zip(hits.tolist(), rows, strict=True):
                written = row.pop("written")
                if keys[i] not in found or found[keys[i]][0] < written:
                    found[keys[i]] = (written, Answer(**row))
        return {key: answer for key, (_, answer) in found.items()}

    def append(self, kind: str, keys: Sequence[str], answers: Sequence[Answer], about: Sequence[tuple[str, str]] = ()) -> None:
        """Write answers to disk; the next look-up of any process finds them. ``about``: ids of the two pictures of each request, by
        which its answer is found when one of them is to be forgotten."""
        if not keys:
            return
        queries, targets = zip(*about, strict=True) if about else ([None] * len(keys),) * 2
        now = time.time_ns()
        table = pa.table(
            {
                "key": pa.array([bytes.fromhex(k) for k in keys], ANSWERS.field("key").type),
                "written": pa.array([now] * len(keys), pa.int64()),
                "text": pa.array([_storable(a.text) for a in answers], pa.large_string()),
                "finish_reason": [_storable(a.finish_reason) for a in answers],
                "tokens_in": pa.array([a.tokens_in for a in answers], pa.int32()),
                "tokens_out": pa.array([a.tokens_out for a in answers], pa.int32()),
                "query_id": pa.array(queries, pa.string()),
                "target_id": pa.array(targets, pa.string()),
            },
            schema=ANSWERS,
        )
        self._write(kind, table)
        self._merge(kind)

    def remove(self, keys: Collection[str]) -> int:
        """Drop the answers to ``keys``, of every kind; returns how many there were. Nobody else may be writing."""
        wanted = np.array([bytes.fromhex(k) for k in keys], dtype="S16")
        removed = 0
        for path in sorted(self.root.glob("*/[!.]*.arrow")) if len(wanted) else ():
            table = _open(path)
            stay = ~np.isin(_keys(table), wanted)
            if stay.all():
                continue
            if stay.any():
                self._write(path.parent.name, table.filter(pa.array(stay)))
            path.unlink()
            removed += int((~stay).sum())
        return removed

    def keys_about(self, pictures: pa.Array) -> tuple[set[str], set[str]]:
        """Keys of the answers to requests about one of ``pictures``, of every attempt and of judges, and of those of which nobody
        knows what they are about, since an older version stored them."""
        about: set[str] = set()
        unknown: set[str] = set()
        for path in sorted(self.root.glob("*/[!.]*.arrow")):
            table = _open(path)
            if table is None:
                continue
            theirs = pc.or_(*(pc.is_in(table[name], value_set=pictures) for name in _ABOUT))
            about |= {key.hex() for key in table.filter(theirs)["key"].to_pylist()}
            unknown |= {key.hex() for key in table.filter(table["query_id"].is_null())["key"].to_pylist()}
        return about, unknown

    def count(self, kind: str) -> int:
        """Number of rows on disk; a key that is stored twice counts twice."""
        return sum(_rows(p) for p in self._segments(kind))

    # -- files --------------------------------------------------------------------------------------------------------

    def _segments(self, kind: str) -> list[Path]:
        try:
            return sorted(p for p in (self.root / kind).iterdir() if p.suffix == ".arrow" and p.name[0] != ".")
        except FileNotFoundError:
            return []

    def _write(self, kind: str, table: pa.Table) -> None:
        table = table.sort_by([("key", "ascending"), ("written", "descending")]).combine_chunks()
        path = self.root / kind / f"{table.num_rows:09d}-{uuid.uuid4().hex[:16]}.arrow"
        with replacing(path) as aside, aside.open("wb") as file, pa.ipc.new_file(file, ANSWERS) as writer:
            writer.write_table(table)
            writer.close()
            file.flush()
            os.fsync(file.fileno())

    def _merge(self, kind: str) -> None:
        """Merge eight files of a like size into one, where there are as many and no other process is merging."""
        tiers: dict[int, list[Path]] = {}
        for path in self._segments(kind):
            rows = _rows(path)
            if rows * _FILES_PER_MERGE <= _MAX_MERGE_ROWS:
                tiers.setdefault(int(np.log(rows) / np.log(_FILES_PER_MERGE)), []).append(path)
        ripe = next((paths for paths in tiers.values() if len(paths) >= _FILES_PER_MERGE), None)
        if ripe is None:
            return
        with _merge_lock(self.root / kind) as free:
            if not free:
                return
            tables = [t for p in ripe if (t := _open(p)) is not None]
            if len(tables) < len(ripe):
                return  # another process merged them between our listing and our turn
            merged = pa.concat_tables(tables).sort_by([("key", "ascending"), ("written", "descending")]).combine_chunks()
            keys = _keys(merged)
            first = np.concatenate([[True], keys[1:] != keys[:-1]])
            self._write(kind, merged.filter(pa.array(first)) if not first.all() else merged)
            for path in ripe:
                path.unlink(missing_ok=True)


def _storable(text: str) -> str:
    """``text`` without lone surrogates, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _rows(path: Path) -> int:
    return int(path.name.partition("-")[0])


def _open(path: Path) -> pa.Table | None:
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
            for name in _ABOUT if "query_id" not in table.schema.names else ():
                table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
            return table
    except FileNotFoundError:
        return None
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is damaged ({error}); delete it: the answers it held will be asked for again") from None


def _keys(table: pa.Table) -> np.ndarray:
    """The key column, (rows,) of 16 bytes, without a copy."""
    column = table.column("key").combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return np.frombuffer(column.buffers()[1], dtype="S16", count=len(column), offset=column.offset * 16)


@contextmanager
def _merge_lock(folder: Path) -> Iterator[bool]:
    """Lock ``folder`` for the block; False where another process has it. Never waits.

    On a file system without locks everybody may merge: two that do so at once store some answers twice, which does no harm.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        except OSError:
            free = True
        yield free
    finally:
        os.close(handle)
