"""What a source holds that became neither an image nor a reject: counted by kind, each kind with its first example.

A row says what became of one picture; a remark says what was noticed on the way: a file that is not understood, a caption that
another one overruled, a text whose encoding was guessed. Memory: one entry a kind, whatever the number of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from mmret.lake import Lake
from mmret.schemas import REMARKS

PARTITION = "all"
_KINDS = 1000
_LONGEST = 500  # characters of an example or detail that are kept


@dataclass(slots=True)
class Remark:
    """``count`` things of one kind; ``path`` and ``detail`` are those of the first of them."""

    remark: str
    count: int
    path: str | None
    detail: str | None


class Note(Protocol):
    """What something that is noticed is told to: :meth:`Remarks.add`, or what puts a folder before ``path``."""

    def __call__(self, remark: str, path: str | None = None, detail: str | None = None, count: int = 1) -> None: ...


class Remarks:
    """Collects the remarks of one source while it is listed.

    >>> remarks = Remarks()
    >>> remarks.add("unknown_file", "notes.pdf", "no picture, text, table or tar by its suffix")
    >>> [(r.remark, r.count, r.path) for r in remarks]
    [('unknown_file', 1, 'notes.pdf')]
    """

    def __init__(self) -> None:
        self._found: dict[str, Remark] = {}

    def add(self, remark: str, path: str | None = None, detail: str | None = None, count: int = 1) -> None:
        """Count ``count`` more things of the kind ``remark``, a slug such as ``unknown_file``. The first example is kept."""
        if found := self._found.get(remark):
            found.count += count
        elif count and len(self._found) < _KINDS:
            self._found[remark] = Remark(remark, count, _storable(path), _storable(detail))

    def clear(self) -> None:
        """Forget everything: a listing begins."""
        self._found.clear()

    def __iter__(self) -> Iterator[Remark]:
        """Most frequent first."""
        return iter(sorted(self._found.values(), key=lambda r: (-r.count, r.remark)))

    def __len__(self) -> int:
        return len(self._found)


def write_remarks(lake: Lake, listed: Mapping[str, Remarks], sources: Iterable[str], inputs: str) -> int:
    """Replace the remarks of the sources that were ``listed`` ({root: remarks}); those of ``sources`` that were not keep theirs.

    Writes nothing where nothing changes, so a lake without any has no file for them. Returns the number of remarks in the lake.
    """
    before = lake.read("remarks").to_pylist()
    rows = rows_of_remarks(before, listed, sources)
    if rows != before:
        lake.write("remarks", PARTITION, pa.Table.from_pylist(rows, schema=REMARKS), inputs)
    return len(rows)


def rows_of_remarks(before: list[dict[str, Any]], listed: Mapping[str, Remarks], sources: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of table ``remarks`` after :func:`write_remarks`, where they were ``before``."""
    kept = set(sources) - set(listed)
    rows = [row for row in before if row["root"] in kept]
    for root, remarks in listed.items():
        rows += [{"root": root, "remark": r.remark, "count": r.count, "path": r.path, "detail": r.detail} for r in remarks]
    return sorted(rows, key=lambda row: (-row["count"], row["root"], row["remark"]))


def _storable(text: str | None) -> str | None:
    return text and text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")[:_LONGEST]
