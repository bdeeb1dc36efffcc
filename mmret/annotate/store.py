"""Stores every raw answer by the key of its request, before its row is written, so that no answer is ever paid for twice.

Answers lie in the lake's storage under ``answers/<kind>/`` in files that never change (:mod:`mmret.annotate.segments`), one per
flushed batch, sorted by key. A look-up searches the keys of each, so it reads only the pages it needs and keeps nothing in memory
between calls. Small files are merged (:mod:`mmret.annotate.merging`), so there are few. Every file has a random name and appears
whole, so several processes and machines may write at once, and nothing is told from process ids. A crash loses what was not
flushed. Cost: about 10 us an answer to write, 5 us to find; disk about the text and 130 bytes; in an object store a PUT a flush and
a listing a look-up.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.annotate.merging import merge_like_sizes
from mmret.annotate.protocol import Answer
from mmret.annotate.segments import ABOUT, ANSWERS, Gone, Segment, keys_of, segments_of
from mmret.errors import UserError
from mmret.storage import Storage, open_storage

_LISTINGS = 10
"""Times that a look-up lists anew because files were merged away under it."""


class AnswerStore:
    """The answers of one lake. Nothing is read when it is opened.

    ``storage``: the lake's, or its address.

    >>> AnswerStore(lake.storage).look_up("describe", [annotator.key(request)])
    """

    def __init__(self, storage: Storage | str | Path, folder: str = "answers"):
        self.storage = open_storage(storage) if isinstance(storage, str | Path) else storage
        self._segments = segments_of(self.storage, folder)

    @property
    def is_local(self) -> bool:
        """Whether it lies in a folder of this machine."""
        return self.storage.is_local

    def look_up(self, kind: str, keys: Sequence[str], seen: set[str] | None = None) -> dict[str, Answer]:
        """The stored answers to ``keys`` (32 hex digits each) by key; those that are not stored are left out.

        ``seen``: files that need no second look, since an earlier call with keys among which these were has been through them;
        those that are looked at now are added. So it costs little to ask again and again what others have stored meanwhile.
        """
        found: dict[str, tuple[int, Answer]] = {}
        if not keys:
            return {}
        wanted = np.frombuffer(bytes.fromhex("".join(keys)), dtype="S16")
        for _ in range(_LISTINGS):
            segments = [s for s in self._segments.of(kind) if seen is None or s.key not in seen]
            self._segments.prepare(segments)
            try:
                for segment in segments:
                    self._search(segment, keys, wanted, found)
                    if seen is not None:
                        seen.add(segment.key)
            except Gone:  # merged away by another process between listing and reading
                continue
            return {key: answer for key, (_, answer) in found.items()}
        raise UserError(f"{self.storage.shown(segment.key)} is listed and cannot be read: see that nobody deletes files there")

    def _search(self, segment: Segment, keys: Sequence[str], wanted: np.ndarray, found: dict[str, tuple[int, Answer]]) -> None:
        have = self._segments.keys(segment)
        at = np.minimum(np.searchsorted(have, wanted), len(have) - 1)
        hits = np.flatnonzero(have[at] == wanted)
        if not len(hits):
            return
        table = self._segments.table(segment)
        rows = table.take(pa.array(at[hits])).select(["written", *Answer._fields[:4]]).to_pylist()
        for i, row in zip(hits.tolist(), rows, strict=True):
            written = row.pop("written")
            if keys[i] not in found or found[keys[i]][0] < written:
                found[keys[i]] = (written, Answer(**row))

    def append(self, kind: str, keys: Sequence[str], answers: Sequence[Answer], about: Sequence[tuple[str, str]] = ()) -> None:
        """Store answers; the next look-up of any process finds them. ``about``: ids of the two pictures of each request, by
        which its answer is found when one of them is to be forgotten."""
        if not keys:
            return
        queries, targets = zip(*about, strict=True) if about else ([None] * len(keys),) * 2
        now = time.time_ns()
        table = pa.table(
            {
                "key": pa.FixedSizeBinaryArray.from_buffers(
                    pa.binary(16), len(keys), [None, pa.py_buffer(bytes.fromhex("".join(keys)))]
                ),
                "written": pa.array(np.full(len(keys), now), pa.int64()),
                "text": _texts([a.text for a in answers], pa.large_string()),
                "finish_reason": _texts([a.finish_reason for a in answers], pa.string()),
                "tokens_in": pa.array([a.tokens_in for a in answers], pa.int32()),
                "tokens_out": pa.array([a.tokens_out for a in answers], pa.int32()),
                "query_id": pa.array(queries, pa.string()),
                "target_id": pa.array(targets, pa.string()),
            },
            schema=ANSWERS,
        )
        self._segments.write(kind, table)
        if self.is_local:
            merge_like_sizes(self._segments, kind)

    def remove(self, keys: Collection[str]) -> int:
        """Drop the answers to ``keys``, of every kind; returns how many there were. Nobody else may be writing.

        Other machines drop their copies of what lay in an object store when they next look into it.
        """
        wanted = np.array([bytes.fromhex(k) for k in keys], dtype="S16")
        removed = 0
        for kind, segment in self._all() if len(wanted) else ():
            table = self._segments.table(segment)
            stay = ~np.isin(keys_of(table), wanted)
            if stay.all():
                continue
            if stay.any():
                self._segments.write(kind, table.filter(pa.array(stay)))
            self._segments.delete([segment])
            removed += int((~stay).sum())
        return removed

    def keys_about(self, pictures: pa.Array) -> tuple[set[str], set[str]]:
        """Keys of the answers to requests about one of ``pictures``, of every attempt and of judges, and of those of which nobody
        knows what they are about, since an older version stored them."""
        about: set[str] = set()
        unknown: set[str] = set()
        for _, segment in self._all():
            try:
                table = self._segments.table(segment)
            except Gone:
                continue
            theirs = pc.or_(*(pc.is_in(table[name], value_set=pictures) for name in ABOUT))
            about |= {key.hex() for key in table.filter(theirs)["key"].to_pylist()}
            unknown |= {key.hex() for key in table.filter(table["query_id"].is_null())["key"].to_pylist()}
        return about, unknown

    def count(self, kind: str) -> int:
        """Number of rows stored; a key that is stored twice counts twice."""
        return sum(segment.rows for segment in self._segments.of(kind))

    def _all(self) -> list[tuple[str, Segment]]:
        return [(kind, segment) for kind in self._segments.kinds() for segment in self._segments.of(kind)]


def _texts(texts: list[str], kind: pa.DataType) -> pa.Array:
    """``texts`` as a column, those with lone surrogates made storable."""
    try:
        return pa.array(texts, kind)
    except UnicodeEncodeError:
        return pa.array([_storable(text) for text in texts], kind)


def _storable(text: str) -> str:
    """``text`` without lone surrogates, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
