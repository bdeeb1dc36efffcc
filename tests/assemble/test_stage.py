"""Triplets follow what they take from table ``images``: paths and licences of the pictures that their pairs name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from mmret.assemble.stage import assemble_shard
from mmret.freshness.survey import survey
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.lake.inputs import linked_shards
from mmret.settings import EvaluateSettings

OLD, NEW = "shard-00000", "shard-00001"


@pytest.fixture
def lake(small_lake: tuple[Path, dict], tmp_path: Path) -> Lake:
    return Lake(shutil.copytree(small_lake[0], tmp_path / "lake"))


def _assemble(lake: Lake, shard: str = OLD) -> pa.Table:
    assemble_shard(lake, shard, EvaluateSettings(), "inputs")
    return lake.read("triplets", shard)


def _change(lake: Lake, image_id: str, column: str, value: str) -> None:
    """Give ``column`` of one image another value, in whatever shard it lies."""
    for shard in lake.partitions("images"):
        rows = lake.read("images", shard).to_pylist()
        if any(row["image_id"] == image_id for row in rows):
            changed = [{**row, column: value} if row["image_id"] == image_id else row for row in rows]
            lake.write("images", shard, pa.Table.from_pylist(changed, lake.read("images", shard).schema), "changed")


def test_a_changed_licence_of_a_target_in_another_shard_makes_the_triplets_stale_and_they_follow(lake: Lake) -> None:
    others = set(lake.read("images", OLD)["image_id"].to_pylist())
    target = next(t for t in lake.read("triplets", NEW)["target_id"].to_pylist() if t in others)
    _change(lake, target, "licence", "CC-BY-NC-4.0")
    status = next(s for s in survey(lake, resolve(lake)[0]) if (s.table, s.partition) == ("triplets", NEW))
    assert status.state == "stale" and f"images: {OLD} changed" in status.reasons
    restricted = [r for r in _assemble(lake, NEW).to_pylist() if r["target_id"] == target]
    assert restricted and all("CC-BY-NC-4.0" in r["licence"] for r in restricted)


def test_triplets_are_assembled_from_images_of_the_shards_that_their_pairs_point_to_and_of_no_other(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, plain = [], Lake.read
    monkeypatch.setattr(Lake, "read", lambda self, table, *args: read.append((table, *args[:1])) or plain(self, table, *args))
    _assemble(lake, NEW)
    assert ("images", linked_shards(lake, "pairs", NEW)) in read
