"""Lake: a file is whole or absent, facts say what it was made from, the digest is of content alone."""

import os

import pyarrow as pa
import pytest

from mmret.atomic import replacing, temporary
from mmret.errors import UserError
from mmret.hashing import digest_table
from mmret.lake import Lake
from mmret.schemas import EVALUATIONS


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
