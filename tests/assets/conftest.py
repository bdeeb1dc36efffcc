"""A lake of its own for tests that write, and a Dagster instance that knows its shards."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from assets.partitions import register
from mmret.lake import Lake
from mmret.lake.configuration import resolve


@pytest.fixture
def lake(small_lake: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A copy of the small lake, up to date, as this process's lake."""
    shutil.copytree(small_lake[0], tmp_path / "lake", ignore=shutil.ignore_patterns(".dagster"))
    monkeypatch.setenv("MMRET_LAKE", str(tmp_path / "lake"))
    return Lake(tmp_path / "lake")


@pytest.fixture
def instance(lake: Lake) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as found:
        register(found, lake.shards(), resolve(lake)[0].recipes)
        yield found
