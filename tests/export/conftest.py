"""A lake whose every text is hostile, and rows to compare with what a reader returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.settings import Profile
from tests.hostile import make_hostile


@pytest.fixture(scope="session")
def hostile_lake(small_lake, tmp_path_factory) -> Path:
    """Read only."""
    return make_hostile(small_lake[0], tmp_path_factory.mktemp("hostile") / "lake")


def rows_of(lake: Lake, split: str | None = None) -> list[dict]:
    """The table's rows by pair id, for comparison with what a reader returns."""
    rows = lake.read("triplets").to_pylist()
    return sorted((r for r in rows if split in (None, r["split"])), key=lambda r: r["pair_id"])


def as_json(value: object) -> object:
    return json.loads(json.dumps(value))


def profile(lake: Lake) -> Profile:
    """The settings that the lake was last run with."""
    return resolve(lake)[0]
