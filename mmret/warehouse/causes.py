"""Why a table differs between two states: settings, code versions, decisions and tables read, from what each partition recorded.

Reads a file of a few hundred bytes per differing partition and state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmret.freshness.differences import NOT_RECORDED, compare_inputs
from mmret.lake import Lake
from mmret.lake.inputs import read_inputs
from mmret.stages import FINGERPRINTED_TABLES
from mmret.warehouse.files import PartitionFile


@dataclass(frozen=True)
class Causes:
    """Reasons in words, each with the number of partitions (of what comes from outside: rows) it holds for. ``own``: settings, code
    versions, new partitions; ``upstream``: tables that are read and differ too; they have causes of their own."""

    own: Mapping[str, int] = field(default_factory=dict)
    upstream: Mapping[str, int] = field(default_factory=dict)


def causes_of(
    lake: Lake, table: str, before: Mapping[str, PartitionFile], after: Mapping[str, PartitionFile], partitions: Sequence[str]
) -> Causes:
    """Why ``partitions`` of ``table`` differ between the files ``before`` and ``after``."""
    own: Counter[str] = Counter()
    upstream: Counter[str] = Counter()
    for partition in partitions:
        if partition not in before or partition not in after:
            own["new partition" if partition in after else "partition gone"] += 1
            continue
        old, new = (files[partition].facts for files in (before, after))
        if table not in FINGERPRINTED_TABLES:
            continue
        if old.inputs == new.inputs:
            answered = old.notes.get("unanswered", 0) != new.notes.get("unanswered", 0)
            own["requests without an answer were sent again" if answered else "computed again from the same inputs"] += 1
            continue
        recorded = [read_inputs(lake, facts.inputs) for facts in (old, new)]
        if recorded[0] is None or recorded[1] is None:
            own[NOT_RECORDED] += 1
            continue
        found = compare_inputs(*recorded)
        own.update(found.own)
        upstream.update({line.partition(":")[0] for line in found.upstream})
    return Causes(dict(own.most_common()), dict(upstream.most_common()))
