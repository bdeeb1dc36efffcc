"""Reads queries that a user wrote: a file of ``{"reference", "text", "target"}``, whose names are resolved to images of the lake.

Names are resolved by :mod:`mmret.search.names`. Cost: the file, and three columns of the manifest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.search.names import ImageNames


@dataclass(frozen=True)
class Query:
    """A composed query: the image to start from, the change wanted, and every image that is right.

    ``wordings``: what else the change is called, ``text`` first; ``negatives``: images that look right and are known, or mined, as
    wrong. Both may be empty.
    """

    reference: str
    text: str
    targets: frozenset[str]
    wordings: tuple[str, ...] = ()
    negatives: frozenset[str] = frozenset()


def read_triplets(lake: Lake, file: Path) -> tuple[list[Query], dict[str, int]]:
    """Read and resolve ``file``; ``target`` may be one path or a list of all that are right.

    Returns the queries and, by reason, how many rows were left out: an image of theirs was rejected at ingest, or the target
    and the reference are the same picture (two names of one file), which is removed from the ranking.
    Raises UserError naming the row for anything malformed, unknown or ambiguous, and where no row is left.

    >>> queries, left_out = read_triplets(lake, Path("queries.jsonl"))
    """
    names = ImageNames(lake)
    queries: list[Query] = []
    skipped: dict[str, int] = {}
    for line, row in _rows(file):
        where = f"{file}, row {line}"
        if not isinstance(row, dict) or not {"reference", "text", "target"} <= row.keys():
            raise UserError(f'{where}: expected an object with "reference", "text" and "target"')
        targets = row["target"] if isinstance(row["target"], list) else [row["target"]]
        if not isinstance(row["text"], str) or not row["text"].strip() or not targets:
            raise UserError(f"{where}: text and target must not be empty")
        reference = names.resolve(row["reference"], where)
        ids = {i for t in targets if (i := names.resolve(t, where)) is not None}
        if reference is None or not ids:
            reason = "rejected_at_ingest"
        elif not ids - {reference}:
            reason = "target_is_the_reference"
        else:
            queries.append(Query(reference, row["text"], frozenset(ids - {reference})))
            continue
        skipped[reason] = skipped.get(reason, 0) + 1
    if not queries:
        raise UserError(f"{file} holds no triplet that can be asked of this corpus {skipped or ''}".strip())
    return queries, skipped


def _rows(file: Path) -> list[tuple[int, Any]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text") from None
    try:
        whole = json.loads(text)
        return list(enumerate(whole if isinstance(whole, list) else [whole], 1))
    except json.JSONDecodeError:
        pass
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append((number, json.loads(line)))
            except json.JSONDecodeError as error:
                raise UserError(f"{file}, line {number}: not JSON ({error})") from None
    return rows
