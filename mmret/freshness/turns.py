"""Which stages a run launches, partition after partition: from the first that is not current on.

The runner asks here before each launch, and so does whoever wants to know whether there is anything to launch at all
(:mod:`mmret.freshness.up_to_date`), so that both decide alike. Costs a Parquet footer a partition that is read.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmret.freshness.fingerprints import is_current
from mmret.lake import Lake
from mmret.settings import Profile
from mmret.stages import STAGES, UNPARTITIONED


def turns_of(lake: Lake, profile: Profile, stage: str) -> list[str | None]:
    """The partitions that a run looks at for ``stage``, in its order; ``[None]`` for a table that has only one."""
    if STAGES[stage].partitions == "whole":
        return [None]
    return [*lake.shards()] if STAGES[stage].partitions == "shard" else [*profile.in_training_order(profile.train)]


def first_stale(lake: Lake, profile: Profile, stages: Sequence[str], partition: str | None) -> list[str]:
    """``stages`` from the first that is not current on, since those after it are computed from it; none where all are."""
    key = partition or UNPARTITIONED
    for i, stage in enumerate(stages):
        if not is_current(lake, profile, stage, key):
            return [later for later in stages[i:] if STAGES[later].applies(lake, profile, key)]
    return []
