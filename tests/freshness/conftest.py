"""A lake of three shards on which only facts and notes count."""

from __future__ import annotations

import pytest

from mmret.freshness.survey import survey
from mmret.lake import Lake
from mmret.stages import FINGERPRINTED_STAGES
from tests.freshness.empty_tables import PROFILE, SHARDS, compute, seal


@pytest.fixture
def lake(tmp_path) -> Lake:
    """Every stage of three shards, current; the pairs of the first two point to each other's images, the third's to its own."""
    lake = Lake(tmp_path)
    for shard in SHARDS:
        seal(lake, shard)
    for name, stage in FINGERPRINTED_STAGES.items():
        for partition in {"shard": SHARDS, "whole": ["all"], "recipe": ["demo"]}[stage.partitions]:
            compute(lake, name, partition)
    assert {s.state for s in survey(lake, PROFILE)} == {"current"}
    return lake
