"""A lake's path is never a pattern: whatever signs a folder's name has, its own files are read and no neighbour's."""

import pyarrow as pa
import pytest

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.data_sets import data_set
from mmret.schemas import TABLES
from mmret.warehouse import catalogue_path, connect, open_catalogue, refresh_catalogue
from mmret.web.tables import Tables, run_query

SIGNS = [
    "split=train", "a*b", "a**b", "a?b", "a[xy]b", "a[!x]b", "a[b", "a]b", "a{x,y}b", "a{000..003}b", "a%20b", "a%b", "a#b", "a b",
    " a", "a'b", 'a"b', "a\\b", "a?\\*b", "~", "~a", "a;b", "a:b", "a&b", "a$HOME", "`a`", "é", "e\u0301", "<b>", "s3:",
    "pipe:cat a", "a|b", "x" * 200, "\N{GRINNING FACE}",
]  # fmt: skip
NEIGHBOURS = ["axb", "ab", "ayb", "a", "b", "a/b", "split=test", "a000b", "a b", "aXXb", "a?xb"]


def small_table(lake: Lake, source: str) -> Lake:
    row = {f.name: None for f in TABLES["rejects"]} | {"source": source}
    lake.write("rejects", "shard-00000", pa.Table.from_pylist([row], TABLES["rejects"]), inputs="")
    manifest = {f.name: None for f in TABLES["corpus_manifest"]}
    lake.write("corpus_manifest", "shard-00000", pa.Table.from_pylist([manifest], TABLES["corpus_manifest"]), inputs="")
    triplet = {f.name: None for f in TABLES["triplets"]} | {"pair_id": source, "split": "test"}
    lake.write("triplets", "shard-00000", pa.Table.from_pylist([triplet], TABLES["triplets"]), inputs="")
    return lake


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """A folder in which every neighbour that a pattern could meet is a lake too."""
    root = tmp_path_factory.mktemp("street")
    for name in NEIGHBOURS:
        small_table(Lake(root / name / "lake"), "a neighbour's")
    return root


@pytest.mark.parametrize("sign", SIGNS, ids=ascii)
def test_a_lake_is_read_alone_and_whole_below_a_folder_of_any_name(street, sign):
    lake = small_table(Lake(street / sign / "lake"), "own")
    asked = "SELECT source FROM rejects UNION ALL SELECT split FROM triplets"
    for open_ in (connect, open_catalogue):
        with open_(lake) as connection:
            assert connection.execute(asked).fetchall() == [("own",), ("test",)], open_.__name__
    assert refresh_catalogue(lake) is False, "it is fresh, or DuckDB cannot name it"
    assert catalogue_path(lake).is_file() is not any(s in sign for s in "?\\")
    confined = run_query(Tables(lake), "SELECT count(*), min(pair_id) FROM triplets_by_shard", 5)
    assert confined.rows == [(1, "own")]
    with pytest.raises(UserError, match="Permission"):
        run_query(Tables(lake), "SELECT * FROM read_parquet('/**/rejects/*.parquet')", 5)


@pytest.mark.parametrize("sign", ["a?b", "a%20b", "a#b", "a\\b", "a b", "split=train", "a{x,y}b*", "a'b\""], ids=ascii)
def test_a_lance_table_is_opened_and_kept_up_below_a_folder_of_any_name(tmp_path, sign):
    lake = Lake(tmp_path / sign / "lake")
    table = lake.lance("t", pa.schema([("image_id", pa.string())]))
    for n in range(3):
        table.add(pa.table({"image_id": [str(n)]}))
    assert data_set(table).count_rows() == 3 and lake.storage.list("lance/t.lance/data")
    data_set(table).optimize.compact_files()
    assert len(data_set(lake.lance("t")).get_fragments()) == 1
    assert [p.name for p in tmp_path.iterdir()] == [sign.split("/")[0]], "nothing beside it"


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x01b", "a\x7fb"], ids=ascii)
def test_a_lake_s_path_with_control_characters_is_refused_in_one_sentence(tmp_path, name):
    with pytest.raises(UserError, match="control character"):
        Lake(tmp_path / name)
    with pytest.raises(UserError, match="not UTF-8"):
        Lake(tmp_path / "a\udcff")
