"""Lake: a file is whole or absent, facts say what it was made from, the digest is of content alone."""

import os

import pyarrow as pa
import pytest

from mmret.atomic import replacing, temporary
from mmret.errors import UserError
from mmret.freshness.survey import Snapshot
from mmret.hashing import digest_table
from mmret.lake import Lake
from mmret.lake.configuration import note_refused, resolve
from mmret.schemas import EVALUATIONS, TRIPLETS


def rows(*values: float) -> pa.Table:
    return pa.Table.from_pylist([{"recipe": "a", "benchmark": "b", "metric": "R@1", "value": v} for v in values], EVALUATIONS)


def test_what_is_written_is_what_is_read_with_its_facts(tmp_path):
    lake = Lake(tmp_path / "lake")
    facts = lake.write("evaluations", "demo", rows(1.0, 2.0), inputs="abc", seconds=3)
    assert lake.facts("evaluations", "demo") == facts
    assert (facts.rows, facts.inputs, facts.notes) == (2, "abc", {"seconds": 3})
    assert lake.read("evaluations").to_pylist() == rows(1.0, 2.0).to_pylist()
    assert lake.head("evaluations", "demo", 1).num_rows == 1


def test_digest_depends_on_content_and_order_not_on_chunks_or_metadata():
    whole = rows(1.0, 2.0, 3.0)
    chunked = pa.concat_tables([rows(1.0), rows(2.0), rows(3.0)]).replace_schema_metadata({"a": "b"})
    assert digest_table(whole) == digest_table(chunked)
    assert digest_table(whole.slice(1)) == digest_table(rows(2.0, 3.0))
    assert digest_table(whole) != digest_table(rows(3.0, 2.0, 1.0))


def test_a_failed_write_leaves_the_old_file_whole(tmp_path):
    lake = Lake(tmp_path)
    lake.write("evaluations", "demo", rows(1.0), inputs="old")
    with pytest.raises((pa.ArrowInvalid, KeyError)):
        lake.write("evaluations", "demo", pa.table({"recipe": ["a"]}), inputs="new")
    assert lake.facts("evaluations", "demo").inputs == "old"


def test_sweep_removes_what_dead_processes_left_and_nothing_else(tmp_path):
    lake = Lake(tmp_path)
    lake.write("evaluations", "demo", rows(1.0), inputs="x")
    stale = temporary(tmp_path / "evaluations" / "demo.parquet")
    stale.write_text("half")
    folder = temporary(tmp_path / "out")
    (folder / "inner").mkdir(parents=True)
    with replacing(tmp_path / "evaluations" / "other.parquet") as mine:
        assert lake.sweep() == 2
        assert not stale.exists() and not folder.exists() and mine.exists()
    assert lake.partitions("evaluations") == ["demo", "other"]


def test_a_damaged_partition_and_another_vector_width_say_what_to_do(tmp_path):
    lake = Lake(tmp_path)
    lake.write("evaluations", "demo", rows(1.0), inputs="x")
    os.truncate(lake.path("evaluations", "demo"), 20)
    with pytest.raises(UserError, match="damaged"):
        lake.facts("evaluations", "demo")
    lake.lance("t", pa.schema([("x", pa.int64())]))
    with pytest.raises(UserError, match="columns"):
        lake.lance("t", pa.schema([("y", pa.int64())]))


@pytest.mark.parametrize("where", ["a folder", "an object store"])
def test_settings_that_somebody_changed_meanwhile_are_not_written_over(where, request, tmp_path):
    lake = Lake(tmp_path / "lake") if where == "a folder" else request.getfixturevalue("object_lake")
    lake.write_configuration(resolve(lake, sources=["shapes:9"])[1])
    one, other = resolve(lake, overrides={"mine.k": 20})[1], resolve(lake, overrides={"mine.k": 30})[1]
    lake.write_configuration(one)
    with pytest.raises(UserError, match="lake.yaml was changed by somebody else meanwhile"):
        lake.write_configuration(other)
    assert lake.read_configuration()["overrides"] == {"mine.k": 20}
    lake.write_configuration(one)  # what is there already is no change
    assert note_refused(lake, ["shapes:9"]) and lake.read_configuration()["refused"] == ["shapes:9"]


def test_a_lake_in_an_object_store_has_the_partitions_of_one_in_a_folder(object_lake, tmp_path):
    local, rows = (
        Lake(tmp_path / "local"),
        pa.Table.from_pylist([{"pair_id": str(n), "split": "train"} for n in range(50)], TRIPLETS),
    )
    for lake in (local, object_lake):
        for name in ("shard-00000", "shard-00001"):
            lake.write("triplets", name, rows, "x", note=1)
        assert lake.partitions("triplets") == ["shard-00000", "shard-00001"] and lake.exists("triplets", "shard-00001")
        assert lake.head("triplets", "shard-00000", 3)["pair_id"].to_pylist() == ["0", "1", "2"]
        assert lake.local_file("triplets", "shard-00000").is_file()
    assert object_lake.read("triplets").equals(local.read("triplets"))
    facts = [
        (lake.facts("triplets", "shard-00000"), Snapshot(lake).facts("triplets", "shard-00001")) for lake in (local, object_lake)
    ]
    assert facts[0] == facts[1] and Snapshot(object_lake).facts("triplets", "shard-00002") is None
    object_lake.remove("triplets", "shard-00001")
    assert object_lake.partitions("triplets") == ["shard-00000"] and object_lake.facts("triplets", "shard-00001") is None
    with pytest.raises(UserError, match="in a local folder only"):
        object_lake.path("triplets", "shard-00000")
