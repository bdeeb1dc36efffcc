"""A lake of three shards on which only facts and notes count."""

from __future__ import annotations

import pytest

from mmret.lake import Lake
from tests.freshness.empty_tables import current_lake


@pytest.fixture
def lake(tmp_path) -> Lake:
    """Every stage of three shards, current; the pairs of the first two point to each other's images, the third's to its own."""
    return current_lake(tmp_path / "lake")
