"""The fingerprint of what triplets read from table ``images``: it follows the pictures their pairs name, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from mmret.assemble.stage import assemble_shard, images_fingerprint
from mmret.ingest import pair_images
from mmret.lake import Lake
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


def test_a_changed_licence_of_a_target_in_another_shard_changes_the_fingerprint_and_the_triplets(lake: Lake) -> None:
    others = set(lake.read("images", OLD)["image_id"].to_pylist())
    target = next(t for t in _assemble(lake, NEW)["target_id"].to_pylist() if t in others)
    before = images_fingerprint(lake, NEW)
    assert before == lake.facts("triplets", NEW).notes["images_read"]["fingerprint"]
    _change(lake, target, "licence", "CC-BY-NC-4.0")
    assert images_fingerprint(lake, NEW) != before
    restricted = [r for r in _assemble(lake, NEW).to_pylist() if r["target_id"] == target]
    assert restricted and all("CC-BY-NC-4.0" in r["licence"] for r in restricted)


def test_a_changed_path_changes_the_fingerprint_and_a_changed_caption_does_not(lake: Lake) -> None:
    query = _assemble(lake)["query_id"][0].as_py()
    before = images_fingerprint(lake, OLD)
    _change(lake, query, "caption", "something else")
    assert images_fingerprint(lake, OLD) == before
    _change(lake, query, "path", "elsewhere.png")
    assert images_fingerprint(lake, OLD) != before


def test_a_new_shard_of_images_that_no_pair_names_leaves_the_fingerprint_as_it_is(lake: Lake) -> None:
    _assemble(lake)
    before = images_fingerprint(lake, OLD)
    schema = lake.read("images", OLD).schema
    lake.write("images", "shard-00009", pa.Table.from_pylist([{"image_id": "f" * 32, "shard": "shard-00009"}], schema), "new")
    assert images_fingerprint(lake, OLD) == before


def test_the_noted_fingerprint_is_the_one_that_reading_gives_and_spares_the_reading(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = images_fingerprint(lake, NEW)
    facts = lake.facts("triplets", OLD)
    lake.write("triplets", OLD, lake.read("triplets", OLD), facts.inputs)  # as an earlier version wrote it, without the note
    read = images_fingerprint(lake, OLD)
    _assemble(lake)
    monkeypatch.setattr(pair_images, "read_noted", lambda *given: pytest.fail("the images were read"))
    assert images_fingerprint(lake, OLD) == read != fresh


def test_a_shard_without_pairs_reads_no_images(lake: Lake) -> None:
    facts = lake.facts("pairs", OLD)
    lake.write("pairs", OLD, lake.read("pairs", OLD).slice(0, 0), facts.inputs)
    assert images_fingerprint(lake, OLD) is None and images_fingerprint(lake, "shard-00042") is None
