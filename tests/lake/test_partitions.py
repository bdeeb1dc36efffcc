"""Partition files as they lie in a lake: how they are named, read, encoded and told from what is no partition."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmret.errors import UserError
from mmret.hashing import digest_table, pair_id
from mmret.lake import Facts, Lake
from mmret.lake.partitions import read_facts
from mmret.schemas import EVALUATIONS, TRIPLETS


def rows(*values: float, recipe: str = "a") -> pa.Table:
    return pa.Table.from_pylist([{"recipe": recipe, "benchmark": "b", "metric": "R@1", "value": v} for v in values], EVALUATIONS)


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = Lake(tmp_path / "lake")
    for name, values in (("two", (3.0,)), ("one", (1.0, 2.0)), ("import-x", (9.0,))):
        lake.write("evaluations", name, rows(*values, recipe=name), "x")
    return lake


def values(table: pa.Table) -> list[float]:
    return table["value"].to_pylist()


def test_partitions_are_read_in_order_of_their_names_or_in_the_order_asked_for(lake):
    assert lake.partitions("evaluations") == ["import-x", "one", "two"]
    assert values(lake.read("evaluations")) == [9.0, 1.0, 2.0, 3.0]
    assert values(lake.read("evaluations", ["two", "one"])) == [3.0, 1.0, 2.0]
    assert values(lake.read("evaluations", "two")) == [3.0] and lake.read("evaluations", []).num_rows == 0


def test_columns_and_filters_are_applied_and_an_empty_table_has_the_schema(lake):
    import pyarrow.compute as pc

    some = lake.read("evaluations", columns=["value", "recipe"], filters=pc.field("value") > 1.5)
    assert some.column_names == ["value", "recipe"] and values(some) == [9.0, 2.0, 3.0]
    assert lake.read("evaluations").schema.metadata is None and lake.read("evaluations").schema.equals(EVALUATIONS)
    assert lake.read("triplets").schema.equals(TRIPLETS) and lake.read("triplets").num_rows == 0
    assert lake.read("triplets", columns=["pair_id"]).column_names == ["pair_id"]


def test_a_file_without_a_column_that_is_asked_for_is_damaged_and_not_read_as_nulls(lake):
    short = pa.table({"recipe": ["a"], "metric": ["R@1"]})
    pq.write_table(short, lake.path("evaluations", "one"))
    for columns in (["value"], ["recipe", "value"]):
        with pytest.raises(UserError, match="is damaged .*value"):
            lake.read("evaluations", "one", columns)
    assert lake.read("evaluations", "one", ["recipe"])["recipe"].to_pylist() == ["a"]


def test_files_that_are_written_now_and_other_files_are_no_partitions(lake):
    folder = lake.root / "evaluations"
    (folder / ".three.parquet.123.tmp").write_bytes(b"half")
    (folder / ".hidden.parquet").write_bytes(b"half")
    (folder / "notes.txt").write_text("a person's")
    assert lake.partitions("evaluations") == ["import-x", "one", "two"]
    assert lake.partitions("no such table") == []


def test_shards_are_sealed_manifests_and_no_imports(lake):
    from mmret.schemas import CORPUS_MANIFEST

    for name in ("shard-00001", "import-abc-00000", "shard-00000"):
        lake.write("corpus_manifest", name, CORPUS_MANIFEST.empty_table(), "x")
    assert lake.shards() == ["shard-00000", "shard-00001"]


def test_facts_are_those_of_the_write_and_of_a_strange_file_what_can_be_known(lake):
    facts = lake.write("evaluations", "new", rows(1.0), "inputs", count=np.int64(3), share=np.float32(0.5), path=lake.root)
    assert facts.notes == {"count": 3, "share": 0.5, "path": str(lake.root)} and type(facts.notes["count"]) is int
    assert facts.digest == digest_table(rows(1.0)) and lake.facts("evaluations", "new") == facts
    assert lake.facts("evaluations", "new").written == facts.written > 0
    assert facts == Facts(1, "inputs", facts.digest, facts.notes, written=0), "two that differ in time alone are equal"
    strange = lake.root / "strange.parquet"
    pq.write_table(rows(1.0, 2.0), strange)
    assert (
        read_facts(lake.storage, "strange.parquet") == Facts(2, "", "", {}, 0) and read_facts(lake.storage, "none.parquet") is None
    )
    assert lake.facts("evaluations", "none") is None


def test_the_first_rows_are_read_without_the_rest(lake):
    assert values(lake.head("evaluations", "one", 1)) == [1.0] and values(lake.head("evaluations", "one", 9)) == [1.0, 2.0]
    lake.write("evaluations", "empty", EVALUATIONS.empty_table(), "x")
    assert lake.head("evaluations", "empty", 5).schema.equals(EVALUATIONS) and lake.head("evaluations", "empty", 5).num_rows == 0


def test_columns_are_brought_into_the_order_and_types_of_the_schema_and_others_left_out(lake):
    odd = pa.table({"value": pa.array([1], pa.int32()), "more": ["x"], "metric": ["m"], "benchmark": ["b"], "recipe": ["r"]})
    odd = odd.append_column("gallery", pa.array([7], pa.int32()))
    for name in EVALUATIONS.names:
        if name not in odd.column_names:
            odd = odd.append_column(name, pa.nulls(1, EVALUATIONS.field(name).type))
    lake.write("evaluations", "odd", odd, "x")
    assert lake.read("evaluations", "odd").schema.equals(EVALUATIONS) and values(lake.read("evaluations", "odd")) == [1.0]


def test_one_row_is_found_without_reading_the_column_and_keys_have_no_dictionary(tmp_path):
    lake = Lake(tmp_path)
    many = [{"pair_id": pair_id("a", str(i)), "query_id": f"q{i % 7}", "split": "train", "texts": ["a"]} for i in range(1000)]

    def columns(count: int) -> dict[str, pq.ColumnChunkMetaData]:
        lake.write("triplets", "s", pa.Table.from_pylist(many[:count], TRIPLETS), "x")
        group = pq.ParquetFile(lake.path("triplets", "s")).metadata.row_group(0)
        return {(c := group.column(i)).path_in_schema: c for i in range(group.num_columns)}

    found = columns(1000)
    assert "RLE_DICTIONARY" not in found["pair_id"].encodings and "RLE_DICTIONARY" in found["query_id"].encodings
    assert {c.compression for c in found.values()} == {"ZSTD"}
    large = lake.path("triplets", "s").stat().st_size
    columns(999)
    assert large > lake.path("triplets", "s").stat().st_size + 1000, "filters for columns of ids, from a thousand rows on"


def test_a_table_of_lance_is_made_where_a_schema_is_given_and_asked_for_by_name_otherwise(tmp_path):
    lake = Lake(tmp_path / "lake")
    with pytest.raises(UserError, match="no table 't' yet: run `mmret run"):
        lake.lance("t")
    assert not lake.root.exists(), "looking makes nothing"
    lake.lance("t", pa.schema([("x", pa.int64())])).add(pa.table({"x": [1, 2]}))
    assert lake.lance("t").count_rows() == lake.lance("t", pa.schema([("x", pa.int64())])).count_rows() == 2
    assert lake.has_lance("t") and not lake.has_lance("u")


def test_a_lake_remembers_its_configuration_and_a_new_one_none(tmp_path):
    lake = Lake(tmp_path / "lake")
    assert lake.read_configuration() == {}
    lake.write_configuration({"profile": "demo", "overrides": {"b": 1, "a": 2}})
    assert lake.read_configuration() == {"profile": "demo", "overrides": {"b": 1, "a": 2}}
    assert (lake.root / "lake.yaml").read_text().index("b: 1") < (lake.root / "lake.yaml").read_text().index("a: 2")
    (lake.root / "lake.yaml").write_text("")
    assert lake.read_configuration() == {} and repr(lake) == f"Lake({str(lake.root)!r})"
