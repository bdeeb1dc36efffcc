"""The fingerprint of what a partition would be computed from now, by which one knows whether to compute it again.

A fingerprint is a hash of the stage's version, the settings it reads and the partitions it reads (:mod:`mmret.stages`). It is
compared with the one recorded in the partition's file. Partitions that are read enter by the digest of their content: where
one was computed again with the same result (a merge that found no better neighbour), nothing after it becomes stale. Where a stage
reads some columns of a table, only these count: an edited licence makes triplets stale and no vector. Costs one Parquet footer per
partition read.
"""

from __future__ import annotations

from mmret.lake import IMPORT_PREFIX, Facts, Lake
from mmret.lake.inputs import Inputs, linked_shards
from mmret.settings import Profile
from mmret.stage_declaration import Reads
from mmret.stages import STAGES, UNPARTITIONED


def upstream_of(
    lake: Lake, profile: Profile, table: str, partition: str = UNPARTITIONED, *, pinned: bool = False
) -> list[tuple[str, str]]:
    """(table, partition) of all that ``partition`` of ``table`` is computed from, whether it exists yet or not; with ``pinned``
    also of what counts for the first time alone.
    """
    reads = _reads(profile, table, partition)
    return [
        (read.table, part)
        for read in reads
        if pinned or not read.pinned
        for part in _partitions(lake, read, partition)
        if not read.if_any or STAGES[read.table].applies(lake, profile, part)
    ]


def _reads(profile: Profile, table: str, partition: str) -> tuple[Reads, ...]:
    stage = STAGES[table]
    return (*stage.reads, *stage.conditional_reads(profile, partition))


def _partitions(lake: Lake, read: Reads, partition: str) -> list[str]:
    if read.scope == "same":
        return [partition]
    if read.scope == "named":
        return [read.via]
    if STAGES[read.table].partitions == "whole":
        return [UNPARTITIONED]
    shards = lake.shards()
    if read.scope == "all":
        return [*shards, *(p for p in lake.partitions(read.table) if p.startswith(IMPORT_PREFIX))]
    if read.scope == "linked":
        return linked_shards(lake, read.via, partition)
    return [s for s in shards if (s <= partition if read.scope == "up_to" else s >= partition)]


def inputs_of(lake: Lake, profile: Profile, table: str, partition: str = UNPARTITIONED) -> Inputs | None:
    """What ``partition`` of ``table`` would be computed from now; None while an upstream partition is missing."""
    stage = STAGES[table]
    upstream = []
    for read in _reads(profile, table, partition):
        if read.pinned:
            continue
        columns = read.columns_of(profile, partition)
        for part in _partitions(lake, read, partition):
            if read.if_any and not STAGES[read.table].applies(lake, profile, part):
                continue
            facts = lake.facts(read.table, part)
            if facts is None:
                return None
            if read.if_any and not facts.rows:
                continue
            upstream.append((read.table, part, facts.of_columns(columns)))
    values = stage.fingerprint_settings(profile, partition)
    return Inputs(table, stage.version, values, tuple(upstream), stage.decisions(lake, profile, partition))


def fingerprint_now(lake: Lake, profile: Profile, table: str, partition: str = UNPARTITIONED) -> str | None:
    """Fingerprint of what ``partition`` of ``table`` would be computed from now; None while an upstream partition is missing.

    >>> fingerprint_now(lake, profile, "pairs", "shard-00000") == lake.facts("pairs", "shard-00000").inputs
    """
    inputs = inputs_of(lake, profile, table, partition)
    return inputs and inputs.fingerprint


def is_current(lake: Lake, profile: Profile, table: str, partition: str = UNPARTITIONED) -> bool:
    """Whether nothing is to be computed: the partition is current, or the stage has nothing to do with it."""
    applies = STAGES[table].applies(lake, profile, partition)
    return not applies or current_facts(lake, profile, table, partition) is not None


def current_facts(lake: Lake, profile: Profile, table: str, partition: str = UNPARTITIONED) -> Facts | None:
    """The recorded facts of a partition if it need not be computed again, else None."""
    facts = lake.facts(table, partition)
    if facts is None or facts.inputs != fingerprint_now(lake, profile, table, partition):
        return None
    return None if STAGES[table].needs_retry(profile, facts) else facts
