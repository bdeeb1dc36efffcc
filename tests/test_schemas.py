"""The page of tables: every column says what it holds, and what it says is written into no file."""

import pyarrow as pa
import pytest

from mmret.lake import Lake
from mmret.schemas import COMMENTS, IMAGES, SIGNALS, TABLES, column_comment, vectors


@pytest.mark.parametrize("table", sorted(TABLES))
def test_every_column_of_a_table_says_what_it_holds_and_no_other(table):
    wide = {"images": IMAGES, **{s: vectors(4, TABLES[s]) for s in SIGNALS}}.get(table, TABLES[table])
    assert set(COMMENTS[table]) == set(wide.names)
    for column in wide.names:
        said = column_comment(table, column)
        assert len(said) > 5 and said == said.strip() and not said.removesuffix("...").endswith(".") and "\n" not in said, (
            column,
            said,
        )


def test_there_is_no_word_on_what_is_no_table_or_no_column():
    assert set(COMMENTS) == set(TABLES)
    assert column_comment("pairs", "colour") == column_comment("pears", "pair_id") == ""


@pytest.mark.parametrize("table", sorted(TABLES))
def test_what_columns_say_is_in_no_schema_and_so_in_no_file_and_no_digest(table, tmp_path):
    assert TABLES[table].metadata is None and not any(field.metadata for field in TABLES[table])
    lake = Lake(tmp_path)
    lake.write(table, "all", TABLES[table].empty_table(), "x")
    written = lake.path(table, "all").read_bytes()
    assert not [said for said in COMMENTS[table].values() if said.encode() in written]


def test_the_images_hold_their_file_as_bytes():
    assert IMAGES.field("data").type == pa.large_binary()
