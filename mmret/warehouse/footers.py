"""What a catalogue keeps of the footers it was built from, so that the next one reads those of new partitions alone.

Of a local lake; what this machine has read of an object store is kept by :mod:`mmret.warehouse.object_files`. A footer is known
again by its file's token: inode, time and size. Cost: some 4 us a partition to read back, 150 bytes to keep.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmret.lake.partitions import Facts
from mmret.warehouse.files import Files


@dataclass(frozen=True)
class Footer:
    """Of the file with ``token``: facts, and the names of its columns."""

    token: str
    facts: Facts
    columns: tuple[str, ...]


Footers = Mapping[tuple[str, str], Footer]
"""By table and partition."""


def to_json(files: Files) -> str:
    """``files`` as :func:`from_json` reads them."""
    kept: dict[str, Any] = {}
    for table, parts in files.items():
        columns: dict[tuple[str, ...], int] = {}
        rows = []
        for partition, file in parts.items():
            facts = file.facts
            known = [facts.rows, facts.inputs, facts.digest, facts.notes, facts.written, facts.since]
            rows.append([partition, file.token, columns.setdefault(file.columns, len(columns)), known])
        kept[table] = {"columns": list(columns), "partitions": rows}
    return json.dumps(kept, separators=(",", ":"))


def from_json(text: str) -> dict[tuple[str, str], Footer]:
    """The footers that :func:`to_json` wrote down."""
    found = {}
    for table, kept in json.loads(text).items():
        columns = [tuple(names) for names in kept["columns"]]
        for partition, token, which, facts in kept["partitions"]:
            found[table, partition] = Footer(token, Facts(*facts), columns[which])
    return found
